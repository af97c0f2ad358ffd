"""All SQL of the vault.

What always holds: statements are constants, values are parameters, and no statement names a workspace: which rows
there are, row-level security decides by the transaction's settings. Unique keys, not reads before writes, decide
who was first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import asyncpg

from wardmesh.contracts.secrets import Grant, SecretInfo
from wardmesh.ids import Principal, parse_principal
from wardmesh.server.context import Call
from wardmesh.server.database import Connection, Database
from wardmesh_secrets.domain import SealedVersion, StoredScopeKey, StoredSealingKey, StoredVersion

_SEALING_KEY_COLUMNS: Final = "select key_id, public_key, kek_id, wrapped, created_at from secrets.sealing_keys"
_PRESENT_SEALING_KEY: Final = f"{_SEALING_KEY_COLUMNS} where retired_at is null"
_SEALING_KEY: Final = f"{_SEALING_KEY_COLUMNS} where key_id = $1"
_ADD_SEALING_KEY: Final = """
    insert into secrets.sealing_keys (key_id, public_key, kek_id, wrapped, created_at) values ($1, $2, $3, $4, $5)
    on conflict do nothing"""
_SCOPE_KEY: Final = """
    select generation, kek_id, wrapped, created_at from secrets.scope_keys order by generation desc limit 1"""
_ADD_SCOPE_KEY: Final = """
    insert into secrets.scope_keys (generation, kek_id, wrapped, created_at) values ($1, $2, $3, $4)
    on conflict do nothing"""
# The row stays locked until the transaction ends, so that numbers have no gaps and no two writers share one.
_NEXT_VERSION: Final = """
    insert into secrets.secrets as s (path, versions, created_at, updated_at) values ($1, 1, $2, $2)
    on conflict (org_id, workspace_id, path)
    do update set versions = s.versions + 1, updated_at = greatest(s.updated_at, excluded.updated_at)
    returning versions"""
_ADD_VERSION: Final = """
    insert into secrets.secret_versions (path, version, generation, wrapped_key, ciphertext, created_at)
    values ($1, $2, $3, $4, $5, $6)"""
_VERSION: Final = """
    select v.path, v.version, v.created_at, v.generation, v.wrapped_key, v.ciphertext,
           k.kek_id, k.wrapped as scope_key, k.created_at as scope_key_created_at
      from secrets.secret_versions v join secrets.scope_keys k using (org_id, workspace_id, generation)
     where v.path = $1 and ($2::integer is null or v.version = $2)
     order by v.version desc limit 1"""
# `a/*` covers what begins with `a/`: domain.covers, in SQL.
_SECRETS: Final = r"""
    select s.path, s.versions, s.created_at, s.updated_at from secrets.secrets s
     where starts_with(s.path, $1) and ($2::text is null or s.path > $2)
       and ($3::text is null or exists (
           select from secrets.grants g where g.principal_id = $3 and (
               g.pattern = s.path
               or (right(g.pattern, 2) = '/*' and starts_with(s.path, left(g.pattern, -1))))))
     order by s.path limit $4"""
_HOLDS_GRANT: Final = "select exists (select from secrets.grants where principal_id = $1 and pattern = any ($2))"
_ADD_GRANT: Final = """
    insert into secrets.grants (pattern, principal_id, created_at) values ($1, $2, $3) on conflict do nothing"""
_GRANT: Final = """
    select pattern, principal_id, granted_by, created_at from secrets.grants
     where pattern = $1 and principal_id = $2"""
_REMOVE_GRANT: Final = "delete from secrets.grants where pattern = $1 and principal_id = $2"
_GRANTS: Final = """
    select pattern, principal_id, granted_by, created_at from secrets.grants
     where $1::text is null or principal_id = $1 order by principal_id, pattern limit $2"""


class PostgresVault:
    """One transaction. Implements `ports.VaultTransaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def present_sealing_key(self) -> StoredSealingKey | None:
        return _sealing_key(await self._connection.fetchrow(_PRESENT_SEALING_KEY))

    async def sealing_key(self, key_id: str) -> StoredSealingKey | None:
        return _sealing_key(await self._connection.fetchrow(_SEALING_KEY, key_id))

    async def add_sealing_key(self, key: StoredSealingKey) -> None:
        await self._connection.execute(
            _ADD_SEALING_KEY, key.key_id, key.public_key, key.kek_id, key.wrapped, key.created_at
        )

    async def scope_key(self) -> StoredScopeKey | None:
        row = await self._connection.fetchrow(_SCOPE_KEY)
        if row is None:
            return None
        return StoredScopeKey(row["generation"], row["kek_id"], row["wrapped"], row["created_at"])

    async def add_scope_key(self, key: StoredScopeKey) -> None:
        await self._connection.execute(_ADD_SCOPE_KEY, key.generation, key.kek_id, key.wrapped, key.created_at)

    async def next_version(self, path: str, now: datetime) -> int:
        return int(await self._connection.fetchval(_NEXT_VERSION, path, now))

    async def add_version(self, path: str, version: int, sealed: SealedVersion, now: datetime) -> None:
        await self._connection.execute(
            _ADD_VERSION, path, version, sealed.generation, sealed.wrapped_key, sealed.ciphertext, now
        )

    async def version(self, path: str, version: int | None) -> StoredVersion | None:
        row = await self._connection.fetchrow(_VERSION, path, version)
        if row is None:
            return None
        generation = row["generation"]
        return StoredVersion(
            path=row["path"],
            version=row["version"],
            created_at=row["created_at"],
            sealed=SealedVersion(generation, row["wrapped_key"], row["ciphertext"]),
            scope_key=StoredScopeKey(generation, row["kek_id"], row["scope_key"], row["scope_key_created_at"]),
        )

    async def secrets(
        self, *, prefix: str, after: str | None, limit: int, readable_by: Principal | None
    ) -> Sequence[SecretInfo]:
        rows = await self._connection.fetch(_SECRETS, prefix, after, readable_by, limit)
        return [
            SecretInfo(
                path=row["path"], versions=row["versions"], created_at=row["created_at"], updated_at=row["updated_at"]
            )
            for row in rows
        ]

    async def holds_grant(self, principal: Principal, patterns: Sequence[str]) -> bool:
        return bool(await self._connection.fetchval(_HOLDS_GRANT, principal, list(patterns)))

    async def add_grant(self, pattern: str, principal: Principal, now: datetime) -> Grant:
        await self._connection.execute(_ADD_GRANT, pattern, principal, now)
        row = await self._connection.fetchrow(_GRANT, pattern, principal)
        assert row is not None  # noqa: S101 - just inserted, or it was why nothing was
        return _grant(row)

    async def remove_grant(self, pattern: str, principal: Principal) -> bool:
        return await self._connection.execute(_REMOVE_GRANT, pattern, principal) == "DELETE 1"

    async def grants(self, *, principal: Principal | None, limit: int) -> Sequence[Grant]:
        return [_grant(row) for row in await self._connection.fetch(_GRANTS, principal, limit)]


class PostgresStore:
    """The vault in PostgreSQL. Implements `ports.VaultStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[PostgresVault]:
        async with call.transaction(self._database, read_only=read_only) as connection:
            yield PostgresVault(connection)


def _sealing_key(row: asyncpg.Record | None) -> StoredSealingKey | None:
    if row is None:
        return None
    return StoredSealingKey(row["key_id"], row["public_key"], row["kek_id"], row["wrapped"], row["created_at"])


def _grant(row: asyncpg.Record) -> Grant:
    return Grant(
        pattern=row["pattern"],
        principal=parse_principal(row["principal_id"]),
        granted_by=parse_principal(row["granted_by"]),
        created_at=row["created_at"],
    )
