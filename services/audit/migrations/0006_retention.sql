-- Retention: how long an entry is kept is decided when it is sealed, and is where it lies.
--
-- Every entry has `kept_to`: the first day of a month (UTC), or infinity. `entries` is partitioned by it, a partition a
-- month, so everything in a partition ends on the same day and pruning drops it whole. No default partition: entries
-- that are kept for ever lie in `entries_for_ever`, and a month is opened by whoever first seals into it. `leaves`
-- repeats it, because which entries were pruned must be known when their rows are gone.
--
-- Pruning a scope's month is three steps, each committed by itself (logs.pruning_to, prunings, logs.pruned_to):
--   closed     nothing more is sealed into it
--   announced  an event with the number and the digest of what ends is on its way into the scope's own log
--   pruned     that event is sealed, and no hold is in force: readers no longer see the entries
-- A partition is dropped when the month is pruned in every scope that has an entry in it.
--
-- What the service's role can do about it: walk these steps forward, no faster than this database's clock and never
-- past a hold, and have a month dropped in which nobody has anything left. It owns nothing and drops nothing itself.
--
-- Three transactions, so that nobody waits while the rows of a large log are looked at: the one that looks at them
-- (validate) lets others read and append, and the swap that follows need not look again. Each waits five seconds for
-- its lock at the most, and then fails; running the migration again goes on.

-- migrate:up transaction:false
begin;
set local lock_timeout = '5s';
alter table audit.leaves add column if not exists kept_to date not null default 'infinity';
alter table audit.entries add column if not exists kept_to date not null default 'infinity';
alter table audit.entries_default drop constraint if exists for_ever;
alter table audit.entries_default add constraint for_ever check (kept_to = 'infinity') not valid;
commit;

begin;
do $$
declare
    given record;
begin
    for given in select conname from pg_constraint
                  where conrelid = 'audit.entries_default'::regclass and contype = 'c' and not convalidated
    loop
        execute format('alter table audit.entries_default validate constraint %I', given.conname);
    end loop;
end
$$;
commit;

begin;
set local lock_timeout = '5s';

-- The same table, partitioned by another column; what there was becomes one of its partitions, as it is.
alter table audit.entries detach partition audit.entries_default;
alter table audit.entries rename to entries_before;
alter table audit.entries_default rename to entries_for_ever;
create table audit.entries (like audit.entries_before including defaults including constraints including storage
                                                      including comments) partition by list (kept_to);
do $$
declare
    given record;
begin
    -- That an index occurs once is held by `leaves`, and in each partition by a key of its own.
    for given in
        select regexp_replace(pg_get_indexdef(indexrelid), '^CREATE INDEX \S+ ON ONLY \S+', 'create index on audit.entries')
               as definition
          from pg_index where indrelid = 'audit.entries_before'::regclass and not indisunique
    loop
        execute given.definition;
    end loop;
    for given in select * from pg_policies where schemaname = 'audit' and tablename = 'entries_before' loop
        execute format('create policy %I on audit.entries as %s for %s to %s %s %s', given.policyname, given.permissive,
                       given.cmd, array_to_string(given.roles, ', '),
                       'using (' || given.qual || ')', 'with check (' || given.with_check || ')');
    end loop;
end
$$;
select app.protect('audit.entries', tenant => 'custom', privileges => 'select, insert');
create trigger append_only before update or delete or truncate on audit.entries
    for each statement execute function audit.refuse_change();
create trigger append_only_row before update or delete on audit.entries
    for each row execute function audit.refuse_change();
alter table audit.entries attach partition audit.entries_for_ever for values in ('infinity');
drop table audit.entries_before;

alter table audit.logs add column pruning_to date not null default '-infinity',
                       add column pruned_to date not null default '-infinity',
                       add constraint pruned_in_order check (pruned_to <= pruning_to);
grant update (pruning_to, pruned_to) on audit.logs to wardmesh_audit;

-- What is pruned is gone for everybody, also while another scope's hold keeps its partition.
create policy not_pruned on audit.entries as restrictive for select to wardmesh_audit using
    (kept_to > (select coalesce(max(pruned_to), '-infinity') from audit.logs where scope_id = (select app.scope_id())));

create table audit.retention (
    scope_id   app.scope_id not null default app.scope_id(),
    revision   integer not null check (revision > 0),
    -- Category to days; a category that is not there is kept for ever.
    days       jsonb not null check (jsonb_typeof(days) = 'object'),
    changed_by app.principal_id not null default app.principal_id(),
    changed_at timestamptz not null default now(),
    primary key (scope_id, revision)
);
comment on table audit.retention is 'How long entries are kept, by category; the highest revision holds for what is sealed next.';

