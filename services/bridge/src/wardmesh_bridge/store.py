"""All SQL of the bridge.

What always holds: statements are constants, values are parameters. Which agreements, keys and nonces there are for a
workspace, row-level security decides. Unique keys, not reads before writes, decide who was first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import asyncpg

from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.bridge import Agreement, AgreementState, SignedMessage
from wardmesh.ids import AgreementId, EventId, MessageId, OrgId, ServiceId, WorkspaceId
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.database import Connection, Database, TenantContext
from wardmesh.server.outbox import Outbox
from wardmesh_bridge.domain import Admission, DeadLetter, StoredKey

_COLUMNS: Final = "select id, source, target, state, created_at, accepted_at from bridge.agreements"
_AGREEMENT: Final = f"{_COLUMNS} where id = $1"
_LIVE: Final = f"""{_COLUMNS} where state <> 'revoked'
    and least(source, target) = least($1, app.workspace_id())
    and greatest(source, target) = greatest($1, app.workspace_id())"""
_AGREEMENTS: Final = f"""{_COLUMNS} where app.workspace_id() in (source, target) and ($1::text is null or id > $1)
    order by id limit $2"""
_PROPOSE: Final = """
    insert into bridge.agreements (id, target, created_at) values ($1, $2, $3) on conflict do nothing"""
_ACCEPT: Final = """
    update bridge.agreements set state = 'accepted', accepted_at = $2, accepted_by = app.principal_id(),
           target_org = app.org_id()
     where id = $1 and state = 'proposed' and target = app.workspace_id()"""
_REVOKE: Final = """
    update bridge.agreements set state = 'revoked', revoked_at = $2, revoked_by = app.principal_id()
     where id = $1 and state <> 'revoked'"""
_ADD_KEY: Final = """
    insert into bridge.agreement_keys (agreement_id, key_id, kek_id, wrapped, created_at) values ($1, $2, $3, $4, $5)"""
_KEY_COLUMNS: Final = "select key_id, kek_id, wrapped, created_at from bridge.agreement_keys where agreement_id = $1"
_KEY: Final = f"{_KEY_COLUMNS} and key_id = $2"
_PRESENT_KEY: Final = f"{_KEY_COLUMNS} order by created_at desc, key_id desc limit 1"
_ADMISSION: Final = """
    select message_id, signature, settled_at is not null as settled from bridge.nonces
     where agreement_id = $1 and key_id = $2 and nonce = $3"""
_ADMIT: Final = """
    insert into bridge.nonces (agreement_id, key_id, nonce, message_id, signature, receiver, expires_at, admitted_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing"""
_SETTLE: Final = """
    update bridge.nonces set settled_at = $4
     where agreement_id = $1 and key_id = $2 and nonce = $3 and settled_at is null"""
# The policy says which may go; the limit keeps a send short.
_FORGET: Final = """
    delete from bridge.nonces n using (
        select agreement_id, key_id, nonce from bridge.nonces
         where sender = app.workspace_id() and expires_at < now() - interval '1 hour'
         order by expires_at limit 256) old
     where (n.agreement_id, n.key_id, n.nonce) = (old.agreement_id, old.key_id, old.nonce)"""
_BURY: Final = """
    insert into bridge.dead_letters (id, sender, subject, reason, payload, buried_at) values ($1, $2, $3, $4, $5, $6)"""


class PostgresBridge:
    """One transaction. Implements `ports.BridgeTransaction`."""

    def __init__(self, connection: Connection, outbox: Outbox, audit: AuditOutbox) -> None:
        self._connection = connection
        self._outbox = outbox
        self._audit = audit

    async def agreement(self, agreement: AgreementId) -> Agreement | None:
        return _agreement(await self._connection.fetchrow(_AGREEMENT, agreement))

    async def live_agreement(self, other: WorkspaceId) -> Agreement | None:
        return _agreement(await self._connection.fetchrow(_LIVE, other))

    async def agreements(self, *, after: AgreementId | None, limit: int) -> Sequence[Agreement]:
        rows = await self._connection.fetch(_AGREEMENTS, after, limit)
        return [agreement for row in rows if (agreement := _agreement(row)) is not None]

    async def propose(self, agreement: AgreementId, target: WorkspaceId, now: datetime) -> bool:
        return await self._connection.execute(_PROPOSE, agreement, target, now) == "INSERT 0 1"

    async def accept(self, agreement: AgreementId, now: datetime) -> bool:
        return await self._connection.execute(_ACCEPT, agreement, now) == "UPDATE 1"

    async def revoke(self, agreement: AgreementId, now: datetime) -> bool:
        return await self._connection.execute(_REVOKE, agreement, now) == "UPDATE 1"

    async def add_key(self, agreement: AgreementId, key: StoredKey) -> None:
        await self._connection.execute(_ADD_KEY, agreement, key.key_id, key.kek_id, key.wrapped, key.created_at)

    async def key(self, agreement: AgreementId, key_id: str) -> StoredKey | None:
        return _key(await self._connection.fetchrow(_KEY, agreement, key_id))

    async def present_key(self, agreement: AgreementId) -> StoredKey | None:
        return _key(await self._connection.fetchrow(_PRESENT_KEY, agreement))

    async def admission(self, message: SignedMessage) -> Admission | None:
        row = await self._connection.fetchrow(_ADMISSION, message.agreement, message.key_id, message.nonce)
        return None if row is None else Admission(MessageId(row["message_id"]), row["signature"], row["settled"])

    async def admit(self, message: SignedMessage, now: datetime) -> bool:
        done = await self._connection.execute(
            _ADMIT,
            message.agreement,
            message.key_id,
            message.nonce,
            message.id,
            message.signature,
            message.target,
            message.expires_at,
            now,
        )
        return done == "INSERT 0 1"

    async def settle(self, message: SignedMessage, now: datetime) -> bool:
        done = await self._connection.execute(_SETTLE, message.agreement, message.key_id, message.nonce, now)
        return done == "UPDATE 1"

    async def forget(self) -> None:
        await self._connection.execute(_FORGET)

    async def bury(self, letter: DeadLetter, now: datetime) -> None:
        await self._connection.execute(
            _BURY, letter.id, letter.sender, letter.subject, letter.reason, letter.payload, now
        )

    async def forward(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        await self._outbox.put(self._connection, subject, payload, headers, message_id=EventId.new())

    async def record(self, workspace: WorkspaceId, event: AuditEvent) -> None:
        await self._audit.put_audit(self._connection, workspace, event)


class PostgresStore:
    """The bridge in PostgreSQL. Implements `ports.BridgeStore`."""

    def __init__(self, database: Database, outbox: Outbox, audit: AuditOutbox) -> None:
        self._database = database
        self._outbox = outbox
        self._audit = audit

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[PostgresBridge]:
        async with call.transaction(self._database, read_only=read_only) as connection:
            yield PostgresBridge(connection, self._outbox, self._audit)

    @asynccontextmanager
    async def as_receiver(self, workspace: WorkspaceId) -> AsyncIterator[PostgresBridge]:
        # No organization: none of this service's policies for what is received asks for one, and the two sides of an
        # agreement may belong to different ones.
        tenant = TenantContext(OrgId.nil(), workspace, ServiceId.nil())
        async with self._database.transaction(tenant) as connection:
            yield PostgresBridge(connection, self._outbox, self._audit)


def _agreement(row: asyncpg.Record | None) -> Agreement | None:
    if row is None:
        return None
    return Agreement(
        id=AgreementId(row["id"]),
        source=WorkspaceId(row["source"]),
        target=WorkspaceId(row["target"]),
        state=AgreementState(row["state"]),
        created_at=row["created_at"],
        accepted_at=row["accepted_at"],
    )


def _key(row: asyncpg.Record | None) -> StoredKey | None:
    return None if row is None else StoredKey(row["key_id"], row["kek_id"], row["wrapped"], row["created_at"])
