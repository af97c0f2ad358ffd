-- People: what identifies them is in no row but sealed by a key that is no database's (docs/adr/0016).
--
-- An entry of leaf version 2 has `openings` beside the leaf: what the leaf commits to, encrypted. Its actor, acting_for
-- and targets name users by pseudonyms, as do holds, retention and positions: the service's transactions run in the
-- pseudonym's name, so app.principal_id() is one.
--
-- Positions of users are forgotten here: they are kept under ids that nobody asks by any more.

-- migrate:up
set local lock_timeout = '5s';
alter table audit.entries add column openings bytea;

-- Which folder of keys this database was written with. Who has lost that folder deletes the row, as a superuser.
create table audit.key_folder (
    scope_id     app.scope_id not null default app.scope_id() primary key,
    folder_id    text not null check (char_length(folder_id) between 1 and 64),
    remembered_at timestamptz not null default now()
);
comment on table audit.key_folder is 'One row, of the mesh itself: a service that has another folder refuses to start.';

create table audit.erasures (
    scope_id    app.scope_id not null default app.scope_id(),
    erasure_id  app.event_id not null,
    entries     bigint not null check (entries >= 0),
    certificate text not null check (char_length(certificate) between 1 and 16384),
    erased_at   timestamptz not null,
    primary key (scope_id, erasure_id)
);
comment on table audit.erasures is 'That somebody was erased, and the certificate of it; not who.';

do $$
declare
    name text;
begin
    foreach name in array array['key_folder', 'erasures'] loop
        perform app.protect(('audit.' || name)::regclass, tenant => 'custom', privileges => 'select, insert');
        execute format('create policy scope on audit.%I to wardmesh_audit using (scope_id = (select app.scope_id())) '
                       'with check (scope_id = (select app.scope_id()))', name);
    end loop;
end
$$;
select app.require('audit.key_folder', 'select, insert', 'audit.seal');
select app.require('audit.erasures', 'insert', 'audit.erase');
create policy require_select on audit.erasures as restrictive for select to wardmesh_audit using
    ((select app.allows('audit.read') or app.allows('audit.export') or app.allows('audit.erase')
             or app.allows('audit.seal')));
create trigger append_only before update or delete or truncate on audit.erasures
    for each statement execute function audit.refuse_change();
create trigger append_only before update or delete or truncate on audit.key_folder
    for each statement execute function audit.refuse_change();

-- Whoever erases has to see the holds.
alter policy require_select on audit.holds using
    ((select app.allows('audit.read') or app.allows('audit.retain') or app.allows('audit.hold')
             or app.allows('audit.lift') or app.allows('audit.export') or app.allows('audit.erase')
             or app.allows('audit.seal')));
alter policy require_select on audit.lifted_holds using
    ((select app.allows('audit.read') or app.allows('audit.retain') or app.allows('audit.hold')
             or app.allows('audit.lift') or app.allows('audit.export') or app.allows('audit.erase')
             or app.allows('audit.seal')));

-- A person's own entries are that person's to read (audit.mine), and no others: whatever the statement asks for.
alter policy require_select on audit.entries using
    ((select app.allows('audit.read') or app.allows('audit.export') or app.allows('audit.seal'))
     or ((select app.allows('audit.mine'))
         and (actor = (select app.principal_id()) or acting_for = (select app.principal_id()))));
alter policy require_select on audit.logs using
    ((select app.allows('audit.read') or app.allows('audit.export') or app.allows('audit.seal')
             or app.allows('audit.mine')));

delete from audit.positions where principal_id like 'usr\_%';

-- migrate:down
alter policy require_select on audit.entries using
    ((select app.allows('audit.read') or app.allows('audit.export') or app.allows('audit.seal')));
alter policy require_select on audit.logs using
    ((select app.allows('audit.read') or app.allows('audit.export') or app.allows('audit.seal')));
drop table audit.erasures, audit.key_folder;
alter table audit.entries drop column openings;
