"""What every store must do: the fake and the real one are held to the same."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.operation import Level
from wardmesh.ids import AgentId, KeyId, OrgId, Scope, ServiceId, SessionId, UserId, WorkspaceId
from wardmesh.server.database_errors import ConstraintConflict
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.domain import (
    KEPT_GENERATIONS,
    Levels,
    StoredKey,
    StoredPrincipal,
    StoredRefreshToken,
    StoredSession,
    StoredWorkspace,
    user_of,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
EVERYTHING = frozenset(
    {
        "organization.create", "workspace.create", "user.create", "agent.create", "service_account.create",
        "principal.set_level", "principal.revoke", "key.create", "key.revoke", "password.check", "session.open",
    }
)  # fmt: skip


class Organization:
    """An organization with one workspace and an owner, in the store under test."""

    def __init__(self, store) -> None:
        self.store = store
        self.id = OrgId.new()
        self.workspace = WorkspaceId.new()
        self.owner = UserId.new()

    def rows(self, scope: Scope | None = None, *, read_only: bool = False):
        workspace = scope if isinstance(scope, WorkspaceId) else None
        return self.store.transaction(TenantContext(self.id, workspace, self.owner, EVERYTHING), read_only=read_only)

    async def make(self) -> Organization:
        async with self.rows() as rows:
            await rows.add_organization(self.id, "Acme", NOW)
            await rows.add_workspace(StoredWorkspace(self.workspace, "main", NOW))
            await rows.add_principal(user_of(self.owner, self.id, "ada@example.com", NOW))
            await rows.add_password(self.owner, "$argon2id$ada")
            await rows.add_level(self.owner, Level.OWNER)
        return self

    async def service(self, scope: Scope, level: Level | None = None) -> ServiceId:
        service = ServiceId.new()
        async with self.rows(scope) as rows:
            await rows.add_principal(StoredPrincipal(service, scope, "backend", NOW))
            if level is not None:
                await rows.add_level(service, level)
        return service

    async def key(self, scope: Scope, principal: ServiceId, **changes: object) -> StoredKey:
        fields: dict[str, object] = {
            "id": KeyId.new(), "scope": scope, "principal": principal, "name": "k", "secret_hash": bytes(32),
            "permissions": frozenset({"secret.read", "audit.write"}), "granting": True, "ceiling": Level.ADMIN,
            "created_at": NOW, "expires_at": NOW + timedelta(days=1),
        }  # fmt: skip
        key = StoredKey(**(fields | changes))  # type: ignore[arg-type]
        async with self.rows(scope) as rows:
            await rows.add_key(key)
        return key

    async def session(self) -> StoredSession:
        session = StoredSession(
            id=SessionId.new(), user=self.owner, scope=self.workspace, generation=1, siblings=1, rotated_at=NOW,
            created_at=NOW, expires_at=NOW + timedelta(days=30),
        )  # fmt: skip
        async with self.rows() as rows:
            await rows.add_session(session)
        return session


@pytest.fixture
async def acme(store) -> Organization:
    return await Organization(store).make()


@pytest.fixture
async def rival(store) -> Organization:
    return await Organization(store).make()


async def test_what_was_added_is_there(acme: Organization) -> None:
    async with acme.rows(read_only=True) as rows:
        assert await rows.has_organization()
        assert await rows.has_workspace(acme.workspace)
        assert [workspace.name for workspace in await rows.workspaces(after=None, limit=10)] == ["main"]
        owner = await rows.principal(acme.owner)
        assert owner == user_of(acme.owner, acme.id, "ada@example.com", NOW)
        password = await rows.password_of("ada@example.com")
        assert password is not None
        assert (password.user, password.hash, password.revoked) == (acme.owner, "$argon2id$ada", False)
        assert await rows.password_of("eve@example.com") is None


async def test_nothing_of_a_block_that_raises_is_there(acme: Organization) -> None:
    async def fail_halfway() -> None:
        async with acme.rows() as rows:
            await rows.add_workspace(StoredWorkspace(WorkspaceId.new(), "second", NOW))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_halfway()
    async with acme.rows(read_only=True) as rows:
        assert len(await rows.workspaces(after=None, limit=10)) == 1


async def test_pages_go_on_behind_the_last(acme: Organization) -> None:
    async with acme.rows() as rows:
        for name in "bc":
            await rows.add_workspace(StoredWorkspace(WorkspaceId.new(), name, NOW))
        first = await rows.workspaces(after=None, limit=2)
        rest = await rows.workspaces(after=first[-1].id, limit=2)
    assert [workspace.name for workspace in (*first, *rest)] == ["main", "b", "c"]


async def test_an_address_belongs_to_one_user_of_an_organization(acme: Organization, rival: Organization) -> None:
    with pytest.raises(ConstraintConflict):
        async with acme.rows() as rows:
            await rows.add_principal(user_of(UserId.new(), acme.id, "ada@example.com", NOW))
    assert acme.id != rival.id  # both have their own ada@example.com


async def test_levels_are_those_of_the_scope_and_of_the_organization(acme: Organization, rival: Organization) -> None:
    service = await acme.service(acme.workspace, Level.MEMBER)
    async with acme.rows(read_only=True) as rows:
        assert await rows.levels(acme.owner, acme.workspace) == Levels(None, Level.OWNER)
        assert await rows.levels(acme.owner, acme.id) == Levels(Level.OWNER, Level.OWNER)
        assert await rows.levels(service, acme.workspace) == Levels(Level.MEMBER, None)
        assert await rows.levels(service, acme.id) == Levels()
        assert await rows.highest_level(service) is Level.MEMBER
        assert await rows.highest_level(AgentId.new()) is None


async def test_there_is_no_level_in_a_scope_of_others(acme: Organization, rival: Organization) -> None:
    async with acme.rows(read_only=True) as rows:
        for scope in (rival.workspace, rival.id, WorkspaceId.new()):
            assert await rows.levels(acme.owner, scope) == Levels()
        assert await rows.levels(rival.owner, rival.workspace) == Levels()


async def test_a_level_is_set_in_the_transactions_scope(acme: Organization) -> None:
    service = await acme.service(acme.id)
    async with acme.rows(acme.workspace) as rows:
        await rows.set_level(service, Level.VIEWER)
        await rows.set_level(service, Level.ADMIN)
    async with acme.rows(read_only=True) as rows:
        assert await rows.levels(service, acme.workspace) == Levels(Level.ADMIN, None)


async def test_members_are_those_of_the_scope_and_the_organizations_administrators(acme: Organization) -> None:
    local = await acme.service(acme.workspace, Level.MEMBER)
    await acme.service(acme.id, Level.OPERATOR)  # counts in no workspace
    gone = await acme.service(acme.workspace, Level.MEMBER)
    async with acme.rows() as rows:
        await rows.revoke_principal(gone, NOW)
    async with acme.rows(acme.workspace, read_only=True) as rows:
        members = await rows.members(acme.workspace, after=None, limit=10)
        held = [(member.principal.id, member.scope, member.level) for member in members]
        assert held == [(local, acme.workspace, Level.MEMBER), (acme.owner, acme.id, Level.OWNER)]
        assert [member.principal.id for member in await rows.members(acme.workspace, after=local, limit=1)] == [
            acme.owner
        ]


async def test_owners_are_those_who_are_not_revoked(acme: Organization) -> None:
    second = await acme.service(acme.id, Level.OWNER)
    async with acme.rows() as rows:
        assert await rows.lock_owners() == {acme.owner, second}
        await rows.revoke_principal(second, NOW)
        assert await rows.lock_owners() == {acme.owner}


async def test_two_that_ask_for_the_owners_come_one_after_the_other(acme: Organization) -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        async with acme.rows() as rows:
            await rows.lock_owners()
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            order.append(f"{name} out")

    await asyncio.gather(work("a"), work("b"))
    assert [step.split()[1] for step in order] == ["in", "out", "in", "out"]


async def test_a_key_is_stored_listed_and_revoked_once(acme: Organization) -> None:
    service = await acme.service(acme.workspace, Level.RESTRICTED)
    key = await acme.key(acme.workspace, service)
    plain = await acme.key(acme.workspace, service, permissions=None, granting=False)
    async with acme.rows(acme.workspace) as rows:
        assert await rows.key(key.id) == key
        assert [found.id for found in await rows.keys(acme.workspace, principal=None, after=None, limit=10)] == [
            key.id,
            plain.id,
        ]
        assert await rows.keys(acme.workspace, principal=ServiceId.new(), after=None, limit=10) == []
        assert len(await rows.keys(acme.workspace, principal=service, after=key.id, limit=10)) == 1
        assert await rows.keys(acme.id, principal=None, after=None, limit=10) == []
        assert await rows.revoke_key(key.id, NOW) == NOW
        assert await rows.revoke_key(key.id, NOW + timedelta(days=1)) == NOW
    async with acme.rows(read_only=True) as rows:
        found = await rows.key(key.id)
        assert found is not None
        assert found.revoked_at == NOW


async def test_a_tenant_sees_nothing_of_another(acme: Organization, rival: Organization) -> None:
    service = await acme.service(acme.workspace, Level.MEMBER)
    key = await acme.key(acme.workspace, service)
    session = await acme.session()
    async with acme.rows() as rows:
        await rows.add_refresh_token(session.id, bytes(32), StoredRefreshToken(1, NOW))
    async with rival.rows() as rows:
        assert await rows.principal(service) is None
        assert await rows.key(key.id) is None
        assert not await rows.has_workspace(acme.workspace)
        assert await rows.lock_session(session.id) is None
        assert await rows.refresh_token(session.id, bytes(32)) is None
        assert [workspace.id for workspace in await rows.workspaces(after=None, limit=10)] == [rival.workspace]
        assert await rows.members(acme.workspace, after=None, limit=10) == [
            *(await rows.members(rival.workspace, after=None, limit=10))
        ]


async def test_a_workspaces_transaction_shows_no_other_workspace(acme: Organization) -> None:
    second = WorkspaceId.new()
    async with acme.rows() as rows:
        await rows.add_workspace(StoredWorkspace(second, "second", NOW))
    service = await acme.service(acme.workspace, Level.MEMBER)
    key = await acme.key(acme.workspace, service)
    async with acme.rows(second, read_only=True) as rows:
        assert await rows.key(key.id) is None
        assert await rows.levels(service, acme.workspace) == Levels()
        assert await rows.highest_level(service) is None
        assert [workspace.id for workspace in await rows.workspaces(after=None, limit=10)] == [second]


async def test_a_revoked_principal_loses_keys_sessions_and_levels(acme: Organization) -> None:
    service = await acme.service(acme.id, Level.MEMBER)
    key = await acme.key(acme.id, service)
    session = await acme.session()
    later = NOW + timedelta(hours=1)
    async with acme.rows() as rows:
        assert await rows.revoke_principal(service, NOW) == NOW
        assert await rows.revoke_principal(service, later) == NOW
        assert await rows.revoke_principal(acme.owner, later) == later
        assert await rows.levels(service, acme.id) == Levels()
        revoked_key, revoked_session = await rows.key(key.id), await rows.lock_session(session.id)
        assert revoked_key is not None
        assert revoked_session is not None
        assert (revoked_key.revoked_at, revoked_session.revoked_at) == (NOW, later)
        password = await rows.password_of("ada@example.com")
        assert password is not None
        assert password.revoked


async def test_a_session_goes_through_its_generations(acme: Organization) -> None:
    session = await acme.session()
    async with acme.rows() as rows:
        await rows.add_refresh_token(session.id, b"1" * 32, StoredRefreshToken(1, NOW))
        await rows.begin_generation(session.id, 2, NOW + timedelta(minutes=9))
        await rows.add_sibling(session.id)
        found = await rows.lock_session(session.id)
        assert found is not None
        assert (found.generation, found.siblings, found.rotated_at) == (2, 2, NOW + timedelta(minutes=9))
        assert await rows.refresh_token(session.id, b"1" * 32) == StoredRefreshToken(1, NOW)
        assert await rows.refresh_token(SessionId.new(), b"1" * 32) is None
        await rows.begin_generation(session.id, KEPT_GENERATIONS + 2, NOW)
        assert await rows.refresh_token(session.id, b"1" * 32) is None
        assert await rows.revoke_session(session.id, NOW) == NOW
        assert await rows.revoke_session(session.id, NOW + timedelta(days=1)) == NOW


async def test_two_that_ask_for_a_session_come_one_after_the_other(acme: Organization) -> None:
    session = await acme.session()

    async def rotate() -> int:
        async with acme.rows() as rows:
            found = await rows.lock_session(session.id)
            assert found is not None
            await asyncio.sleep(0.02)
            await rows.begin_generation(session.id, found.generation + 1, NOW)
            return found.generation

    assert sorted(await asyncio.gather(*(rotate() for _ in range(4)))) == [1, 2, 3, 4]


async def test_the_fake_keeps_the_audit_event_with_the_change_too(auth) -> None:
    """The outbox of the real one is looked at in test_postgres.py."""
    store = auth.store
    acme = await Organization(store).make()
    call = auth.call(contracts.SIGN_UP)
    call.identify(organization=acme.id, scope=acme.id, principal=acme.owner, permissions=EVERYTHING)
    with pytest.raises(ZeroDivisionError):
        async with store.change(call):
            raise ZeroDivisionError
    assert not store.audited
    async with store.change(call) as rows:
        await rows.add_workspace(StoredWorkspace(WorkspaceId.new(), "second", NOW))
    assert [event.action for _, event in store.audited] == ["organization.create"]
