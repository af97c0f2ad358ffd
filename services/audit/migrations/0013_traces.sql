-- Where a trace is looked for: beside those that were sealed at the same time (docs/adr/0019).
--
-- Traces come at random. Whatever is sorted, or hashed, by their ids touches a page for each, of an index as large as all
-- logs together: at ten million entries that was half of what an append cost. `trace_place` has the part of the log before
-- the trace, so an append touches the pages of that part, which are few and at hand.
--
-- Entries from before have none, and are found by an index of their own.

-- migrate:up
set local lock_timeout = '5s';
alter table audit.entries add column trace_place bigint;
do $$
declare
    old record;
begin
    for old in select indexrelid::regclass as name from pg_index
                where indrelid = 'audit.entries'::regclass and pg_get_indexdef(indexrelid) ilike '% using hash (trace_id)%'
    loop
        execute format('drop index %s', old.name);
    end loop;
end
$$;
create index on audit.entries (scope_id, trace_place, index) where trace_place is not null;
create index on audit.entries using hash (trace_id) where trace_id is not null and trace_place is null;

-- migrate:down
do $$
declare
    made record;
begin
    for made in select indexrelid::regclass as name from pg_index
                 where indrelid = 'audit.entries'::regclass and pg_get_indexdef(indexrelid) like '%trace_place%'
    loop
        execute format('drop index %s', made.name);
    end loop;
end
$$;
create index on audit.entries using hash (trace_id) where trace_id is not null;
alter table audit.entries drop column trace_place;
