-- Schema app: what every service's tables and policies are made of.
--
-- Runs once, as a superuser. Everything it makes belongs to wardmesh_owner, who cannot log in, owns every table of
-- the mesh and is subject to row-level security itself, because it is forced everywhere.
-- Settings app.org_id, app.workspace_id, app.principal_id and app.permissions are transaction-local and set by
-- wardmesh.server.database together with BEGIN. Unset or '' means nobody: no rows.

-- migrate:up

-- Roles belong to the whole cluster, and another database of it may be migrated at this moment.
lock table pg_catalog.pg_authid in share row exclusive mode;

do $$
begin
    if to_regrole('wardmesh_owner') is null then
        create role wardmesh_owner nologin nosuperuser nobypassrls nocreatedb nocreaterole;
    end if;
    execute format('revoke all on database %I from public', current_database());
end
$$;
revoke all on schema public from public;

create schema if not exists app;
alter schema app owner to wardmesh_owner;
set local role wardmesh_owner;

-- Ids are TypeIDs (wardmesh.ids). Collation C: they sort by time, and comparing them costs a memcmp.
do $$
declare
    kind record;
begin
    for kind in
        values ('org_id', 'org'), ('workspace_id', 'ws'), ('scope_id', 'org|ws'),
               ('user_id', 'usr'), ('agent_id', 'agt'), ('service_id', 'svc'), ('principal_id', 'usr|agt|svc'),
               ('key_id', 'key'), ('session_id', 'ses'), ('token_id', 'tok'), ('event_id', 'evt'),
               ('message_id', 'msg'), ('agreement_id', 'agr'), ('request_id', 'req')
    loop
        execute format(
            'create domain app.%I as text collate "C" constraint is_typeid check (value ~ %L)',
            kind.column1, format('^(%s)_[0-7][0-9a-hjkmnp-tv-z]{25}$', kind.column2));
    end loop;
end
$$;

-- Who is asking. A setting that was once set in a session reads '' afterwards, hence nullif.
create function app.org_id() returns text language sql stable parallel safe
    return nullif(current_setting('app.org_id', true), '') collate "C";
create function app.workspace_id() returns text language sql stable parallel safe
    return nullif(current_setting('app.workspace_id', true), '') collate "C";
create function app.principal_id() returns text language sql stable parallel safe
    return nullif(current_setting('app.principal_id', true), '') collate "C";
-- The workspace, or the organization where the token is for the organization itself.
create function app.scope_id() returns text language sql stable parallel safe
    return coalesce(nullif(current_setting('app.workspace_id', true), ''),
                    nullif(current_setting('app.org_id', true), '')) collate "C";

-- Whether the verified token carries the permission. The path is pinned and the body is bound when it is created, so
-- no schema of the caller's can lend it another string_to_array.
create function app.allows(permission text) returns boolean language sql stable parallel safe
    security definer set search_path = pg_catalog, pg_temp
    return coalesce(permission = any (string_to_array(current_setting('app.permissions', true), ',')), false);

-- app.protect('secrets.version', tenant => 'workspace', privileges => 'select, insert')
-- closes a table and opens it to its service, for the rows of the tenant that asks. One line after `create table`.
--   tenant     org        org_id
--              workspace  org_id and workspace_id
--              scope      org_id and scope_id (rows that belong to an organization or to a workspace)
--              principal  org_id and principal_id (rows of the one who asks)
--              custom     no policy: nobody sees a row until the migration creates policies of its own
--   privileges of select, insert, update, delete; column grants can be added by hand, TRUNCATE never
create function app.protect(target regclass, tenant text, privileges text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    owners constant jsonb := '{"org": ["org_id"], "workspace": ["org_id", "workspace_id"],
                               "scope": ["org_id", "scope_id"], "principal": ["org_id", "principal_id"], "custom": []}';
    service name;
    predicate text;
    loose text;
begin
    select 'wardmesh_' || relnamespace::regnamespace::text into service from pg_class
        where oid = target and relowner = 'wardmesh_owner'::regrole;
    if service is null then
        raise exception 'app.protect: % does not belong to wardmesh_owner; create it in a migration', target;
    elsif not owners ? tenant then
        raise exception 'app.protect: tenant is one of org, workspace, scope, principal, custom, not %', tenant;
    elsif privileges !~ '^(select|insert|update|delete)(, *(select|insert|update|delete))*$' then
        raise exception 'app.protect: privileges are of select, insert, update, delete, not %', privileges;
    end if;

    execute format('alter table %s enable row level security, force row level security', target);
    execute format('revoke all on %s from public', target);
    execute format('grant %s on %s to %I', privileges, target, service);
    if tenant = 'custom' then
        return;
    end if;

    -- A unique or foreign key that does not lead with the owner tells one tenant what exists at another.
    select string_agg(conname, ', ') into loose from (
        select i.indexrelid::regclass::text as conname from pg_index i
            where i.indrelid = target and i.indisunique and not exists (
                select from pg_attribute a where a.attrelid = target and a.attnum = i.indkey[0] and a.attname = 'org_id')
        union all
        select c.conname from pg_constraint c
            where c.conrelid = target and c.contype = 'f' and not exists (
                select from pg_attribute a where a.attrelid = target and a.attnum = c.conkey[1] and a.attname = 'org_id')
    ) keys;
    if loose is not null then
        raise exception 'app.protect: let these keys of % lead with org_id: %', target, loose;
    end if;

    select string_agg(format('%I = (select app.%I())', name, name), ' and ') into predicate
        from jsonb_array_elements_text(owners -> tenant) as name;
    execute format('create policy tenant on %s to %I using (%s) with check (%s)', target, service, predicate, predicate);
end
$$;

-- app.require('secrets.version', 'insert, update', 'secrets.write')
-- lets the commands pass only where the token carries the permission. It narrows what `protect` opened, never widens.
-- What holds for select holds for the rows that an update or a delete looks for, and for RETURNING. Two calls for the
-- same command ask for both permissions.
create function app.require(target regclass, commands text, permission text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    service constant name := (select 'wardmesh_' || relnamespace::regnamespace::text from pg_class where oid = target);
    command text;
begin
    if permission !~ '^[a-z0-9][a-z0-9_-]*\.[a-z0-9][a-z0-9_-]*$' then
        raise exception 'app.require: name the permission resource.action, not %', permission;
    elsif commands !~ '^(select|insert|update|delete)(, *(select|insert|update|delete))*$' then
        raise exception 'app.require: commands are of select, insert, update, delete, not %', commands;
    end if;
    foreach command in array regexp_split_to_array(commands, ', *') loop
        execute format('create policy %I on %s as restrictive for %s to %I %s',
            format('%s requires %s', command, permission), target, command, service,
            case command when 'insert' then format('with check ((select app.allows(%L)))', permission)
                         else format('using ((select app.allows(%L)))', permission) end);
    end loop;
end
$$;

revoke all on all functions in schema app from public;
reset role;

-- The ledger of these migrations. Superusers pass row-level security; nobody else has business here.
alter table app.schema_migrations owner to wardmesh_owner;
alter table app.schema_migrations enable row level security, force row level security;

-- migrate:down
