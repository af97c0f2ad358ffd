-- What of an entry travels to the database when it is appended, as one value: with an array a column, every element of
-- every array cost the service and the database something (docs/adr/0020).

-- migrate:up
create type audit.appended as (
    event_id    text,
    leaf_hash   bytea,
    kept_to     date,
    received_at timestamptz,
    leaf        bytea,
    openings    bytea,
    source      text,
    occurred_at timestamptz,
    category    text,
    action      text,
    outcome     text,
    actor       text,
    acting_for  text,
    targets     text[],
    request_id  text,
    trace_id    text,
    trace_place bigint
);
comment on type audit.appended is 'An entry on its way into the log: what audit.leaves and audit.entries have of it.';

-- migrate:down
drop type audit.appended;
