-- How far each log has been told of, in a row of its own: whoever tells of what was sealed holds it while the broker is
-- waited for, and would otherwise wait for those who hold the head to append, and make them wait (docs/adr/0020).

-- migrate:up
set local lock_timeout = '5s';
create table audit.publications (
    scope_id       app.scope_id not null default app.scope_id() primary key,
    published_size bigint not null default 0 check (published_size >= 0)
);
comment on table audit.publications is 'How far each scope''s log was published to SEALED; its row lock is what orders that.';
insert into audit.publications (scope_id, published_size) select scope_id, published_size from audit.logs;

select app.protect('audit.publications', tenant => 'custom', privileges => 'select');
grant insert (scope_id), update (published_size) on audit.publications to wardmesh_audit;
create policy scope on audit.publications to wardmesh_audit
    using (scope_id = (select app.scope_id())) with check (scope_id = (select app.scope_id()));
select app.require('audit.publications', 'select, insert, update', 'audit.seal');

create or replace function audit.check_head() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scope_id <> old.scope_id or new.size < old.size or new.signed_size < old.signed_size
       or (new.size = old.size and new.root <> old.root) then
        raise exception 'the head of an audit log moves forward only' using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
alter table audit.logs drop column published_size;

create function audit.check_published() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scope_id <> old.scope_id or new.published_size < old.published_size then
        raise exception 'what was published of a log moves forward only' using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
revoke all on function audit.check_published() from public;
create trigger forward_only before update on audit.publications for each row execute function audit.check_published();
create trigger append_only before delete or truncate on audit.publications
    for each statement execute function audit.refuse_change();

-- migrate:down
alter table audit.logs add column published_size bigint not null default 0;
update audit.logs l set published_size = least(p.published_size, l.size)
  from audit.publications p where p.scope_id = l.scope_id;
alter table audit.logs add check (published_size between 0 and size);
grant update (published_size) on audit.logs to wardmesh_audit;
create or replace function audit.check_head() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scope_id <> old.scope_id or new.size < old.size or new.published_size < old.published_size
       or new.signed_size < old.signed_size or (new.size = old.size and new.root <> old.root) then
        raise exception 'the head of an audit log moves forward only' using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
drop table audit.publications;
drop function audit.check_published();
