-- A forwarder may be changed and goes on where it is (docs/adr/0024).
--
-- The service that moves cursors has the right to update rows as well; so that this is all it does, whatever it asks,
-- what a forwarder is changes with the right to forward alone, and then whoever is at it is at it no more.

-- migrate:up
set local lock_timeout = '5s';
grant update (incarnation, address, format, secret_header, has_secret, sealed, filter)
    on audit.forwarders to wardmesh_audit;

create function audit.check_forwarder() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if not app.allows('audit.forward') then
        raise exception 'a forwarder is changed by who may forward' using errcode = 'insufficient_privilege';
    end if;
    if new.incarnation = old.incarnation or new.lease is not null or new.next_index <> old.next_index then
        raise exception 'a forwarder that is changed is another one, at the same place'
            using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;
revoke all on function audit.check_forwarder() from public;

create trigger changed_as_a_whole before update of incarnation, address, format, secret_header, has_secret, sealed, filter
    on audit.forwarders for each row execute function audit.check_forwarder();

-- migrate:down
drop trigger changed_as_a_whole on audit.forwarders;
drop function audit.check_forwarder();
revoke update (incarnation, address, format, secret_header, has_secret, sealed, filter)
    on audit.forwarders from wardmesh_audit;
