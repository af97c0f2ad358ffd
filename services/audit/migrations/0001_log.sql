-- The log: for each scope (an organization or a workspace) a head, its leaves, its entries and its full tiles.
--
-- What belongs to whom. An audit message's subject has the scope and nothing else, so the scope is the owner: every
-- key leads with scope_id, and every policy compares it with app.scope_id(), the workspace of the token or, where the
-- token is for the organization itself, the organization. Ids of workspaces are unique in the mesh. There is no org_id
-- here: it could only be looked up in another service's schema, and nothing would check it.
--
-- What may change. Nothing but the head, and that only forward. Leaves, entries and tiles take inserts; triggers refuse
-- the rest to everybody, the owner and superusers too (who can disable a trigger, which the Merkle tree then shows).
--
-- What can be pruned one day. `leaves` and `tiles` are for ever and small: which event is where, and the tree. `entries`
-- has the bytes and the columns for searching; it is partitioned by the time of receipt, so that retention drops
-- partitions. Until it does, one default partition takes everything. That an index and an event id occur once is held
-- by `leaves`, because a unique key of a partitioned table cannot span its partitions.
--
-- Who may write. `audit.seal` is a permission that no contract has, so no token can carry it: only the sealer's own
-- transactions pass. A handler that runs on a caller's behalf reads, and no more.

-- migrate:up
create table audit.logs (
    scope_id       app.scope_id not null default app.scope_id() primary key,
    size           bigint not null default 0 check (size >= 0),
    -- The roots of the perfect subtrees, largest first: all it takes to append.
    frontier       bytea[] not null default '{}' check (cardinality(frontier) = bit_count(int8send(size))),
    root           bytea not null check (octet_length(root) = 32),
    published_size bigint not null default 0 check (published_size between 0 and size),
    signed_size    bigint not null default 0 check (signed_size between 0 and size),
    signed_note    text check ((signed_note is null) = (signed_size = 0)),
    sealed_at      timestamptz not null default now()
);
comment on table audit.logs is 'The head of each scope''s log; its row lock is what orders the log.';

create table audit.leaves (
    scope_id  app.scope_id not null default app.scope_id(),
    index     bigint not null check (index >= 0),
    event_id  app.event_id not null,
    leaf_hash bytea not null check (octet_length(leaf_hash) = 32),
    primary key (scope_id, index),
    unique (scope_id, event_id)
);
comment on table audit.leaves is 'Which event is where, for ever; what makes every event occur once.';

create table audit.entries (
    scope_id    app.scope_id not null default app.scope_id(),
    index       bigint not null check (index >= 0),
    received_at timestamptz not null,
    -- What was hashed, verbatim. All columns below repeat it, for searching.
    leaf        bytea not null check (octet_length(leaf) between 1 and 65535),
    source      text collate "C" not null,
    occurred_at timestamptz not null,
    category    text collate "C" not null,
    action      text collate "C" not null,
    outcome     text collate "C" not null,
    actor       app.principal_id not null,
    request_id  app.request_id,
    targets     text[] not null default '{}',
    primary key (scope_id, index, received_at)
) partition by range (received_at);
create table audit.entries_default partition of audit.entries default;
create index on audit.entries (scope_id, actor, index);
create index on audit.entries (scope_id, category, index);
create index on audit.entries (scope_id, action, index);
create index on audit.entries (scope_id, request_id, index) where request_id is not null;

create table audit.tiles (
    scope_id app.scope_id not null default app.scope_id(),
    level    smallint not null check (level between 0 and 7),
    index    bigint not null check (index >= 0),
    root     bytea not null check (octet_length(root) = 32),
    hashes   bytea not null check (octet_length(hashes) = 8192),
    primary key (scope_id, level, index)
);
comment on table audit.tiles is 'Full tiles only (C2SP tlog-tiles, 256 hashes); partial ones follow from what is below.';
-- Hashes do not compress; trying would cost time at every append.
alter table audit.tiles alter column hashes set storage external;

select app.protect('audit.logs', tenant => 'custom', privileges => 'select');
grant insert (scope_id, root) on audit.logs to wardmesh_audit;
grant update (size, frontier, root, published_size, signed_size, signed_note, sealed_at) on audit.logs to wardmesh_audit;
select app.protect('audit.leaves', tenant => 'custom', privileges => 'select, insert');
select app.protect('audit.entries', tenant => 'custom', privileges => 'select, insert');
select app.protect('audit.tiles', tenant => 'custom', privileges => 'select, insert');
-- Reached through its parent, whose policies then hold; by itself it is nobody's.
alter table audit.entries_default enable row level security, force row level security;

do $$
declare
    name text;
begin
    foreach name in array array['logs', 'leaves', 'entries', 'tiles'] loop
        execute format('create policy scope on audit.%I to wardmesh_audit using (scope_id = (select app.scope_id())) '
                       'with check (scope_id = (select app.scope_id()))', name);
        execute format('create policy require_select on audit.%I as restrictive for select to wardmesh_audit using '
                       '((select app.allows(''audit.read'') or app.allows(''audit.export'') or app.allows(''audit.seal'')))',
                       name);
        perform app.require(('audit.' || name)::regclass, 'insert, update, delete', 'audit.seal');
    end loop;
end
$$;

create function audit.refuse_change() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'the audit log is append-only: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

create function audit.check_head() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scope_id <> old.scope_id or new.size < old.size or new.published_size < old.published_size
       or new.signed_size < old.signed_size or (new.size = old.size and new.root <> old.root) then
        raise exception 'the head of an audit log moves forward only' using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
revoke all on function audit.refuse_change(), audit.check_head() from public;

create trigger forward_only before update on audit.logs for each row execute function audit.check_head();
create trigger append_only before delete or truncate on audit.logs
    for each statement execute function audit.refuse_change();
do $$
declare
    name text;
begin
    foreach name in array array['leaves', 'entries', 'entries_default', 'tiles'] loop
        execute format('create trigger append_only before update or delete or truncate on audit.%I '
                       'for each statement execute function audit.refuse_change()', name);
    end loop;
end
$$;
-- Row triggers of a partitioned table are copied to every partition there will ever be.
create trigger append_only_row before update or delete on audit.entries
    for each row execute function audit.refuse_change();

-- migrate:down
drop table audit.tiles, audit.entries, audit.leaves, audit.logs;
drop function audit.refuse_change(), audit.check_head();
