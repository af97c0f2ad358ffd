-- The bridge: agreements between two workspaces, their keys, and which messages were admitted.
--
-- An agreement has two owners, so its policies are its own: both sides see it, the source proposes, the target accepts,
-- either ends it. What belongs to an agreement leads with its id, which is not for a tenant to choose.

-- migrate:up

create table bridge.agreements (
    id          app.agreement_id primary key,
    source      app.workspace_id not null default app.workspace_id(),
    source_org  app.org_id not null default app.org_id(),
    target      app.workspace_id not null check (target <> source),
    target_org  app.org_id,
    state       text not null default 'proposed' check (state in ('proposed', 'accepted', 'revoked')),
    proposed_by app.principal_id not null default app.principal_id(),
    accepted_by app.principal_id,
    revoked_by  app.principal_id,
    created_at  timestamptz not null,
    accepted_at timestamptz,
    revoked_at  timestamptz,
    check (state <> 'accepted' or (accepted_at is not null and accepted_by is not null and target_org is not null)),
    check (state <> 'revoked' or (revoked_at is not null and revoked_by is not null))
);
-- Two workspaces have one agreement at a time, whoever proposed it. Only they can collide, and both see it anyway.
create unique index agreements_live on bridge.agreements (least(source, target), greatest(source, target))
    where state <> 'revoked';
create index agreements_source on bridge.agreements (source, id);
create index agreements_target on bridge.agreements (target, id);

select app.protect('bridge.agreements', 'custom', 'select');
grant insert (id, target, created_at) on bridge.agreements to wardmesh_bridge;
grant update (state, accepted_at, accepted_by, target_org, revoked_at, revoked_by) on bridge.agreements
    to wardmesh_bridge;
create policy sides on bridge.agreements for select to wardmesh_bridge
    using ((select app.workspace_id()) in (source, target));
create policy propose on bridge.agreements for insert to wardmesh_bridge
    with check (source = (select app.workspace_id()) and source_org = (select app.org_id()) and state = 'proposed');
create policy accept on bridge.agreements for update to wardmesh_bridge
    using (target = (select app.workspace_id()) and state = 'proposed')
    with check (target = (select app.workspace_id()) and state = 'accepted' and target_org = (select app.org_id())
                and accepted_by = (select app.principal_id()));
create policy revoke on bridge.agreements for update to wardmesh_bridge
    using ((select app.workspace_id()) in (source, target) and state <> 'revoked')
    with check ((select app.workspace_id()) in (source, target) and state = 'revoked'
                and revoked_by = (select app.principal_id()));
select app.require('bridge.agreements', 'insert, update', 'bridge.manage');

-- Wrapped by the key encryption key that `kek_id` names, and bound to agreement, sides and key id.
create table bridge.agreement_keys (
    agreement_id app.agreement_id not null references bridge.agreements,
    key_id       text collate "C" not null,
    kek_id       text not null,
    wrapped      bytea not null,
    created_at   timestamptz not null,
    primary key (agreement_id, key_id)
);
select app.protect('bridge.agreement_keys', 'custom', 'select, insert');
-- What the subquery finds is what row-level security shows of the agreements.
create policy sides on bridge.agreement_keys for select to wardmesh_bridge
    using (exists (select from bridge.agreements a where a.id = agreement_id));
create policy accept on bridge.agreement_keys for insert to wardmesh_bridge
    with check (exists (select from bridge.agreements a where a.id = agreement_id and a.state = 'accepted'
                        and a.target = (select app.workspace_id())));
select app.require('bridge.agreement_keys', 'insert', 'bridge.manage');

-- One row for each message that was admitted: what may be delivered, once. Neither a nonce of a key nor a message's
-- id is ever used for another message.
create table bridge.nonces (
    agreement_id app.agreement_id not null,
    key_id       text collate "C" not null,
    nonce        bytea not null check (octet_length(nonce) = 16),
    message_id   app.message_id not null,
    signature    bytea not null check (octet_length(signature) = 32),
    sender       app.workspace_id not null default app.workspace_id(),
    receiver     app.workspace_id not null,
    expires_at   timestamptz not null,
    admitted_at  timestamptz not null,
    settled_at   timestamptz,
    primary key (agreement_id, key_id, nonce),
    unique (agreement_id, message_id),
    foreign key (agreement_id, key_id) references bridge.agreement_keys
);
create index nonces_expired on bridge.nonces (sender, expires_at);
select app.protect('bridge.nonces', 'custom', 'select, insert, delete');
grant update (settled_at) on bridge.nonces to wardmesh_bridge;
create policy sides on bridge.nonces for select to wardmesh_bridge
    using ((select app.workspace_id()) in (sender, receiver));
create policy admit on bridge.nonces for insert to wardmesh_bridge
    with check (sender = (select app.workspace_id()) and settled_at is null
                and exists (select from bridge.agreements a where a.id = agreement_id and a.state = 'accepted'
                            and receiver <> sender and receiver in (a.source, a.target)));
create policy settle on bridge.nonces for update to wardmesh_bridge
    using (receiver = (select app.workspace_id()) and settled_at is null)
    with check (receiver = (select app.workspace_id()) and settled_at is not null);
-- Long after nobody can send it again: the signature covers the time of expiry. One that was never delivered stays for
-- as long as it may still wait in the stream.
create policy forget on bridge.nonces for delete to wardmesh_bridge
    using (sender = (select app.workspace_id())
           and (expires_at < now() - interval '1 hour' and settled_at is not null
                or expires_at < now() - interval '30 days'));
select app.require('bridge.nonces', 'insert', 'bridge.send');

-- What came out of the stream and was not let in, for both sides that its subject names to look at.
create table bridge.dead_letters (
    receiver  app.workspace_id not null default app.workspace_id(),
    id        app.event_id not null,
    sender    app.workspace_id not null,
    subject   text not null,
    reason    text not null,
    payload   bytea not null,
    buried_at timestamptz not null,
    primary key (receiver, id)
);
select app.protect('bridge.dead_letters', 'custom', 'select, insert');
create policy sides on bridge.dead_letters for select to wardmesh_bridge
    using ((select app.workspace_id()) in (sender, receiver));
create policy bury on bridge.dead_letters for insert to wardmesh_bridge
    with check (receiver = (select app.workspace_id()));

-- migrate:down
