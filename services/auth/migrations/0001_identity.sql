-- Who there is, what they may do where, and what proves it.
--
-- No column holds anything that lets anybody in: passwords are argon2id hashes, keys and refresh tokens are digests of
-- 32 random bytes. The policies ask for permissions of two kinds: those of contracts, which come from the caller's
-- token, and `password.check`, `session.open` and `organization.create`, which no token can carry (no contract names
-- them): only the service itself puts them on, for the one use case that needs them.

-- migrate:up

create table auth.organizations (
    org_id     app.org_id not null default app.org_id() primary key,
    name       text not null check (length(name) between 1 and 128),
    created_at timestamptz not null
);
select app.protect('auth.organizations', 'org', 'select, insert');
select app.require('auth.organizations', 'insert', 'organization.create');

create table auth.workspaces (
    org_id       app.org_id not null default app.org_id() references auth.organizations,
    workspace_id app.workspace_id not null,
    name         text not null check (length(name) between 1 and 128),
    created_at   timestamptz not null,
    primary key (org_id, workspace_id)
);
select app.protect('auth.workspaces', 'org', 'select, insert');
select app.require('auth.workspaces', 'insert', 'workspace.create');
-- A token for one workspace shows no other.
create policy own_workspace on auth.workspaces as restrictive for select to wardmesh_auth
    using ((select app.workspace_id()) is null or workspace_id = (select app.workspace_id()));

-- Users are at home in the organization, agents in a workspace, service accounts in either.
create table auth.principals (
    org_id       app.org_id not null default app.org_id() references auth.organizations,
    principal_id app.principal_id not null,
    home_id      app.scope_id not null,
    name         text not null check (length(name) between 1 and 256),
    email        text collate "C" check (length(email) <= 256),
    created_at   timestamptz not null,
    revoked_at   timestamptz,
    primary key (org_id, principal_id),
    unique (org_id, email),
    constraint users_have_an_address check ((email is not null) = starts_with(principal_id, 'usr_'))
);
select app.protect('auth.principals', 'org', 'select, insert');
grant update (revoked_at) on auth.principals to wardmesh_auth;
create policy create_principal on auth.principals as restrictive for insert to wardmesh_auth
    with check (case split_part(principal_id, '_', 1)
                    when 'usr' then (select app.allows('user.create'))
                    when 'agt' then (select app.allows('agent.create'))
                    else (select app.allows('service_account.create')) end);
select app.require('auth.principals', 'update', 'principal.revoke');

-- What a principal may do in a scope: 0 restricted … 5 owner (wardmesh.contracts.operation.Level).
create table auth.memberships (
    org_id       app.org_id not null default app.org_id(),
    scope_id     app.scope_id not null,
    principal_id app.principal_id not null,
    level        smallint not null check (level between 0 and 5),
    primary key (org_id, scope_id, principal_id),
    foreign key (org_id, principal_id) references auth.principals
);
create index memberships_of_principal on auth.memberships (org_id, principal_id);
select app.protect('auth.memberships', 'org', 'select, insert');
grant update (level) on auth.memberships to wardmesh_auth;
-- A token for one workspace shows what counts there: its own memberships and the organization's.
create policy own_scopes on auth.memberships as restrictive for select to wardmesh_auth
    using ((select app.workspace_id()) is null or scope_id in ((select app.workspace_id()), (select app.org_id())));
create policy own_scope_in on auth.memberships as restrictive for insert to wardmesh_auth
    with check (scope_id = (select app.scope_id())
                and ((select app.allows('principal.set_level')) or (select app.allows('user.create'))
                     or (select app.allows('agent.create')) or (select app.allows('service_account.create'))));
create policy own_scope_changed on auth.memberships as restrictive for update to wardmesh_auth
    using (scope_id = (select app.scope_id()) and (select app.allows('principal.set_level')));

create table auth.passwords (
    org_id       app.org_id not null default app.org_id(),
    principal_id app.user_id not null,
    hash         text not null check (starts_with(hash, '$argon2id$')),
    primary key (org_id, principal_id),
    foreign key (org_id, principal_id) references auth.principals
);
select app.protect('auth.passwords', 'org', 'select, insert');
select app.require('auth.passwords', 'select', 'password.check');
select app.require('auth.passwords', 'insert', 'user.create');

