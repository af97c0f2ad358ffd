-- The vault: wrapped keys, sealed values, and who may read them.
--
-- No column holds anything that opens without the key encryption key, which is not in the database. Every ciphertext
-- is bound to its row (wardmesh_secrets.crypto): one that was moved or exchanged does not open.

-- migrate:up

-- A workspace's keys; each is wrapped by the key encryption key that `kek_id` names. The newest generation wraps.
create table secrets.scope_keys (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    generation   integer not null check (generation >= 1),
    kek_id       text not null,
    wrapped      bytea not null,
    created_at   timestamptz not null,
    primary key (org_id, workspace_id, generation)
);
select app.protect('secrets.scope_keys', 'workspace', 'select, insert');
select app.require('secrets.scope_keys', 'insert', 'secret.write');

-- What values are sealed to on their way in: X25519, the private half wrapped. One that is retired still opens.
create table secrets.sealing_keys (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    key_id       text collate "C" not null,
    public_key   bytea not null check (octet_length(public_key) = 32),
    kek_id       text not null,
    wrapped      bytea not null,
    created_at   timestamptz not null,
    retired_at   timestamptz,
    primary key (org_id, workspace_id, key_id)
);
-- Two replicas that make the first key at once agree on one.
create unique index sealing_keys_present on secrets.sealing_keys (org_id, workspace_id) where retired_at is null;
select app.protect('secrets.sealing_keys', 'workspace', 'select, insert');
select app.require('secrets.sealing_keys', 'insert', 'secret.seal');

-- The paths. `versions` is the newest version's number; raising it is what orders concurrent writers.
create table secrets.secrets (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    path         text collate "C" not null
                 check (length(path) <= 256 and path ~ '^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,15}$'),
    versions     integer not null check (versions >= 1),
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    primary key (org_id, workspace_id, path)
);
select app.protect('secrets.secrets', 'workspace', 'select, insert, update');
select app.require('secrets.secrets', 'insert, update', 'secret.write');

create table secrets.secret_versions (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    path         text collate "C" not null,
    version      integer not null check (version >= 1),
    generation   integer not null,
    wrapped_key  bytea not null,
    ciphertext   bytea not null,
    created_by   app.principal_id not null default app.principal_id(),
    created_at   timestamptz not null,
    primary key (org_id, workspace_id, path, version),
    foreign key (org_id, workspace_id, path) references secrets.secrets,
    foreign key (org_id, workspace_id, generation) references secrets.scope_keys
);
-- Versions are written once: there is no update, and no delete before there is an operation that destroys.
select app.protect('secrets.secret_versions', 'workspace', 'select, insert');
select app.require('secrets.secret_versions', 'insert', 'secret.write');
select app.require('secrets.secret_versions', 'select', 'secret.read');

create table secrets.grants (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    principal_id app.principal_id not null,
    pattern      text collate "C" not null
                 check (length(pattern) <= 256 and pattern ~ '^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,15}(/\*)?$'),
    granted_by   app.principal_id not null default app.principal_id(),
    created_at   timestamptz not null,
    primary key (org_id, workspace_id, principal_id, pattern)
);
select app.protect('secrets.grants', 'workspace', 'select, insert, delete');
select app.require('secrets.grants', 'insert, delete', 'secret.grant');
-- Everybody may see the own grants, because reading looks them up; those of others, who may list or give them.
create policy own_or_listed on secrets.grants as restrictive for select to wardmesh_secrets
    using (principal_id = (select app.principal_id())
           or (select app.allows('secret.list_grants')) or (select app.allows('secret.grant')));

-- migrate:down
