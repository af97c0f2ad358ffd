"""Administration, and every way to get more out of it than one has."""

from __future__ import annotations

import pytest

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.operation import Empty, Level
from wardmesh.errors import InvalidRequest, OutcomeUnknown, TokenRevoked
from wardmesh.ids import AgentId, ServiceId
from wardmesh_auth.errors import (
    AddressTaken,
    BeyondOwnRights,
    KeyRefused,
    LastOwner,
    NoSuchKey,
    NoSuchPrincipal,
    NotAtHome,
)
from wardmesh_auth.revocation import KNOWN_FOR, Reconciler


async def set_level(auth, caller, principal, level: str) -> contracts.PrincipalInfo:
    request = contracts.SetLevel(principal=principal, level=level)
    return await auth.identities.set_level(auth.call(contracts.SET_LEVEL, caller), request)


async def create_user(auth, caller, email: str, level: str = "member") -> contracts.PrincipalInfo:
    request = contracts.CreateUser(email=email, password="correct horse battery staple", level=level)
    return await auth.identities.create_user(auth.call(contracts.CREATE_USER, caller), request)


async def create_agent(auth, caller, level: str = "restricted") -> contracts.PrincipalInfo:
    request = contracts.CreateAgent(name="researcher", level=level)
    return await auth.identities.create_agent(auth.call(contracts.CREATE_AGENT, caller), request)


async def revoke(auth, caller, principal) -> contracts.Revoked:
    request = contracts.RevokePrincipal(principal=principal)
    return await auth.revocations.revoke_principal(auth.call(contracts.REVOKE_PRINCIPAL, caller), request)


@pytest.fixture
async def acme(auth):
    """The owner, in a workspace of its own."""
    made = await auth.sign_up()
    organization = auth.authenticate((await auth.log_in(made.organization)).token)
    workspace = await auth.in_workspace(organization, made.workspace)
    return organization, workspace


# --- what works


async def test_a_caller_learns_who_it_is(auth, acme) -> None:
    _, owner = acme
    identity = await auth.identities.who_am_i(auth.call(contracts.WHO_AM_I, owner), Empty())
    assert (identity.principal, identity.scope, identity.level) == (owner.principal, owner.scope, "owner")


async def test_workspaces_are_made_listed_and_reached(auth, acme) -> None:
    owner, _ = acme
    made = await auth.identities.create_workspace(
        auth.call(contracts.CREATE_WORKSPACE, owner), contracts.CreateWorkspace(name="second")
    )
    listed = await auth.identities.list_workspaces(
        auth.call(contracts.LIST_WORKSPACES, owner), contracts.ListWorkspaces()
    )
    assert [workspace.name for workspace in listed.workspaces] == ["main", "second"]
    assert (await auth.in_workspace(owner, made.id)).level is Level.OWNER


async def test_an_agent_with_a_narrow_key_holds_what_the_key_lists(auth, acme) -> None:
    _, owner = acme
    agent = await create_agent(auth, owner)
    caller = await auth.exchange(await auth.key(owner, agent.id, ("secret.read", "audit.write")))
    assert caller.principal == agent.id
    assert caller.permissions == {"secret.read", "audit.write"}
    assert caller.level is Level.RESTRICTED


async def test_who_can_act_is_listed_with_those_of_the_organization(auth, acme) -> None:
    organization, workspace = acme
    agent = await create_agent(auth, workspace)
    await create_user(auth, organization, "bob@example.com", "viewer")
    listed = await auth.identities.list_principals(
        auth.call(contracts.LIST_PRINCIPALS, workspace), contracts.ListPrincipals()
    )
    held = {info.id: (info.scope, info.level) for info in listed.principals}
    assert held == {
        organization.principal: (organization.scope, "owner"),
        agent.id: (workspace.scope, "restricted"),
    }


