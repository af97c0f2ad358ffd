-- What reading asks for, besides what writing left: columns and indexes to search by, the time at which each tile was
-- filled, and positions that readers saved.
--
-- Only `=` and comparisons of ids, texts and times may use an index below row-level security (they are leakproof; `@@`
-- and `@>` are not), so there is no GIN here: what has no index is looked for in a bounded number of entries a call.

-- migrate:up
alter table audit.entries add column acting_for app.principal_id, add column trace_id text collate "C";
create index on audit.entries (scope_id, acting_for, index) where acting_for is not null;
-- Four bytes of hash an entry. Traces come at random, so a tree of them would touch a page for each.
create index on audit.entries using hash (trace_id) where trace_id is not null;

-- A log is sealed in order, so the times of its tiles rise with it, which those of its entries need not.
alter table audit.tiles add column filled_at timestamptz not null default clock_timestamp();
create index on audit.tiles (scope_id, filled_at) where level = 0;

-- How far somebody has read: the reader's own, who may set it anywhere.
create table audit.positions (
    scope_id     app.scope_id not null default app.scope_id(),
    principal_id app.principal_id not null default app.principal_id(),
    name         text collate "C" not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    next_start   bigint not null check (next_start >= 0),
    saved_at     timestamptz not null default now(),
    primary key (scope_id, principal_id, name)
);
select app.protect('audit.positions', tenant => 'custom', privileges => 'select, insert, delete');
grant update (next_start, saved_at) on audit.positions to wardmesh_audit;
create policy own on audit.positions to wardmesh_audit
    using (scope_id = (select app.scope_id()) and principal_id = (select app.principal_id()))
    with check (scope_id = (select app.scope_id()) and principal_id = (select app.principal_id()));
select app.require('audit.positions', 'select, insert, update, delete', 'audit.read');

-- migrate:down
drop table audit.positions;
alter table audit.tiles drop column filled_at;
alter table audit.entries drop column acting_for, drop column trace_id;