-- `permissions` null: the key reaches what its principal does, up to `ceiling`. `granting`: the list itself is the
-- grant, because the principal was `restricted` when the key was made; else the list narrows.
create table auth.api_keys (
    org_id       app.org_id not null default app.org_id(),
    key_id       app.key_id not null,
    scope_id     app.scope_id not null,
    principal_id app.principal_id not null check (not starts_with(principal_id, 'usr_')),
    name         text not null check (length(name) between 1 and 128),
    secret_hash  bytea not null check (octet_length(secret_hash) = 32),
    permissions  text[] check (cardinality(permissions) <= 64),
    granting     boolean not null,
    ceiling      smallint not null check (ceiling between 0 and 5),
    created_by   app.principal_id not null default app.principal_id(),
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    revoked_at   timestamptz,
    primary key (org_id, key_id),
    foreign key (org_id, principal_id) references auth.principals
);
create index api_keys_of_principal on auth.api_keys (org_id, principal_id);
select app.protect('auth.api_keys', 'org', 'select, insert');
grant update (revoked_at) on auth.api_keys to wardmesh_auth;
create policy own_scope on auth.api_keys as restrictive for select to wardmesh_auth
    using ((select app.workspace_id()) is null or scope_id = (select app.workspace_id()));
create policy create_key on auth.api_keys as restrictive for insert to wardmesh_auth
    with check (scope_id = (select app.scope_id()) and (select app.allows('key.create')));
create policy revoke_key on auth.api_keys as restrictive for update to wardmesh_auth
    using ((select app.allows('key.revoke')) or (select app.allows('principal.revoke')));

-- A login through all its refreshes. `generation` is that of the refresh tokens that may be presented now;
-- `rotated_at` is when it began, and when the one before it was spent.
create table auth.sessions (
    org_id       app.org_id not null default app.org_id(),
    session_id   app.session_id not null,
    principal_id app.user_id not null,
    scope_id     app.scope_id not null,
    generation   integer not null check (generation >= 1),
    siblings     integer not null check (siblings >= 1),
    rotated_at   timestamptz not null,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    revoked_at   timestamptz,
    primary key (org_id, session_id),
    foreign key (org_id, principal_id) references auth.principals
);
create index sessions_of_principal on auth.sessions (org_id, principal_id) where revoked_at is null;
select app.protect('auth.sessions', 'org', 'select, insert');
grant update (generation, siblings, rotated_at, revoked_at) on auth.sessions to wardmesh_auth;
create policy open_or_revoke on auth.sessions as restrictive to wardmesh_auth
    using ((select app.allows('session.open')) or (select app.allows('principal.revoke')))
    with check ((select app.allows('session.open')) or (select app.allows('principal.revoke')));

-- Also those that are spent: one that comes back tells that somebody else has it too.
create table auth.refresh_tokens (
    org_id     app.org_id not null default app.org_id(),
    token_hash bytea not null check (octet_length(token_hash) = 32),
    session_id app.session_id not null,
    generation integer not null check (generation >= 1),
    expires_at timestamptz not null,
    primary key (org_id, token_hash),
    foreign key (org_id, session_id) references auth.sessions
);
create index refresh_tokens_of_session on auth.refresh_tokens (org_id, session_id, generation);
select app.protect('auth.refresh_tokens', 'org', 'select, insert, delete');
select app.require('auth.refresh_tokens', 'select, insert, delete', 'session.open');

-- What every process of the mesh must refuse: keys, sessions and principals, from a time on. The `revocations` bucket
-- is made of this; whoever reconciles the two reads across tenants, like a relay, and as the relay's role.
create table auth.revocations (
    org_id     app.org_id not null default app.org_id(),
    id         text collate "C" not null check (id ~ '^(key|ses|usr|agt|svc)_[0-7][0-9a-hjkmnp-tv-z]{25}$'),
    revoked_at timestamptz not null,
    primary key (org_id, id)
);
create index revocations_by_time on auth.revocations (revoked_at);
select app.protect('auth.revocations', 'org', 'select, insert');
grant update (revoked_at) on auth.revocations to wardmesh_auth;
grant select, delete on auth.revocations to wardmesh_auth_relay;
create policy relay_read on auth.revocations for select to wardmesh_auth_relay using (true);
create policy relay_delete on auth.revocations for delete to wardmesh_auth_relay using (true);

-- migrate:down
