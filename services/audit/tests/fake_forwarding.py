"""Complete fakes of the ports of forwarding: rows in memory, and an endpoint that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from fake_log import FakeLog
from fake_ports import Failing

from wardmesh.contracts.audit import MAX_FORWARDERS, AuditEvent
from wardmesh.ids import Scope
from wardmesh.server.context import Call
from wardmesh_audit.batches import Batch
from wardmesh_audit.errors import ForwarderExists, NoSuchForwarder, TooManyForwarders
from wardmesh_audit.ports_forwarding import (
    ForwarderSettings,
    Leased,
    NewForwarder,
    NotDelivered,
    StoredForwarder,
    Target,
)


@dataclass
class Row:
    stored: StoredForwarder
    told: bool = False
    attempt_at: float = 0.0
    lease: UUID | None = None
    leased_until: float = 0.0


class FakeForwarding(Failing):
    """The ports `ForwarderStore` and `ForwardingStore` in memory."""

    def __init__(self, log: FakeLog, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows: dict[Scope, dict[str, Row]] = defaultdict(dict)
        self.outbox: list[tuple[Scope, AuditEvent]] = []
        self._log = log
        self._clock = clock

    async def add(self, call: Call, new: NewForwarder) -> StoredForwarder:
        rows = self.rows[call.caller.scope]
        if new.name in rows:
            raise ForwarderExists
        if len(rows) >= MAX_FORWARDERS:
            raise TooManyForwarders
        stored = StoredForwarder(
            scope=call.caller.scope, name=new.name, incarnation=uuid4(), address=new.address, format=new.format,
            secret_header=new.secret_header, has_secret=new.has_secret, certificate_until=new.certificate_until,
            sealed=new.sealed, filter=new.filter,
            created_at=datetime.now(UTC), next_start=new.next_start, paused=False, failures=0, failing_since=None,
            last_error=None, delivered_at=None,
        )  # fmt: skip
        rows[new.name] = Row(stored)
        return stored

    async def forwarders(self, call: Call) -> Sequence[StoredForwarder]:
        return [row.stored for _, row in sorted(self.rows[call.caller.scope].items())]

    async def edit(
        self, call: Call, name: str, change: Callable[[StoredForwarder], ForwarderSettings]
    ) -> StoredForwarder:
        row = self.rows[call.caller.scope].get(name)
        if row is None:
            raise NoSuchForwarder
        changed = change(row.stored)
        kept = {each.name: getattr(changed, each.name) for each in fields(changed)}
        row.stored = replace(row.stored, incarnation=uuid4(), **kept)
        row.lease, row.attempt_at = None, self._clock()
        return row.stored

    async def remove(self, call: Call, name: str) -> bool:
        return self.rows[call.caller.scope].pop(name, None) is not None

    async def set_paused(self, call: Call, name: str, *, paused: bool) -> StoredForwarder:
        row = self.rows[call.caller.scope].get(name)
        if row is None:
            raise NoSuchForwarder
        row.stored = replace(row.stored, paused=paused)
        row.attempt_at = self._clock()
        return row.stored

    async def lease(self, amount: int, seconds: float) -> Sequence[Leased]:
        self._fail()
        now, lease = self._clock(), uuid4()
        due = [
            row
            for scope, rows in self.rows.items()
            for row in rows.values()
            if not row.stored.paused
            and row.attempt_at <= now
            and (row.lease is None or row.leased_until < now)
            and row.stored.next_start < self._log.rows[scope].head.size
        ]
        taken = sorted(due, key=lambda row: row.attempt_at)[:amount]
        for row in taken:
            row.lease, row.leased_until = lease, now + seconds
        return [Leased(row.stored, lease) for row in taken]

    async def advance(
        self, leased: Leased, next_start: int, *, delivered: bool, seconds: float, well: AuditEvent
    ) -> bool:
        self._fail()
        row = self._ours(leased)
        if row is None:
            return False
        row.stored = replace(row.stored, next_start=max(row.stored.next_start, next_start))
        row.leased_until = self._clock() + seconds
        if delivered:
            now = datetime.now(UTC)
            row.stored = replace(row.stored, failures=0, failing_since=None, last_error=None, delivered_at=now)
            if row.told:
                row.told = False
                self.outbox.append((leased.forwarder.scope, well))
        return not row.stored.paused

    async def failed(
        self, leased: Leased, error: str, *, pause_seconds: float, told_after: int, event: AuditEvent
    ) -> None:
        row = self._ours(leased)
        if row is None:
            return
        stored = row.stored
        since = stored.failing_since or datetime.now(UTC)
        row.stored = replace(stored, failures=stored.failures + 1, failing_since=since, last_error=error)
        row.attempt_at, row.lease = self._clock() + pause_seconds, None
        if row.stored.failures >= told_after and not row.told:
            row.told = True
            self.outbox.append((stored.scope, event))

    async def release(self, leased: Leased) -> None:
        row = self._ours(leased)
        if row is not None:
            row.lease, row.attempt_at = None, self._clock()

    def _ours(self, leased: Leased) -> Row | None:
        row = self.rows[leased.forwarder.scope].get(leased.forwarder.name)
        is_ours = (
            row is not None and row.lease == leased.lease and row.stored.incarnation == leased.forwarder.incarnation
        )
        return row if is_ours else None


@dataclass
class FakeSender:
    """The port `Sender`: takes batches, or fails as `answers` says, one after another."""

    answers: list[NotDelivered | None] = field(default_factory=list)
    taken: list[Batch] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    before_answer: Callable[[Batch], object] = lambda _batch: None
    meanwhile: Callable[[Batch], Awaitable[None]] | None = None
    """Awaited while a batch is on its way; may raise `NotDelivered`."""

    @asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[FakeSender]:
        self.targets.append(target)
        yield self

    async def send(self, batch: Batch) -> None:
        self.before_answer(batch)
        await asyncio.sleep(0)
        if self.meanwhile is not None:
            await self.meanwhile(batch)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.taken.append(batch)

    @property
    def indexes(self) -> list[int]:
        return [entry.index for batch in self.taken for entry in batch.entries]