create table audit.holds (
    scope_id  app.scope_id not null default app.scope_id(),
    number    integer not null check (number > 0),
    reason    text not null check (char_length(reason) between 1 and 256),
    placed_by app.principal_id not null default app.principal_id(),
    placed_at timestamptz not null default now(),
    primary key (scope_id, number)
);
comment on table audit.holds is 'Legal holds: while one is in force, nothing of the scope is pruned.';

create table audit.lifted_holds (
    scope_id  app.scope_id not null default app.scope_id(),
    number    integer not null,
    reason    text not null check (char_length(reason) between 1 and 256),
    lifted_by app.principal_id not null default app.principal_id(),
    lifted_at timestamptz not null default now(),
    primary key (scope_id, number)
);

create table audit.prunings (
    scope_id     app.scope_id not null default app.scope_id(),
    kept_to      date not null,
    -- The entry that says so; it is in the log before anything is pruned.
    event_id     app.event_id not null,
    first_index  bigint not null check (first_index >= 0),
    last_index   bigint not null check (last_index >= first_index),
    entries      bigint not null check (entries between 1 and last_index - first_index + 1),
    digest       bytea not null check (octet_length(digest) = 32),
    announced_at timestamptz not null default now(),
    primary key (scope_id, kept_to)
);
comment on table audit.prunings is 'What of a scope''s log was announced to end, a row a month.';

do $$
declare
    name text;
begin
    foreach name in array array['retention', 'holds', 'lifted_holds', 'prunings'] loop
        perform app.protect(('audit.' || name)::regclass, tenant => 'custom', privileges => 'select, insert');
        execute format('create policy scope on audit.%I to wardmesh_audit using (scope_id = (select app.scope_id())) '
                       'with check (scope_id = (select app.scope_id()))', name);
        execute format('create policy require_select on audit.%I as restrictive for select to wardmesh_audit using '
                       '((select app.allows(''audit.read'') or app.allows(''audit.retain'') or app.allows(''audit.hold'') '
                       'or app.allows(''audit.lift'') or app.allows(''audit.export'') or app.allows(''audit.seal'')))',
                       name);
        execute format('create trigger append_only before update or delete or truncate on audit.%I '
                       'for each statement execute function audit.refuse_change()', name);
    end loop;
    -- Functions that act for no scope see which scopes have what, as the owner, who cannot log in.
    foreach name in array array['logs', 'entries', 'holds', 'lifted_holds'] loop
        execute format('create policy retention on audit.%I for select to wardmesh_owner using (true)', name);
    end loop;
end
$$;
select app.require('audit.retention', 'insert', 'audit.retain');
select app.require('audit.holds', 'insert', 'audit.hold');
select app.require('audit.lifted_holds', 'insert', 'audit.lift');
select app.require('audit.prunings', 'insert', 'audit.seal');

-- Whoever places, lifts or prunes in a scope waits for who does so at this moment.
create function audit.wait_for_holds(scope text) returns void
    language sql volatile set search_path = pg_catalog, pg_temp
    as $$ select pg_advisory_xact_lock(hashtextextended('audit.holds.' || scope, 0)) $$;

create function audit.order_holds() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    perform audit.wait_for_holds(new.scope_id);
    return new;
end
$$;
create trigger in_order before insert on audit.holds for each row execute function audit.order_holds();
create trigger in_order before insert on audit.lifted_holds for each row execute function audit.order_holds();

create function audit.is_held(scope text) returns boolean
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    select exists (select from audit.holds h where h.scope_id = scope and not exists (
        select from audit.lifted_holds l where l.scope_id = h.scope_id and l.number = h.number))
$$;

create function audit.check_pruning() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.pruning_to < old.pruning_to or new.pruned_to < old.pruned_to then
        raise exception 'pruning moves forward only' using errcode = 'insufficient_privilege';
    elsif new.pruning_to > old.pruning_to and new.pruning_to > (now() at time zone 'UTC')::date then
        raise exception 'the entries of that month are to be kept' using errcode = 'insufficient_privilege';
    elsif new.pruned_to > old.pruned_to then
        perform audit.wait_for_holds(new.scope_id);
        if audit.is_held(new.scope_id) then
            raise exception 'a legal hold is in force' using errcode = 'insufficient_privilege';
        elsif not exists (select from audit.prunings p join audit.leaves l using (scope_id, event_id)
                           where p.scope_id = new.scope_id and p.kept_to = new.pruned_to) then
            raise exception 'the log does not say yet what is to be pruned' using errcode = 'insufficient_privilege';
        elsif exists (select from audit.entries e where e.scope_id = new.scope_id
                         and e.kept_to > old.pruned_to and e.kept_to < new.pruned_to) then
            raise exception 'an earlier month comes first' using errcode = 'insufficient_privilege';
        end if;
    end if;
    return new;
end
$$;
create trigger pruning_in_order before update of pruning_to, pruned_to on audit.logs
    for each row execute function audit.check_pruning();

