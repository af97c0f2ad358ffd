"""All SQL of auth.

What always holds: statements are constants, values are parameters, and no statement names an organization: whose rows
there are, row-level security decides by the transaction's settings. The one exception, `PostgresLedger`, reads all
tenants' revocations, as the relay's role and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import asyncpg

from wardmesh.contracts.operation import Level
from wardmesh.ids import KeyId, OrgId, Principal, Scope, SessionId, UserId, WorkspaceId, parse_principal, parse_scope
from wardmesh.server.context import Call
from wardmesh.server.database import Connection, Database
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.domain import (
    INHERITED_FROM,
    KEPT_GENERATIONS,
    Levels,
    Member,
    StoredKey,
    StoredPassword,
    StoredPrincipal,
    StoredRefreshToken,
    StoredSession,
    StoredWorkspace,
)

RELAY_ROLE: Final = "wardmesh_auth_relay"

_ADD_ORGANIZATION: Final = "insert into auth.organizations (org_id, name, created_at) values ($1, $2, $3)"
_HAS_ORGANIZATION: Final = "select exists (select from auth.organizations)"
_ADD_WORKSPACE: Final = "insert into auth.workspaces (workspace_id, name, created_at) values ($1, $2, $3)"
_HAS_WORKSPACE: Final = "select exists (select from auth.workspaces where workspace_id = $1)"
_WORKSPACES: Final = """
    select workspace_id, name, created_at from auth.workspaces
     where $1::text is null or workspace_id > $1 order by workspace_id limit $2"""
_ADD_PRINCIPAL: Final = """
    insert into auth.principals (principal_id, home_id, name, email, created_at) values ($1, $2, $3, $4, $5)"""
_PRINCIPAL: Final = """
    select principal_id, home_id, name, email, created_at, revoked_at from auth.principals where principal_id = $1"""
_REVOKE_PRINCIPAL: Final = """
    update auth.principals set revoked_at = coalesce(revoked_at, $2) where principal_id = $1 returning revoked_at"""
_REVOKE_KEYS_OF: Final = "update auth.api_keys set revoked_at = $2 where principal_id = $1 and revoked_at is null"
_REVOKE_SESSIONS_OF: Final = "update auth.sessions set revoked_at = $2 where principal_id = $1 and revoked_at is null"
# No level for somebody who is revoked, and none in a workspace that is not the organization's.
_LEVELS: Final = """
    select max(m.level) filter (where m.scope_id = $2) as direct,
           max(m.level) filter (where m.scope_id = m.org_id) as organization
      from auth.memberships m join auth.principals p using (org_id, principal_id)
     where m.principal_id = $1 and p.revoked_at is null
       and (m.org_id = $2 or exists (select from auth.workspaces w where w.workspace_id = $2))"""
_HIGHEST_LEVEL: Final = "select max(level) from auth.memberships where principal_id = $1"
_SET_LEVEL: Final = """
    insert into auth.memberships (scope_id, principal_id, level) values (app.scope_id(), $1, $2)
    on conflict (org_id, scope_id, principal_id) do update set level = excluded.level"""
_ADD_LEVEL: Final = "insert into auth.memberships (scope_id, principal_id, level) values (app.scope_id(), $1, $2)"
# domain.level_in, in SQL: what is held in the scope itself, or in the organization from INHERITED_FROM on.
_MEMBERS: Final = """
    select distinct on (m.principal_id)
           m.principal_id, m.scope_id, m.level, p.home_id, p.name, p.email, p.created_at, p.revoked_at
      from auth.memberships m join auth.principals p using (org_id, principal_id)
     where p.revoked_at is null and (m.scope_id = $1 or (m.scope_id = m.org_id and m.level >= $2))
       and ($3::text is null or m.principal_id > $3)
     order by m.principal_id, m.level desc, (m.scope_id = $1) desc limit $4"""
_LOCK_OWNERS: Final = "select pg_advisory_xact_lock(hashtextextended('auth.owners.' || app.org_id(), 0))"
_OWNERS: Final = """
    select m.principal_id from auth.memberships m join auth.principals p using (org_id, principal_id)
     where m.scope_id = m.org_id and m.level = $1 and p.revoked_at is null"""
_ADD_PASSWORD: Final = "insert into auth.passwords (principal_id, hash) values ($1, $2)"  # noqa: S105 - SQL
_PASSWORD_OF: Final = """
    select p.principal_id, w.hash, p.revoked_at is not null as revoked
      from auth.principals p join auth.passwords w using (org_id, principal_id) where p.email = $1"""  # noqa: S105 - SQL
_ADD_KEY: Final = """
    insert into auth.api_keys (key_id, scope_id, principal_id, name, secret_hash, permissions, granting, ceiling,
                               created_at, expires_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_KEY_COLUMNS: Final = """
    select key_id, scope_id, principal_id, name, secret_hash, permissions, granting, ceiling, created_at, expires_at,
           revoked_at from auth.api_keys"""
_KEY: Final = f"{_KEY_COLUMNS} where key_id = $1"
_KEYS: Final = f"""{_KEY_COLUMNS}
     where scope_id = $1 and ($2::text is null or principal_id = $2) and ($3::text is null or key_id > $3)
     order by key_id limit $4"""
_REVOKE_KEY: Final = """
    update auth.api_keys set revoked_at = coalesce(revoked_at, $2) where key_id = $1 returning revoked_at"""
_ADD_SESSION: Final = """
    insert into auth.sessions (session_id, principal_id, scope_id, generation, siblings, rotated_at, created_at,
                               expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8)"""
_LOCK_SESSION: Final = """
    select session_id, principal_id, scope_id, generation, siblings, rotated_at, created_at, expires_at, revoked_at
      from auth.sessions where session_id = $1 for update"""
_BEGIN_GENERATION: Final = """
    update auth.sessions set generation = $2, siblings = 1, rotated_at = $3 where session_id = $1"""
_FORGET_TOKENS: Final = "delete from auth.refresh_tokens where session_id = $1 and generation < $2"
_ADD_SIBLING: Final = "update auth.sessions set siblings = siblings + 1 where session_id = $1"
_REVOKE_SESSION: Final = """
    update auth.sessions set revoked_at = coalesce(revoked_at, $2) where session_id = $1 returning revoked_at"""
_ADD_REFRESH_TOKEN: Final = """
    insert into auth.refresh_tokens (session_id, token_hash, generation, expires_at) values ($1, $2, $3, $4)"""  # noqa: S105 - SQL
_REFRESH_TOKEN: Final = """
    select generation, expires_at from auth.refresh_tokens where session_id = $1 and token_hash = $2"""  # noqa: S105 - SQL
_NOTE_REVOCATION: Final = """
    insert into auth.revocations as r (id, revoked_at) values ($1, $2)
    on conflict (org_id, id) do update set revoked_at = greatest(r.revoked_at, excluded.revoked_at)"""
_REVOCATIONS_SINCE: Final = "select id, revoked_at from auth.revocations where revoked_at >= $1"
_FORGET_REVOCATIONS: Final = "delete from auth.revocations where revoked_at < $1"


class PostgresIdentities:
    """One transaction. Implements `ports.Identities`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_organization(self, organization: OrgId, name: str, now: datetime) -> None:
        await self._connection.execute(_ADD_ORGANIZATION, organization, name, now)

    async def has_organization(self) -> bool:
        return bool(await self._connection.fetchval(_HAS_ORGANIZATION))

    async def add_workspace(self, workspace: StoredWorkspace) -> None:
        await self._connection.execute(_ADD_WORKSPACE, workspace.id, workspace.name, workspace.created_at)

    async def has_workspace(self, workspace: WorkspaceId) -> bool:
        return bool(await self._connection.fetchval(_HAS_WORKSPACE, workspace))

    async def workspaces(self, *, after: WorkspaceId | None, limit: int) -> Sequence[StoredWorkspace]:
        rows = await self._connection.fetch(_WORKSPACES, after, limit)
        return [StoredWorkspace(WorkspaceId(row["workspace_id"]), row["name"], row["created_at"]) for row in rows]

    async def add_principal(self, principal: StoredPrincipal) -> None:
        await self._connection.execute(
            _ADD_PRINCIPAL, principal.id, principal.home, principal.name, principal.email, principal.created_at
        )

    async def principal(self, principal: Principal) -> StoredPrincipal | None:
        row = await self._connection.fetchrow(_PRINCIPAL, principal)
        return None if row is None else _principal(row)

    async def revoke_principal(self, principal: Principal, now: datetime) -> datetime:
        revoked_at: datetime = await self._connection.fetchval(_REVOKE_PRINCIPAL, principal, now)
        await self._connection.execute(_REVOKE_KEYS_OF, principal, now)
        await self._connection.execute(_REVOKE_SESSIONS_OF, principal, now)
        return revoked_at

    async def levels(self, principal: Principal, scope: Scope) -> Levels:
        row = await self._connection.fetchrow(_LEVELS, principal, scope)
        if row is None:
            return Levels()
        return Levels(direct=_level(row["direct"]), organization=_level(row["organization"]))

    async def highest_level(self, principal: Principal) -> Level | None:
        return _level(await self._connection.fetchval(_HIGHEST_LEVEL, principal))

    async def add_level(self, principal: Principal, level: Level) -> None:
        await self._connection.execute(_ADD_LEVEL, principal, int(level))

    async def set_level(self, principal: Principal, level: Level) -> None:
        await self._connection.execute(_SET_LEVEL, principal, int(level))

    async def members(self, scope: Scope, *, after: Principal | None, limit: int) -> Sequence[Member]:
        rows = await self._connection.fetch(_MEMBERS, scope, int(INHERITED_FROM), after, limit)
        return [Member(_principal(row), parse_scope(row["scope_id"]), Level(row["level"])) for row in rows]

    async def lock_owners(self) -> frozenset[Principal]:
        await self._connection.execute(_LOCK_OWNERS)
        rows = await self._connection.fetch(_OWNERS, int(Level.OWNER))
        return frozenset(parse_principal(row["principal_id"]) for row in rows)

    async def add_password(self, user: UserId, password_hash: str) -> None:
        await self._connection.execute(_ADD_PASSWORD, user, password_hash)

    async def password_of(self, email: str) -> StoredPassword | None:
        row = await self._connection.fetchrow(_PASSWORD_OF, email)
        return None if row is None else StoredPassword(UserId(row["principal_id"]), row["hash"], row["revoked"])

    async def add_key(self, key: StoredKey) -> None:
        permissions = None if key.permissions is None else sorted(key.permissions)
        await self._connection.execute(
            _ADD_KEY,
            *(key.id, key.scope, key.principal, key.name, key.secret_hash),
            *(permissions, key.granting, int(key.ceiling), key.created_at, key.expires_at),
        )

    async def key(self, key: KeyId) -> StoredKey | None:
        row = await self._connection.fetchrow(_KEY, key)
        return None if row is None else _key(row)

    async def keys(
        self, scope: Scope, *, principal: Principal | None, after: KeyId | None, limit: int
    ) -> Sequence[StoredKey]:
        return [_key(row) for row in await self._connection.fetch(_KEYS, scope, principal, after, limit)]

    async def revoke_key(self, key: KeyId, now: datetime) -> datetime:
        revoked_at: datetime = await self._connection.fetchval(_REVOKE_KEY, key, now)
        return revoked_at

    async def add_session(self, session: StoredSession) -> None:
        await self._connection.execute(
            _ADD_SESSION,
            *(session.id, session.user, session.scope, session.generation, session.siblings),
            *(session.rotated_at, session.created_at, session.expires_at),
        )

    async def lock_session(self, session: SessionId) -> StoredSession | None:
        row = await self._connection.fetchrow(_LOCK_SESSION, session)
        return None if row is None else _session(row)

    async def begin_generation(self, session: SessionId, generation: int, now: datetime) -> None:
        await self._connection.execute(_BEGIN_GENERATION, session, generation, now)
        await self._connection.execute(_FORGET_TOKENS, session, generation - KEPT_GENERATIONS)

    async def add_sibling(self, session: SessionId) -> None:
        await self._connection.execute(_ADD_SIBLING, session)

    async def revoke_session(self, session: SessionId, now: datetime) -> datetime:
        revoked_at: datetime = await self._connection.fetchval(_REVOKE_SESSION, session, now)
        return revoked_at

    async def add_refresh_token(self, session: SessionId, token_hash: bytes, token: StoredRefreshToken) -> None:
        await self._connection.execute(_ADD_REFRESH_TOKEN, session, token_hash, token.generation, token.expires_at)

    async def refresh_token(self, session: SessionId, token_hash: bytes) -> StoredRefreshToken | None:
        row = await self._connection.fetchrow(_REFRESH_TOKEN, session, token_hash)
        return None if row is None else StoredRefreshToken(row["generation"], row["expires_at"])

    async def note_revocation(self, identifier: KeyId | SessionId | Principal, at: datetime) -> None:
        await self._connection.execute(_NOTE_REVOCATION, str(identifier), at)


class PostgresStore:
    """Identities in PostgreSQL. Implements `ports.IdentityStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def change(self, call: Call) -> AsyncIterator[PostgresIdentities]:
        async with call.transaction(self._database) as connection:
            yield PostgresIdentities(connection)

    @asynccontextmanager
    async def transaction(self, tenant: TenantContext, *, read_only: bool) -> AsyncIterator[PostgresIdentities]:
        async with self._database.transaction(tenant, read_only=read_only) as connection:
            yield PostgresIdentities(connection)


class PostgresLedger:
    """All tenants' revocations. Implements `ports.RevocationLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def since(self, moment: datetime) -> Mapping[str, datetime]:
        async with self._database.relay_transaction(RELAY_ROLE) as connection:
            rows = await connection.fetch(_REVOCATIONS_SINCE, moment)
        return {row["id"]: row["revoked_at"] for row in rows}

    async def forget_before(self, moment: datetime) -> None:
        async with self._database.relay_transaction(RELAY_ROLE) as connection:
            await connection.execute(_FORGET_REVOCATIONS, moment)


def _level(value: int | None) -> Level | None:
    return None if value is None else Level(value)


def _principal(row: asyncpg.Record) -> StoredPrincipal:
    return StoredPrincipal(
        id=parse_principal(row["principal_id"]),
        home=parse_scope(row["home_id"]),
        name=row["name"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        email=row["email"],
    )


def _key(row: asyncpg.Record) -> StoredKey:
    return StoredKey(
        id=KeyId(row["key_id"]),
        scope=parse_scope(row["scope_id"]),
        principal=parse_principal(row["principal_id"]),
        name=row["name"],
        secret_hash=row["secret_hash"],
        permissions=None if row["permissions"] is None else frozenset(row["permissions"]),
        granting=row["granting"],
        ceiling=Level(row["ceiling"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


def _session(row: asyncpg.Record) -> StoredSession:
    return StoredSession(
        id=SessionId(row["session_id"]),
        user=UserId(row["principal_id"]),
        scope=parse_scope(row["scope_id"]),
        generation=row["generation"],
        siblings=row["siblings"],
        rotated_at=row["rotated_at"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
