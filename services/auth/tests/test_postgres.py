"""What only a real PostgreSQL can show: policies that refuse, the outbox, and the ledger across tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.operation import Level
from wardmesh.ids import AgentId, KeyId, OrgId, RequestId, ServiceId, SessionId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import DatabaseRefused
from wardmesh.server.outbox import Outbox
from wardmesh.server.rls import violations
from wardmesh.server.runtime import OutboxAudit
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.domain import StoredKey, StoredPrincipal, StoredSession, StoredWorkspace, user_of
from wardmesh_auth.ports import Identities
from wardmesh_auth.store import PostgresLedger, PostgresStore

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ORG, WORKSPACE, USER = OrgId.new(), WorkspaceId.new(), UserId.new()
SIGN_UP = frozenset({"organization.create", "workspace.create", "user.create"})


@pytest.fixture
async def store(database) -> PostgresStore:
    store = PostgresStore(database)
    async with store.transaction(TenantContext(ORG, None, USER, SIGN_UP), read_only=False) as rows:
        if not await rows.has_organization():
            await rows.add_organization(ORG, "Acme", NOW)
            await rows.add_workspace(StoredWorkspace(WORKSPACE, "main", NOW))
            await rows.add_principal(user_of(USER, ORG, "ada@example.com", NOW))
            await rows.add_password(USER, "$argon2id$ada")
            await rows.add_level(USER, Level.OWNER)
    return store


async def test_the_catalog_has_no_gap(database, superuser) -> None:
    assert await violations(superuser) == []


def a_key(scope: OrgId | WorkspaceId) -> StoredKey:
    return StoredKey(
        id=KeyId.new(), scope=scope, principal=ServiceId.new(), name="k", secret_hash=bytes(32), permissions=None,
        granting=False, ceiling=Level.OWNER, created_at=NOW, expires_at=NOW + timedelta(days=1),
    )  # fmt: skip


def a_session() -> StoredSession:
    return StoredSession(
        id=SessionId.new(), user=USER, scope=ORG, generation=1, siblings=1, rotated_at=NOW, created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )  # fmt: skip


REFUSED: dict[str, Callable[[Identities], Awaitable[object]]] = {
    "organization": lambda rows: rows.add_organization(ORG, "again", NOW),
    "workspace": lambda rows: rows.add_workspace(StoredWorkspace(WorkspaceId.new(), "x", NOW)),
    "user": lambda rows: rows.add_principal(user_of(UserId.new(), ORG, "eve@example.com", NOW)),
    "agent": lambda rows: rows.add_principal(StoredPrincipal(AgentId.new(), WORKSPACE, "x", NOW)),
    "service account": lambda rows: rows.add_principal(StoredPrincipal(ServiceId.new(), ORG, "x", NOW)),
    "level": lambda rows: rows.set_level(USER, Level.VIEWER),
    "password": lambda rows: rows.add_password(UserId.new(), "$argon2id$x"),
    "key": lambda rows: rows.add_key(a_key(ORG)),
    "session": lambda rows: rows.add_session(a_session()),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_the_database_itself_refuses_what_the_permissions_do_not_cover(store: PostgresStore, what: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with store.transaction(TenantContext(ORG, None, USER), read_only=False) as rows:
            await REFUSED[what](rows)


async def test_a_permission_for_agents_makes_no_user(store: PostgresStore) -> None:
    tenant = TenantContext(ORG, WORKSPACE, USER, frozenset({"agent.create"}))
    async with store.transaction(tenant, read_only=False) as rows:
        await rows.add_principal(StoredPrincipal(AgentId.new(), WORKSPACE, "x", NOW))
    with pytest.raises(DatabaseRefused):
        async with store.transaction(tenant, read_only=False) as rows:
            await rows.add_principal(user_of(UserId.new(), ORG, "eve@example.com", NOW))


async def test_hashes_of_passwords_show_only_while_one_is_checked(store: PostgresStore) -> None:
    every_permission = frozenset({"user.create", "principal.revoke", "principal.set_level", "session.open"})
    async with store.transaction(TenantContext(ORG, None, USER, every_permission), read_only=True) as rows:
        assert await rows.password_of("ada@example.com") is None
    async with store.transaction(TenantContext(ORG, None, USER, frozenset({"password.check"})), read_only=True) as rows:
        assert await rows.password_of("ada@example.com") is not None


async def test_a_key_for_another_scope_than_the_transactions_is_refused(store: PostgresStore) -> None:
    permissions = frozenset({"key.create", "service_account.create"})
    key = a_key(ORG)
    tenant = TenantContext(ORG, WORKSPACE, USER, permissions)
    async with store.transaction(tenant, read_only=False) as rows:
        await rows.add_principal(StoredPrincipal(key.principal, WORKSPACE, "x", NOW))
    with pytest.raises(DatabaseRefused):
        async with store.transaction(tenant, read_only=False) as rows:
            await rows.add_key(key)


async def test_a_change_and_its_audit_event_commit_together(store: PostgresStore, superuser) -> None:
    call = Call(
        contracts.CREATE_WORKSPACE,
        scope=ORG,
        principal=USER,
        request_id=RequestId.new(),
        ends_at=asyncio.get_running_loop().time() + 10,
        trace_id=None,
        outbox=OutboxAudit(Outbox("auth")),
    )
    call._tenant = TenantContext(ORG, None, USER, frozenset({"workspace.create"}))
    count = "select count(*) from auth.outbox where org_id = $1"
    before = await superuser.fetchval(count, ORG)
    with pytest.raises(ZeroDivisionError):
        await fail_halfway(store, call)
    assert not call.recorded
    assert await superuser.fetchval(count, ORG) == before
    async with store.change(call) as rows:
        await rows.add_workspace(StoredWorkspace(WorkspaceId.new(), "x", NOW))
    assert await superuser.fetchval(count, ORG) == before + 1
    assert call.recorded


async def fail_halfway(store: PostgresStore, call: Call) -> None:
    async with store.change(call) as rows:
        await rows.add_workspace(StoredWorkspace(WorkspaceId.new(), "x", NOW))
        raise ZeroDivisionError


async def test_the_ledger_reads_all_tenants_and_keeps_the_later_time(store: PostgresStore, database) -> None:
    ledger, other, key = PostgresLedger(database), OrgId.new(), KeyId.new()
    later = NOW + timedelta(minutes=1)
    for organization, identifier, at in [(ORG, USER, NOW), (ORG, USER, later), (ORG, USER, NOW), (other, key, NOW)]:
        async with store.transaction(TenantContext(organization, None, USER), read_only=False) as rows:
            await rows.note_revocation(identifier, at)
    found = await ledger.since(NOW)
    assert (found[USER], found[key]) == (later, NOW)
    assert key not in await ledger.since(NOW + timedelta(seconds=1))
    await ledger.forget_before(NOW + timedelta(seconds=1))
    assert key not in await ledger.since(NOW)
    assert USER in await ledger.since(NOW)