create function audit.month_of(partition name) returns date
    language sql immutable set search_path = pg_catalog, pg_temp
    as $$ select to_date(substring(partition from '^entries_(\d{4}_\d{2})$'), 'YYYY_MM') $$;

-- Make sure that there is a partition for a month. False: it is not one that this database opens, keep it for ever.
create function audit.open_month(month date) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    partition constant name := 'entries_' || to_char(month, 'YYYY_MM');
begin
    -- Ten years from now is as long as a policy says; a clock that is further off must not fill the catalog.
    if month is null or extract(day from month) <> 1 or month < '2020-01-01'
       or month > (now() at time zone 'UTC')::date + 4000 then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('audit.months', 0));
    if to_regclass(format('audit.%I', partition)) is not null then
        return true;
    end if;
    -- Made apart and then attached: that lets others read and append meanwhile.
    execute format('create table audit.%I (like audit.entries including defaults including constraints including storage, '
                   'primary key (scope_id, index))', partition);
    -- The floor, whatever the service believes.
    execute format($check$
        alter table audit.%I add constraint floor check (
            kept_to >= (received_at at time zone 'UTC')::date + case when category in (
                'authentication', 'authorization', 'administration', 'secret_access', 'privileged_access',
                'configuration', 'bridge') then 90 else 1 end)$check$, partition);
    execute format('alter table audit.%I enable row level security, force row level security', partition);
    execute format('create trigger append_only before update or delete or truncate on audit.%I '
                   'for each statement execute function audit.refuse_change()', partition);
    execute format('alter table audit.entries attach partition audit.%I for values in (%L)', partition, month);
    return true;
end
$$;

-- Two clocks must agree before anything ends, and the earlier one decides.
create function audit.today(as_of timestamptz) returns date
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if as_of is null or as_of not between now() - interval '1 hour' and now() + interval '1 hour' then
        raise exception 'the clocks of the service and of the database differ' using errcode = 'object_not_in_prerequisite_state';
    end if;
    return (least(as_of, now()) at time zone 'UTC')::date;
end
$$;

create function audit.expired_months(as_of timestamptz) returns setof date
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    select audit.month_of(c.relname) as month from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'audit.entries'::regclass and audit.month_of(c.relname) <= audit.today(as_of) order by month
$$;

-- The scopes that have entries in a month and have not pruned it. One look at an index for each scope.
create function audit.unpruned(month date) returns setof text
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    with recursive scopes as (
        (select e.scope_id from audit.entries e where e.kept_to = month order by e.scope_id limit 1)
        union all
        select (select e.scope_id from audit.entries e where e.kept_to = month and e.scope_id > s.scope_id
                 order by e.scope_id limit 1)
          from scopes s where s.scope_id is not null
    )
    select s.scope_id from scopes s left join audit.logs l using (scope_id)
     where s.scope_id is not null and coalesce(l.pruned_to, '-infinity') < month
$$;

-- Which scopes have a month to prune, the earliest of each; those under a hold have none.
create function audit.prunable(as_of timestamptz, amount integer) returns table (scope_id text, kept_to date)
    language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select scope, min(month) from audit.expired_months(as_of) as month, audit.unpruned(month) as scope
     where not audit.is_held(scope) group by scope order by 2, 1 limit least(greatest(amount, 0), 1000)
$$;

-- Drop the first month that nobody has anything left in, and return it; null if there is none.
create function audit.drop_pruned(as_of timestamptz) returns date
    language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
    month date;
    partition name;
begin
    for month in select audit.expired_months(as_of) loop
        partition := 'entries_' || to_char(month, 'YYYY_MM');
        continue when exists (select audit.unpruned(month));
        -- Whoever reads or seals comes first, and whoever comes after us waits for a moment.
        perform pg_advisory_xact_lock(hashtextextended('audit.months', 0));
        lock table only audit.entries in access exclusive mode;
        -- Another may have dropped it meanwhile, and somebody may have sealed into it.
        continue when to_regclass(format('audit.%I', partition)) is null or exists (select audit.unpruned(month));
        execute format('drop table audit.%I', partition);
        return month;
    end loop;
    return null;
end
$$;

revoke all on function audit.wait_for_holds(text), audit.order_holds(), audit.is_held(text), audit.check_pruning(),
    audit.month_of(name), audit.open_month(date), audit.today(timestamptz),
    audit.expired_months(timestamptz), audit.unpruned(date), audit.prunable(timestamptz, integer),
    audit.drop_pruned(timestamptz) from public;
grant execute on function audit.wait_for_holds(text), audit.is_held(text), audit.open_month(date),
    audit.prunable(timestamptz, integer), audit.drop_pruned(timestamptz) to wardmesh_audit;
commit;

-- migrate:down
