-- A forwarder may show a client's certificate (docs/adr/0024). Certificate and key are in `sealed`, which has room for
-- them now; a row says when the certificate expires, so that a list can say so without opening anything.

-- migrate:up
set local lock_timeout = '5s';
alter table audit.forwarders add column certificate_until timestamptz;
alter table audit.forwarders drop constraint forwarders_sealed_check;
alter table audit.forwarders
    add constraint forwarders_sealed_check check (octet_length(sealed) between 1 and 65536) not valid;
alter table audit.forwarders validate constraint forwarders_sealed_check;
grant update (certificate_until) on audit.forwarders to wardmesh_audit;
drop trigger changed_as_a_whole on audit.forwarders;
create trigger changed_as_a_whole
    before update of incarnation, address, format, secret_header, has_secret, certificate_until, sealed, filter
    on audit.forwarders for each row execute function audit.check_forwarder();

-- migrate:down
drop trigger changed_as_a_whole on audit.forwarders;
create trigger changed_as_a_whole before update of incarnation, address, format, secret_header, has_secret, sealed, filter
    on audit.forwarders for each row execute function audit.check_forwarder();
alter table audit.forwarders drop constraint forwarders_sealed_check;
alter table audit.forwarders add constraint forwarders_sealed_check check (octet_length(sealed) between 1 and 16384);
alter table audit.forwarders drop column certificate_until;
