"""All SQL of the service.

What always holds: a statement runs as one workspace (row-level security), and `find` alone without its organization,
which it finds out. A receipt, its event and its audit event are one transaction.

On failure: the errors of `wardmesh.server.database_errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.webhooks import Scheme
from wardmesh.envelope import Event
from wardmesh.errors import Conflict
from wardmesh.ids import EventId, OrgId, ServiceId, WorkspaceId
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.database import Connection, ConstraintConflict, Database, TenantContext
from wardmesh.server.outbox import Outbox
from wardmesh_webhooks.domain import Received, StoredSource
from wardmesh_webhooks.ports import Acceptance

RECEIVE: Final = "webhook.receive"
"""What the policies ask of the door itself. No contract has it, so no token carries it."""
FORGOTTEN_PER_RECEIPT: Final = 8
"""Old receipts that go when a new one comes: more go than come, and no sweep has to look across tenants."""

_COLUMNS: Final = "org_id, workspace_id, name, scheme, incarnation, created_at, sealed_secret"
_ADD: Final = f"insert into webhooks.source (name, scheme, sealed_secret) values ($1, $2, $3) returning {_COLUMNS}"  # noqa: S608 - a constant
_LIST: Final = f"select {_COLUMNS} from webhooks.source order by name"  # noqa: S608 - a constant
_REMOVE: Final = "delete from webhooks.source where name = $1"
_FIND: Final = f"select {_COLUMNS} from webhooks.source where workspace_id = $1 and name = $2"  # noqa: S608 - a constant
_ACCEPT: Final = """
    with door as (
        select name from webhooks.source where name = $1 and incarnation = $2
    ), put as (
        insert into webhooks.receipt (source, key, forget_at) select name, $3, $4 from door
            on conflict do nothing returning 1
    )
    select exists (select from door) as is_open, exists (select from put) as is_new
"""
_FORGET: Final = """
    delete from webhooks.receipt where (org_id, workspace_id, source, key) in (
        select org_id, workspace_id, source, key from webhooks.receipt
         where forget_at < now() order by forget_at limit $1)
"""


class PostgresSources:
    """One transaction on the sources."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, name: str, scheme: Scheme, sealed_secret: bytes) -> StoredSource:
        try:
            row = await self._connection.fetchrow(_ADD, name, scheme.value, sealed_secret)
        except ConstraintConflict:
            raise Conflict(f"There is a source {name!r} already. Delete it first, or choose another name.") from None
        assert row is not None  # noqa: S101 - an insert with RETURNING has a row or raises
        return _source(row)

    async def list(self) -> Sequence[StoredSource]:
        return [_source(row) for row in await self._connection.fetch(_LIST)]

    async def remove(self, name: str) -> bool:
        return await self._connection.execute(_REMOVE, name) == "DELETE 1"


class PostgresStore:
    """The store of the webhooks service."""

    def __init__(self, database: Database, outbox: Outbox, audit: AuditOutbox) -> None:
        self._database = database
        self._outbox = outbox
        self._audit = audit

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[PostgresSources]:
        async with call.transaction(self._database, read_only=read_only) as connection:
            yield PostgresSources(connection)

    async def find(self, workspace: WorkspaceId, name: str) -> StoredSource | None:
        async with self._database.transaction(_door(OrgId.nil(), workspace), read_only=True) as connection:
            row = await connection.fetchrow(_FIND, workspace, name)
        return None if row is None else _source(row)

    async def accept(self, source: StoredSource, received: Received, event: Event, audit: AuditEvent) -> Acceptance:
        async with self._database.transaction(_door(source.organization, source.workspace)) as connection:
            row = await connection.fetchrow(_ACCEPT, source.name, source.incarnation, received.key, received.forget_at)
            if row is None or not row["is_open"]:
                return Acceptance.SOURCE_GONE
            if not row["is_new"]:
                return Acceptance.DUPLICATE
            await connection.execute(_FORGET, FORGOTTEN_PER_RECEIPT)
            await self._outbox.put(
                connection, event.subject.format(), event.data, event.headers(), message_id=EventId.new()
            )
            await self._audit.put_audit(connection, source.workspace, audit)
        return Acceptance.ACCEPTED


def _door(organization: OrgId, workspace: WorkspaceId) -> TenantContext:
    return TenantContext(organization, workspace, ServiceId.nil(), frozenset({RECEIVE}))


def _source(row: asyncpg.Record) -> StoredSource:
    return StoredSource(
        organization=OrgId(row["org_id"]),
        workspace=WorkspaceId(row["workspace_id"]),
        name=row["name"],
        scheme=Scheme(row["scheme"]),
        incarnation=row["incarnation"],
        created_at=row["created_at"],
        sealed_secret=row["sealed_secret"],
    )