async def test_an_address_is_one_users(auth, acme) -> None:
    owner, _ = acme
    await create_user(auth, owner, "bob@example.com")
    with pytest.raises(AddressTaken):
        await create_user(auth, owner, "bob@example.com")


# --- more than one holds


@pytest.mark.parametrize("level", list(Level))
async def test_nobody_makes_or_raises_somebody_above_themselves(auth, acme, level: Level) -> None:
    _, owner = acme
    caller = await auth.actor(owner, level.label)
    target = await create_agent(auth, owner)
    for wanted in Level:
        allowed = wanted <= level
        for attempt in (
            lambda wanted=wanted: create_agent(auth, caller, wanted.label),
            lambda wanted=wanted: create_user(auth, caller, f"{wanted.label}@example.com", wanted.label),
            lambda wanted=wanted: set_level(auth, caller, target.id, wanted.label),
        ):
            if allowed:
                await attempt()
                if target is not None:
                    await set_level(auth, owner, target.id, "restricted")
            else:
                with pytest.raises(BeyondOwnRights):
                    await attempt()


async def test_a_narrow_token_of_an_owner_grants_only_what_it_lists(auth, acme) -> None:
    _, owner = acme
    narrow = await auth.actor(owner, "owner", ("key.create", "agent.create", "secret.read"))
    assert narrow.level is Level.OWNER
    agent = await create_agent(auth, narrow)
    await auth.key(narrow, agent.id, ("secret.read",))
    with pytest.raises(BeyondOwnRights):
        await auth.key(narrow, agent.id, ("secret.read", "secret.write"))
    for level in ("viewer", "owner"):
        with pytest.raises(BeyondOwnRights):
            await create_agent(auth, narrow, level)


async def test_a_key_for_somebody_higher_is_refused(auth, acme) -> None:
    _, owner = acme
    operator = await auth.actor(owner, "operator")
    admin = await auth.identities.create_service_account(
        auth.call(contracts.CREATE_SERVICE_ACCOUNT, owner),
        contracts.CreateServiceAccount(name="admin", level="admin"),
    )
    for permissions in (None, ("secret.read",)):
        with pytest.raises(BeyondOwnRights):
            await auth.key(operator, admin.id, permissions)


async def test_a_key_does_not_rise_with_its_principal_above_its_maker(auth, acme) -> None:
    _, owner = acme
    operator = await auth.actor(owner, "operator")
    account = await auth.identities.create_service_account(
        auth.call(contracts.CREATE_SERVICE_ACCOUNT, owner),
        contracts.CreateServiceAccount(name="backend", level="member"),
    )
    key = await auth.key(operator, account.id)
    await set_level(auth, owner, account.id, "owner")
    assert (await auth.exchange(key)).level is Level.OPERATOR


async def test_a_narrow_key_shrinks_with_its_principal(auth, acme) -> None:
    _, owner = acme
    account, key = await auth.service(owner, "member", ("identity.read", "event.publish"))
    assert (await auth.exchange(key)).permissions == {"identity.read", "event.publish"}
    for level, left in (("viewer", {"identity.read"}), ("restricted", set())):
        await set_level(auth, owner, account.id, level)
        auth.clock.tick(seconds=2)
        assert (await auth.exchange(key)).permissions == left


async def test_permissions_that_mean_nothing_are_named(auth, acme) -> None:
    _, owner = acme
    agent = await create_agent(auth, owner)
    for listed in (("world.rule",), ("key.create",)):
        with pytest.raises(InvalidRequest) as refused:
            await auth.key(owner, agent.id, listed)
        assert listed[0] in refused.value.violations[0].message
    member = await create_agent(auth, owner, "member")
    with pytest.raises(InvalidRequest):
        await auth.key(owner, member.id, ("audit.read",))


async def test_users_have_no_keys(auth, acme) -> None:
    owner, _ = acme
    with pytest.raises(InvalidRequest):
        await auth.key(owner, owner.principal)


