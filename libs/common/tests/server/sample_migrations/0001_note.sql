-- What a service's migration looks like: a table, then a line that closes it.

-- migrate:up
create table secrets.note (
    org_id       app.org_id not null default app.org_id(),
    workspace_id app.workspace_id not null default app.workspace_id(),
    path         text not null check (length(path) < 100),
    body         text not null default '',
    meta         jsonb not null default '{}',
    primary key (org_id, workspace_id, path)
);
select app.protect('secrets.note', tenant => 'workspace', privileges => 'select, insert, update, delete');
select app.require('secrets.note', 'select', 'secrets.read');
select app.require('secrets.note', 'insert, update', 'secrets.write');
select app.require('secrets.note', 'update', 'secrets.read');

create table secrets.pinned (
    org_id       app.org_id not null default app.org_id(),
    principal_id app.principal_id not null default app.principal_id(),
    path         text not null,
    primary key (org_id, principal_id, path)
);
select app.protect('secrets.pinned', tenant => 'principal', privileges => 'select, insert');

-- migrate:down
drop table secrets.pinned, secrets.note;
