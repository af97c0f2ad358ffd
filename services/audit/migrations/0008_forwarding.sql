-- Forwarding: where a scope's log is sent on to, and how far each of them is.
--
-- These rows change: they are no part of the log. `sealed` holds what must not be read here, the address's path and the
-- secret, under the service's key and bound to the rest of the row's address (wardmesh_audit.forward_vault).
--
-- Which replica is at a forwarder is a lease, not a lock: no connection is held while somebody else's server is waited
-- for. A lease that ran out is anybody's, so a batch may be sent twice; the cursor is moved by who holds the lease alone.
-- A row says nothing of who added it: the entry about it does.

-- migrate:up
create table audit.forwarders (
    scope_id      app.scope_id not null default app.scope_id(),
    name          text collate "C" not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    -- Another one of the same name is another one.
    incarnation   uuid not null default gen_random_uuid(),
    address       text not null check (char_length(address) between 1 and 300),
    format        text not null check (char_length(format) between 1 and 32),
    secret_header text check (char_length(secret_header) between 1 and 64),
    has_secret    boolean not null,
    sealed        bytea not null check (octet_length(sealed) between 1 and 16384),
    filter        jsonb not null check (jsonb_typeof(filter) = 'object'),
    created_at    timestamptz not null default now(),

    next_index    bigint not null check (next_index >= 0),
    paused        boolean not null default false,
    failures      integer not null default 0 check (failures >= 0),
    failing_since timestamptz,
    last_error    text check (char_length(last_error) between 1 and 64),
    -- Whether the log says that it is failing.
    told          boolean not null default false,
    delivered_at  timestamptz,
    attempt_at    timestamptz not null default now(),
    lease         uuid,
    leased_until  timestamptz,
    primary key (scope_id, name),
    check ((lease is null) = (leased_until is null))
);
comment on table audit.forwarders is 'Where a scope''s log is sent on to, and how far; a row may change, it is not the log.';

select app.protect('audit.forwarders', tenant => 'custom', privileges => 'select, insert, delete');
grant update (next_index, paused, failures, failing_since, last_error, told, delivered_at, attempt_at, lease,
              leased_until) on audit.forwarders to wardmesh_audit;
create policy scope on audit.forwarders to wardmesh_audit
    using (scope_id = (select app.scope_id())) with check (scope_id = (select app.scope_id()));
create policy require_select on audit.forwarders as restrictive for select to wardmesh_audit using
    ((select app.allows('audit.read') or app.allows('audit.forward') or app.allows('audit.seal')));
select app.require('audit.forwarders', 'insert, delete', 'audit.forward');
create policy require_update on audit.forwarders as restrictive for update to wardmesh_audit using
    ((select app.allows('audit.forward') or app.allows('audit.seal')));
-- The function below acts for no scope, as the owner, who cannot log in.
create policy leasing on audit.forwarders for select to wardmesh_owner using (true);
create policy leasing_takes on audit.forwarders for update to wardmesh_owner using (true);

-- Take forwarders that have something to do and that nobody is at, those that wait longest first.
create function audit.lease_forwarders(token uuid, seconds double precision, amount integer)
    returns table (scope_id text, name text)
    language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    with due as materialized (
        select f.scope_id, f.name from audit.forwarders f join audit.logs l using (scope_id)
         where not f.paused and f.attempt_at <= now() and (f.leased_until is null or f.leased_until < now())
           and f.next_index < l.size
         order by f.attempt_at limit least(greatest(amount, 0), 64) for update of f skip locked
    )
    update audit.forwarders f
       set lease = token, leased_until = now() + make_interval(secs => least(greatest(seconds, 1), 300))
      from due where f.scope_id = due.scope_id and f.name = due.name
    returning f.scope_id, f.name
$$;
revoke all on function audit.lease_forwarders(uuid, double precision, integer) from public;
grant execute on function audit.lease_forwarders(uuid, double precision, integer) to wardmesh_audit;

-- migrate:down
drop function audit.lease_forwarders(uuid, double precision, integer);
drop table audit.forwarders;