async def test_a_key_is_for_somebody_who_can_act_in_the_scope(auth, acme) -> None:
    organization, workspace = acme
    agent = await create_agent(auth, workspace)
    for caller, principal in [(organization, agent.id), (workspace, ServiceId.new()), (workspace, AgentId.new())]:
        with pytest.raises(NoSuchPrincipal):
            await auth.key(caller, principal, ("secret.read",))


async def test_nobody_lowers_or_revokes_somebody_higher(auth, acme) -> None:
    organization, workspace = acme
    admin = await auth.actor(workspace, "admin")
    with pytest.raises(BeyondOwnRights):
        await set_level(auth, admin, organization.principal, "viewer")
    organization_admin = await auth.actor(organization, "admin")
    with pytest.raises(BeyondOwnRights):
        await revoke(auth, organization_admin, organization.principal)


async def test_the_last_owner_stays(auth, acme) -> None:
    owner, _ = acme
    with pytest.raises(LastOwner):
        await set_level(auth, owner, owner.principal, "admin")
    with pytest.raises(LastOwner):
        await revoke(auth, owner, owner.principal)
    second = await create_user(auth, owner, "bob@example.com", "owner")
    await set_level(auth, owner, owner.principal, "admin")
    assert second.level == "owner"


async def test_an_agent_stays_in_its_workspace(auth, acme) -> None:
    organization, workspace = acme
    agent = await create_agent(auth, workspace)
    made = await auth.identities.create_workspace(
        auth.call(contracts.CREATE_WORKSPACE, organization), contracts.CreateWorkspace(name="second")
    )
    second = await auth.in_workspace(organization, made.id)
    for caller in (organization, second):
        with pytest.raises(NotAtHome):
            await set_level(auth, caller, agent.id, "member")
    with pytest.raises(NotAtHome):
        await revoke(auth, second, agent.id)
    await revoke(auth, organization, agent.id)


async def test_a_workspaces_administrator_does_not_revoke_users_of_the_organization(auth, acme) -> None:
    _, workspace = acme
    admin = await auth.actor(workspace, "admin")
    user = await create_user(auth, workspace, "bob@example.com", "viewer")
    with pytest.raises(NotAtHome):
        await revoke(auth, admin, user.id)


async def test_another_tenants_principals_and_keys_do_not_exist(auth, acme) -> None:
    _, owner = acme
    agent = await create_agent(auth, owner)
    made = await auth.identities.create_key(
        auth.call(contracts.CREATE_KEY, owner), contracts.CreateKey(principal=agent.id, name="k")
    )
    other = await auth.sign_up()
    rival = auth.authenticate((await auth.log_in(other.organization)).token)
    with pytest.raises(NoSuchPrincipal):
        await set_level(auth, rival, agent.id, "member")
    with pytest.raises(NoSuchPrincipal):
        await revoke(auth, rival, agent.id)
    with pytest.raises(NoSuchKey):
        await auth.revocations.revoke_key(auth.call(contracts.REVOKE_KEY, rival), contracts.RevokeKey(key=made.id))


# --- taking back


async def test_lowering_a_level_refuses_tokens_that_say_more(auth, acme) -> None:
    _, owner = acme
    account, key = await auth.service(owner, "admin")
    before = await auth.exchange(key)
    auth.clock.tick(seconds=2)
    await set_level(auth, owner, account.id, "viewer")
    with pytest.raises(TokenRevoked):
        auth_check(auth, before)
    auth.clock.tick(seconds=2)
    assert (await auth.exchange(key)).level is Level.VIEWER


def auth_check(auth, caller) -> None:
    from wardmesh.server.tokens import check_not_revoked

    check_not_revoked(caller, auth.board.posted)


