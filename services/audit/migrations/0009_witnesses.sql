-- Witnesses: what they have said of our logs, and how far we have cosigned those of others (docs/adr/0025).

-- migrate:up
create table audit.cosignatures (
    scope_id  app.scope_id not null default app.scope_id(),
    -- The name of the witness's key, and its id, as on the line.
    witness   text collate "C" not null check (octet_length(witness) between 1 and 1024),
    key_id    bytea not null check (octet_length(key_id) = 4),
    size      bigint not null check (size > 0),
    -- SHA-256 of the checkpoint's text: a log that was renamed has other checkpoints of the same sizes.
    text_hash bytea not null check (octet_length(text_hash) = 32),
    signature bytea not null check (octet_length(signature) between 1 and 8192),
    -- When the witness says that it cosigned, in seconds since 1970.
    time      bigint not null check (time > 0),
    kept_at   timestamptz not null default now(),
    primary key (scope_id, witness, key_id, size, text_hash)
);
comment on table audit.cosignatures is 'Witnesses'' lines on the checkpoints of each scope''s log.';
-- Signatures do not compress.
alter table audit.cosignatures alter column signature set storage external;

create table audit.witnessed (
    scope_id    app.scope_id not null default app.scope_id(),
    origin      text collate "C" not null check (octet_length(origin) between 1 and 255),
    size        bigint not null default 0 check (size >= 0),
    root        bytea not null check (octet_length(root) = 32),
    -- The checkpoint as its log signed it; none as long as nothing was cosigned.
    note        text check (octet_length(note) <= 65536),
    cosigned_at timestamptz not null default now(),
    primary key (scope_id, origin)
);
comment on table audit.witnessed is 'The latest checkpoint that this mesh cosigned of each log that it witnesses; in the mesh''s own scope.';

select app.protect('audit.cosignatures', tenant => 'custom', privileges => 'select, insert');
select app.protect('audit.witnessed', tenant => 'custom', privileges => 'select');
grant insert (scope_id, origin, root) on audit.witnessed to wardmesh_audit;
grant update (size, root, note, cosigned_at) on audit.witnessed to wardmesh_audit;
do $$
declare
    name text;
begin
    foreach name in array array['cosignatures', 'witnessed'] loop
        execute format('create policy scope on audit.%I to wardmesh_audit using (scope_id = (select app.scope_id())) '
                       'with check (scope_id = (select app.scope_id()))', name);
    end loop;
end
$$;
create policy require_select on audit.cosignatures as restrictive for select to wardmesh_audit using
    ((select app.allows('audit.read') or app.allows('audit.seal')));
select app.require('audit.cosignatures', 'insert', 'audit.seal');
-- A permission that no contract has and no token can carry: only the witness's own transactions pass.
select app.require('audit.witnessed', 'select, insert, update', 'audit.cosign');

create trigger append_only before update or delete or truncate on audit.cosignatures
    for each statement execute function audit.refuse_change();
create trigger append_only before delete or truncate on audit.witnessed
    for each statement execute function audit.refuse_change();

create function audit.check_witnessed() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scope_id <> old.scope_id or new.origin <> old.origin or new.size < old.size
       or (new.size = old.size and new.root <> old.root) then
        raise exception 'what was cosigned of a log moves forward only' using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
revoke all on function audit.check_witnessed() from public;
create trigger forward_only before update on audit.witnessed for each row execute function audit.check_witnessed();

-- migrate:down
drop table audit.witnessed, audit.cosignatures;
drop function audit.check_witnessed();
