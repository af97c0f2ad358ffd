"""Attacks on the vault's tables, in a real PostgreSQL: by a superuser who moves rows, and by the service's own role."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.operation import Empty, Level
from wardmesh.contracts.secrets import GetSecret, PutSecret
from wardmesh.crypto.sealing import seal_to
from wardmesh.crypto.vault import get_info, put_info
from wardmesh.server.database import Database, DatabaseRefused, TenantContext
from wardmesh.server.kek import LocalKey
from wardmesh.server.rls import violations
from wardmesh_secrets.crypto import Keyring
from wardmesh_secrets.errors import StoredUnopenable
from wardmesh_secrets.service import VaultService
from wardmesh_secrets.store import PostgresStore

KEK = bytes(range(32))
CANARY = b"sk-canary-93ab61"


@pytest.fixture
def service(database: Database, now: datetime) -> VaultService:
    return VaultService(PostgresStore(database), Keyring(LocalKey(KEK)), lambda: now)


async def put(service: VaultService, who: Any, path: str, value: bytes) -> None:
    key = await service.sealing_key(who.ask(contracts.SEALING_KEY), Empty())
    call = who.ask(contracts.PUT)
    info = put_info(
        workspace=who.caller.workspace,
        principal=who.caller.principal,
        path=path,
        key_id=key.key_id,
        request_id=call.request_id,
    )
    await service.put(call, PutSecret(path=path, key_id=key.key_id, sealed=seal_to(key.public_key, value, info)))


async def get(service: VaultService, who: Any, path: str, version: int | None = None) -> bytes:
    call = who.ask(contracts.GET)
    answer = await service.get(call, GetSecret(path=path, version=version))
    info = get_info(
        workspace=who.caller.workspace,
        principal=who.caller.principal,
        path=path,
        version=answer.version,
        request_id=call.request_id,
    )
    opened: bytes = who.holder.open(answer.sealed, info)
    return opened


@asynccontextmanager
async def tampering(superuser: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """As superuser, without foreign keys and triggers."""
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")
        yield superuser


async def test_moved_to_another_path(service: VaultService, admin: Any, superuser: Any) -> None:
    await put(service, admin, "dear", CANARY)
    await put(service, admin, "cheap", b"mine")
    async with tampering(superuser) as connection:
        workspace = admin.caller.workspace
        versions = "secrets.secret_versions where workspace_id = $1"
        await connection.execute(f"delete from {versions} and path = 'cheap'", workspace)  # noqa: S608
        await connection.execute("update secrets.secret_versions set path = 'cheap' where workspace_id = $1", workspace)
    with pytest.raises(StoredUnopenable):
        await get(service, admin, "cheap")


async def test_an_old_version_passed_off_as_the_newest(service: VaultService, admin: Any, superuser: Any) -> None:
    await put(service, admin, "a", b"revoked")
    await put(service, admin, "a", b"current")
    assert await get(service, admin, "a") == b"current"
    async with tampering(superuser) as connection:
        workspace = admin.caller.workspace
        versions = "secrets.secret_versions where workspace_id = $1"
        await connection.execute(f"delete from {versions} and version = 2", workspace)  # noqa: S608
        await connection.execute("update secrets.secret_versions set version = 2 where workspace_id = $1", workspace)
    with pytest.raises(StoredUnopenable):
        await get(service, admin, "a")
    with pytest.raises(StoredUnopenable):
        await get(service, admin, "a", 2)


@pytest.mark.parametrize("with_scope_key", [False, True])
async def test_moved_to_another_workspace(
    service: VaultService, admin: Any, person: Callable[..., Any], superuser: Any, with_scope_key: bool
) -> None:
    thief = person(Level.OWNER)
    await put(service, admin, "a", CANARY)
    await put(service, thief, "a", b"mine")
    tables = ["secret_versions", "scope_keys"] if with_scope_key else ["secret_versions"]
    async with tampering(superuser) as connection:
        for table in tables:
            await connection.execute(
                f"delete from secrets.{table} where workspace_id = $1",  # noqa: S608
                thief.caller.workspace,
            )
            await connection.execute(
                f"update secrets.{table} set org_id = $1, workspace_id = $2 where workspace_id = $3",  # noqa: S608
                thief.caller.organization,
                thief.caller.workspace,
                admin.caller.workspace,
            )
    with pytest.raises(StoredUnopenable):
        await get(service, thief, "a")


@pytest.mark.parametrize("column", ["wrapped_key", "ciphertext"])
async def test_half_of_another_row(service: VaultService, admin: Any, superuser: Any, column: str) -> None:
    await put(service, admin, "a", CANARY)
    await put(service, admin, "b", b"mine")
    async with tampering(superuser) as connection:
        await connection.execute(
            f"update secrets.secret_versions b set {column} = a.{column} from secrets.secret_versions a"  # noqa: S608
            " where b.workspace_id = $1 and b.path = 'b' and a.workspace_id = $1 and a.path = 'a'",
            admin.caller.workspace,
        )
    with pytest.raises(StoredUnopenable):
        await get(service, admin, "b")
    assert await get(service, admin, "a") == CANARY


async def test_a_sealing_key_of_the_attacker(
    service: VaultService, admin: Any, person: Callable[..., Any], superuser: Any
) -> None:
    """Wrapping needs the key encryption key, so an exchanged public half is noticed when a value arrives."""
    thief = person(Level.OWNER)
    await service.sealing_key(admin.ask(contracts.SEALING_KEY), Empty())
    async with tampering(superuser) as connection:
        await connection.execute(
            "update secrets.sealing_keys set public_key = $1 where workspace_id = $2",
            thief.holder.public_bytes,
            admin.caller.workspace,
        )
    with pytest.raises(StoredUnopenable):
        await put(service, admin, "a", CANARY)


async def test_another_key_file(service: VaultService, database: Database, admin: Any, now: datetime) -> None:
    await put(service, admin, "a", CANARY)
    other = VaultService(PostgresStore(database), Keyring(LocalKey(bytes(32))), lambda: now)
    with pytest.raises(StoredUnopenable, match="key file"):
        await get(other, admin, "a")


async def test_replicas_share_everything(service: VaultService, database: Database, admin: Any, now: datetime) -> None:
    await put(service, admin, "a", CANARY)
    replica = VaultService(PostgresStore(database), Keyring(LocalKey(KEK)), lambda: now)
    assert await get(replica, admin, "a") == CANARY
    await put(replica, admin, "a", b"two")
    assert await get(service, admin, "a") == b"two"


async def test_nothing_in_the_tables_is_a_value_or_a_key(service: VaultService, admin: Any, superuser: Any) -> None:
    await put(service, admin, "a", CANARY)
    for table in ("secrets", "secret_versions", "scope_keys", "sealing_keys", "outbox"):
        rows = await superuser.fetch(f"select t::text as shown from secrets.{table} t")  # noqa: S608
        shown = " ".join(row["shown"] for row in rows)
        assert CANARY.hex() not in shown
        assert CANARY.decode() not in shown
        assert KEK.hex() not in shown


async def test_row_level_security_has_no_gaps(superuser: Any) -> None:
    assert await violations(superuser) == []


def context(who: Any, *permissions: str) -> TenantContext:
    caller = who.caller
    return TenantContext(caller.organization, caller.workspace, caller.principal, frozenset(permissions))


async def test_without_the_permission_the_database_refuses_as_well(
    service: VaultService, database: Database, admin: Any
) -> None:
    await put(service, admin, "a", CANARY)
    async with database.transaction(context(admin, "secret.read")) as connection:
        assert await connection.fetchval("select count(*) from secrets.secret_versions") == 1
    async with database.transaction(context(admin, "secret.write", "secret.list")) as connection:
        assert await connection.fetchval("select count(*) from secrets.secret_versions") == 0
    grant = "insert into secrets.grants (principal_id, pattern, created_at) values (app.principal_id(), 'a', now())"
    with pytest.raises(DatabaseRefused):
        async with database.transaction(context(admin, "secret.read", "secret.list_grants")) as connection:
            await connection.execute(grant)
    write = "insert into secrets.secrets (path, versions, created_at, updated_at) values ('b', 1, now(), now())"
    with pytest.raises(DatabaseRefused):
        async with database.transaction(context(admin, "secret.read")) as connection:
            await connection.execute(write)


@pytest.mark.parametrize(
    "statement",
    [
        "update secrets.secret_versions set path = 'b'",
        "delete from secrets.secret_versions",
        "delete from secrets.scope_keys",
        "update secrets.sealing_keys set public_key = wrapped",
        "delete from secrets.secrets",
        "truncate secrets.grants",
        "update secrets.grants set pattern = 'a/*'",
        "alter table secrets.grants disable row level security",
        "select * from secrets.outbox",
    ],
)
async def test_what_the_services_role_cannot_do(database: Database, admin: Any, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(context(admin, "secret.write", "secret.read", "secret.grant")) as connection:
            await connection.execute(statement)


async def test_grants_of_others_are_not_seen(
    service: VaultService, database: Database, admin: Any, person: Callable[..., Any]
) -> None:
    member = person(Level.MEMBER, like=admin)
    for who in (member, admin):
        request = contracts.GrantSecret(pattern="a/*", principal=who.caller.principal)
        await service.grant(admin.ask(contracts.GRANT), request)
    async with database.transaction(context(member, "secret.read", "secret.list")) as connection:
        seen = await connection.fetch("select principal_id from secrets.grants")
    assert [row["principal_id"] for row in seen] == [member.caller.principal]
