-- The door for other people's events: who may send, and what has come in already.
--
-- Someone who posts a webhook has no token. The address names the workspace, and a workspace belongs to one
-- organization; which one, the source's row says. So there is one lookup by workspace alone, the policy `door`, and
-- everything after it runs as that organization and workspace. `webhook.receive` is no operation's permission: no
-- token can carry it, only this service itself can ask with it.

-- migrate:up
create table webhooks.source (
    org_id        app.org_id not null default app.org_id(),
    workspace_id  app.workspace_id not null default app.workspace_id(),
    name          text collate "C" not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$' and name <> 'app'),
    scheme        text not null check (length(scheme) between 1 and 64),
    incarnation   uuid not null default gen_random_uuid(),
    sealed_secret bytea not null,
    created_at    timestamptz not null default now(),
    primary key (org_id, workspace_id, name)
);
create index source_by_workspace on webhooks.source (workspace_id, name);
select app.protect('webhooks.source', tenant => 'workspace', privileges => 'select, insert, delete');
select app.require('webhooks.source', 'insert, delete', 'webhook_source.manage');
create policy door on webhooks.source for select to wardmesh_webhooks using (
    workspace_id = (select app.workspace_id())
    and (select app.org_id()) = 'org_00000000000000000000000000'
    and (select app.allows('webhook.receive')));
-- Deleting reads the rows that it deletes, so whoever manages sources may read them too.
create policy "select requires a reason" on webhooks.source as restrictive for select to wardmesh_webhooks using (
    (select app.allows('webhook_source.list'))
    or (select app.allows('webhook_source.manage'))
    or (select app.allows('webhook.receive')));

-- One row for each event that was taken. It outlives its source: a body signed with a secret that is used again
-- would otherwise be new once more. `key` is a hash of what was signed; nothing of the body is here.
create table webhooks.receipt (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    source       text collate "C" not null,
    key          bytea not null check (octet_length(key) = 32),
    received_at  timestamptz not null default now(),
    forget_at    timestamptz,
    primary key (org_id, workspace_id, source, key)
);
create index receipt_forget_at on webhooks.receipt (org_id, workspace_id, forget_at) where forget_at is not null;
select app.protect('webhooks.receipt', tenant => 'workspace', privileges => 'select, insert, delete');
select app.require('webhooks.receipt', 'select, insert, delete', 'webhook.receive');

-- migrate:down
drop table webhooks.receipt, webhooks.source;