async def test_a_revoked_key_is_refused_everywhere_and_its_connections_drop(auth, acme) -> None:
    _, owner = acme
    account, key = await auth.service(owner, "member")
    caller = await auth.exchange(key)
    auth.connections.live[account.id] = 3
    auth.clock.tick(seconds=2)
    request = contracts.RevokeKey(key=caller.credential_id)
    revoked = await auth.revocations.revoke_key(auth.call(contracts.REVOKE_KEY, owner), request)
    assert revoked.connections_closed == 3
    with pytest.raises(TokenRevoked):
        auth_check(auth, caller)
    with pytest.raises(KeyRefused):
        await auth.exchange(key)
    again = await auth.revocations.revoke_key(auth.call(contracts.REVOKE_KEY, owner), request)
    assert again.revoked_at == revoked.revoked_at


async def test_a_revoked_principal_has_nothing_left(auth, acme) -> None:
    owner, _ = acme
    user = await create_user(auth, owner, "bob@example.com")
    session = await auth.log_in(owner.organization, email="bob@example.com")
    account, key = await auth.service(owner, "member")
    for principal in (user.id, account.id):
        await revoke(auth, owner, principal)
    with pytest.raises(TokenRevoked):
        auth.authenticate(session.token)
    with pytest.raises(KeyRefused):
        await auth.exchange(key)
    with pytest.raises(Exception, match="credential_refused"):
        await auth.log_in(owner.organization, email="bob@example.com")
    with pytest.raises(Exception, match="credential_refused"):
        await auth.sessions.refresh(
            auth.call(contracts.REFRESH), contracts.Refresh(refresh_token=session.refresh_token)
        )


async def test_a_revocation_that_could_not_be_told_is_told_by_the_reconciler(auth, acme, fake_ledger) -> None:
    _, owner = acme
    _account, key = await auth.service(owner, "member")
    caller = await auth.exchange(key)
    auth.board.is_down = True
    request = contracts.RevokeKey(key=caller.credential_id)
    with pytest.raises(OutcomeUnknown):
        await auth.revocations.revoke_key(auth.call(contracts.REVOKE_KEY, owner), request)
    with pytest.raises(KeyRefused):  # it is true all the same
        await auth.exchange(key)
    reconciler = Reconciler(fake_ledger, auth.board, auth.board.posted, auth.clock)
    with pytest.raises(OutcomeUnknown):
        await reconciler.reconcile()
    auth.board.is_down = False
    assert await reconciler.reconcile() == 1
    assert await reconciler.reconcile() == 0
    with pytest.raises(TokenRevoked):
        auth_check(auth, caller)
    auth.clock.tick(seconds=KNOWN_FOR.total_seconds() + 1)
    auth.board.posted.clear()
    assert await reconciler.reconcile() == 0, "no token that it concerns is alive"


async def test_connections_that_cannot_be_dropped_do_not_undo_a_revocation(auth, acme) -> None:
    _, owner = acme
    _account, key = await auth.service(owner, "member")
    caller = await auth.exchange(key)
    auth.connections.is_down = True
    revoked = await auth.revocations.revoke_key(
        auth.call(contracts.REVOKE_KEY, owner), contracts.RevokeKey(key=caller.credential_id)
    )
    assert revoked.connections_closed == 0
    with pytest.raises(KeyRefused):
        await auth.exchange(key)


async def test_every_change_is_in_the_log_of_its_scope_and_no_secret_with_it(auth, acme) -> None:
    _, owner = acme
    _account, key = await auth.service(owner, "member")
    events = [event for scope, event in auth.store.audited if scope == owner.scope]
    assert {"service_account.create", "key.create"} <= {event.action for event in events}
    everything = " ".join(event.model_dump_json() for _, event in auth.store.audited)
    assert key not in everything
    assert "correct horse" not in everything


async def test_keys_are_listed_without_themselves(auth, acme) -> None:
    _, owner = acme
    account, key = await auth.service(owner, "member")
    listed = await auth.identities.list_keys(auth.call(contracts.LIST_KEYS, owner), contracts.ListKeys())
    assert [info.principal for info in listed.keys] == [account.id]
    assert key not in listed.model_dump_json()
