-- The five services: for each a schema, a role that logs in and owns nothing, and an outbox with its relay's role.
--
-- Passwords are not here: `wardmesh.server.migrate` sets them, as verifiers.

-- migrate:up

lock table pg_catalog.pg_authid in share row exclusive mode;

create function app.create_service(service text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    login constant name := 'wardmesh_' || service;
    relay constant name := 'wardmesh_' || service || '_relay';
    setting record;
begin
    if to_regrole(login) is null then
        execute format('create role %I login nosuperuser nobypassrls nocreatedb nocreaterole noreplication', login);
    end if;
    if to_regrole(relay) is null then
        execute format('create role %I nologin nosuperuser nobypassrls nocreatedb nocreaterole', relay);
    end if;
    -- Not inherited: the service reads across tenants only where it says SET LOCAL ROLE, and then only the outbox.
    execute format('grant %I to %I with inherit false, set true, admin false', relay, login);

    -- The server's log is read by people who may not read the data. Errors of statements quote values, so they are
    -- told to the service alone; LOG (slow statements, lock waits) and FATAL stay, without parameters, DETAIL and
    -- CONTEXT. A service cannot switch these on again.
    for setting in
        values ('log_min_messages', 'log'), ('log_error_verbosity', 'terse'), ('log_min_error_statement', 'panic'),
               ('log_statement', 'none'), ('log_parameter_max_length', '0'), ('log_parameter_max_length_on_error', '0')
    loop
        execute format('alter role %I set %I = %L', login, setting.column1, setting.column2);
    end loop;
    -- pg_temp last, or a temporary table would be found before ours.
    execute format('alter role %I set search_path = %I, pg_temp', login, service);

    execute format('create schema %I authorization wardmesh_owner', service);
    execute format('grant usage on schema %I to %I, %I', service, login, relay);
    execute format('grant connect on database %I to %I', current_database(), login);
    execute format('grant usage on schema app to %I', login);
    execute format('grant execute on function app.org_id(), app.workspace_id(), app.principal_id(), app.scope_id(), '
                   'app.allows(text) to %I', login);

    -- dbmate's ledger of the service's migrations, made here so that it too is protected: the owner, no other.
    execute format('create table %I.schema_migrations (version varchar(128) primary key)', service);
    execute format('alter table %I.schema_migrations owner to wardmesh_owner', service);
    execute format('alter table %I.schema_migrations enable row level security, force row level security', service);
    execute format('create policy ledger on %I.schema_migrations to wardmesh_owner using (true)', service);

    -- The outbox (wardmesh.server.outbox). `position` is the order of the inserts; ids come from several clocks.
    execute format($table$
        create table %1$I.outbox (
            position   bigint generated always as identity,
            id         app.event_id not null,
            org_id     app.org_id not null default app.org_id(),
            subject    text not null,
            headers    jsonb not null default '{}',
            payload    bytea not null,
            created_at timestamptz not null default now(),
            primary key (org_id, id)
        )$table$, service);
    execute format('create index outbox_position on %I.outbox (position)', service);
    execute format('alter table %I.outbox owner to wardmesh_owner', service);
    execute format('alter table %I.outbox enable row level security, force row level security', service);
    execute format('grant insert (id, org_id, subject, headers, payload) on %I.outbox to %I', service, login);
    execute format('create policy put on %I.outbox for insert to %I with check (org_id = (select app.org_id()))',
                   service, login);
    -- FOR UPDATE asks for the UPDATE privilege on a column and for an UPDATE policy that shows the row; the check
    -- that nothing passes keeps it at locking.
    execute format('grant select, delete, update (id) on %I.outbox to %I', service, relay);
    execute format('create policy relay_read on %I.outbox for select to %I using (true)', service, relay);
    execute format('create policy relay_lock on %I.outbox for update to %I using (true) with check (false)',
                   service, relay);
    execute format('create policy relay_delete on %I.outbox for delete to %I using (true)', service, relay);
end
$$;
alter function app.create_service(text) owner to wardmesh_owner;
revoke all on function app.create_service(text) from public;

select app.create_service(service) from unnest(array['auth', 'secrets', 'bridge', 'audit', 'webhooks']) as service;

-- migrate:down
