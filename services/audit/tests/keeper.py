"""A log with retention for tests, in memory or in PostgreSQL: seals at any time of receipt, and relays the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from fake_log import FakeLog
from fake_retention import FakeRetention, mark_published
from makers import Person, candidates

from wardmesh.contracts.audit import PLACE_HOLD, SET_RETENTION, AuditEvent, Hold
from wardmesh.contracts.operation import Category
from wardmesh.ids import Scope
from wardmesh.server.database import Connection
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.domain import Stored
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_retention import PostgresRetention


class Outbox:
    """The port `AuditOutbox`: keeps what would be on its way once the transaction commits."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Scope, AuditEvent]] = []

    async def put_audit(self, connection: Connection, scope: Scope, event: AuditEvent) -> None:
        connection.after_commit(lambda: self.waiting.append((scope, event)))


class Keeper:
    """What the tests of retention need, whichever store it is."""

    def __init__(
        self, log: FakeLog | PostgresStore, retention: FakeRetention | PostgresRetention, outbox: Outbox | None
    ) -> None:
        self.log = log
        self.retention = retention
        self._outbox = outbox

    async def seal(self, scope: Scope, *events: AuditEvent, at: datetime, source: str = "secrets") -> None:
        """Seal what the broker received at that time, and let everybody be told of it."""
        await self.log.seal(scope, candidates(scope, *events, received_at=at, source=source))
        await self._published(scope)

    async def relay(self) -> list[tuple[Scope, AuditEvent]]:
        """Seal what is in the outbox, as the relay, the broker and the sealer do; return what it was."""
        if isinstance(self.retention, FakeRetention):
            sealed = list(self.retention.outbox)
            await self.retention.relay()
        else:
            assert self._outbox is not None
            sealed, self._outbox.waiting = self._outbox.waiting, []
            for scope, event in sealed:
                await self.seal(scope, event, at=event.occurred_at, source="audit")
        for scope, _ in sealed:
            await self._published(scope)
        return sealed

    async def keep(self, person: Person, days: Mapping[Category, int | None]) -> None:
        """Set a policy."""
        for category, some in days.items():
            await self.retention.set_days(person.ask(SET_RETENTION), category, some)

    async def hold(self, person: Person) -> Hold:
        return await self.retention.place_hold(person.ask(PLACE_HOLD), "a lawsuit")

    async def readable(self, person: Person) -> list[int]:
        """Return the indexes that a reader sees."""
        return [stored.index for stored in await self.leaves(person)]

    async def leaves(self, person: Person) -> list[Stored]:
        return list(await self.log.leaves(reader(person), start=0, end=100_000))

    async def _published(self, scope: Scope) -> None:
        if isinstance(self.log, FakeLog):
            mark_published(self.log)
            return
        async with self.log.publication(scope, limit=100_000) as publication:
            publication.upto = publication.entries[-1].index + 1 if publication.entries else None


def reader(person: Person) -> TenantContext:
    caller = person.caller
    return TenantContext(caller.organization, caller.workspace, caller.principal, caller.permissions)
