"""The port `PeopleStore` in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fake_log import FakeLog

from wardmesh.contracts.audit import MAX_PAGE_BYTES, AuditEvent, Erasure
from wardmesh.errors import UnderHold
from wardmesh.ids import EventId, Scope, UserId
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.ports import Scanned


class FakeErasureRows:
    """What is added is there when the transaction ends."""

    def __init__(self, there: Sequence[Erasure]) -> None:
        self._there = there
        self.added: list[tuple[Erasure, AuditEvent]] = []

    async def find(self, erasure_id: EventId) -> Erasure | None:
        return next((each for each in self._there if each.erasure_id == erasure_id), None)

    async def add(self, erasure: Erasure, told: AuditEvent) -> None:
        self.added.append((erasure, told))


class FakePeople:
    def __init__(self, log: FakeLog) -> None:
        self._log = log
        self.held: set[Scope] = set()
        self.rows: dict[Scope, list[Erasure]] = defaultdict(list)
        self.outbox: list[tuple[Scope, AuditEvent]] = []

    @asynccontextmanager
    async def erasing(self, call: Call) -> AsyncIterator[FakeErasureRows]:
        scope = call.caller.scope
        if scope in self.held:
            raise UnderHold
        rows = FakeErasureRows(self.rows[scope])
        yield rows
        for erasure, told in rows.added:
            self.rows[scope].append(erasure)
            self.outbox.append((scope, told))

    async def acts(self, scope: Scope, pseudonym: UserId) -> int:
        async with self._log.appending[scope]:
            return len(self._of(scope, pseudonym))

    async def erasures(self, tenant: TenantContext, limit: int) -> Sequence[Erasure]:
        return sorted(self.rows[scope_of(tenant)], key=lambda each: each.erased_at, reverse=True)[:limit]

    async def count_erasures(self, tenant: TenantContext) -> int:
        return len(self.rows[scope_of(tenant)])

    async def own(self, tenant: TenantContext, *, before: int | None, limit: int) -> Scanned:
        rows = self._log.rows[scope_of(tenant)]
        mine = [index for index in self._of(scope_of(tenant), tenant.principal_id) if before is None or index < before]
        page, size = [], 0
        for index in sorted(mine, reverse=True)[:limit]:
            size += rows.stored(index).size
            if page and size > MAX_PAGE_BYTES:
                break
            page.append(rows.stored(index))
        return Scanned(page, 0 if len(page) == len(mine) else page[-1].index)

    def _of(self, scope: Scope, who: str) -> list[int]:
        rows = self._log.rows[scope]
        names = rows.names.items()
        return [index for index, each in names if who in (each.actor, each.acting_for) and index in rows.readable()]
