"""What a log costs as it grows from ten thousand entries to ten million: appending, proving, searching.

One tenant's log is sealed by the store itself, a transaction after another, and stops at each power of ten to measure:
sealing a hundred events, proving that an entry is in it, and searching it. So the big log is not like a real one: it is
one. Seeding ten million takes a while (it says how far it is) and ten gigabytes of disk, in a folder that goes away.

Searches ask for a page of a hundred, newest first: everything, and by actor, category, action and request.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import asyncpg

from benchmarks.log_events import make_event, make_people
from benchmarks.log_world import log_world
from benchmarks.report import Figure, step
from wardmesh.contracts.audit import AuditEvent, Filter
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.ids import EventId, Principal, RequestId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh_audit import proofs
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import Candidate, encode_leaf
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_cli.embedded.postgres import SUPERUSER

BATCH: Final = 5_000
"""Of one transaction while seeding."""
APPEND: Final = 100
REPEATS: Final = 60
PAGE: Final = 100
SAY_EVERY: Final = 200_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds, at one size."""

    append: float
    proof: float
    search_p95: float


class Grower:
    """Grows one log, and measures it."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self._store = PostgresStore(database)
        self._reading = PostgresReading(database)
        self._rng = rng
        self._people: list[Principal] = make_people()
        self._scope = WorkspaceId.new()
        self._requests: list[RequestId] = []
        # Events that recur but for what is unique to each; making every one anew would take most of the time.
        self._templates = [make_event(rng, self._people) for _ in range(1_000)]
        self.size = 0

    async def grow_to(self, size: int) -> None:
        while self.size < size:
            before = self.size
            await self._seal(self._events(min(BATCH, size - self.size)))
            if self.size // SAY_EVERY > before // SAY_EVERY:
                step(f"{self.size:,} of {size:,} entries")

    def _events(self, count: int) -> list[AuditEvent]:
        now = datetime.now(UTC)
        made = []
        for template in self._rng.choices(self._templates, k=count):
            changes = {"id": EventId.new(), "request_id": RequestId.new(), "occurred_at": now}
            made.append(template.model_copy(update=changes))
        self._requests.append(self._rng.choice(made).request_id or RequestId.new())
        return made

    async def _seal(self, events: Sequence[AuditEvent]) -> None:
        now = datetime.now(UTC)
        leaves = [(event, encode_leaf(self._scope, "audit", now, event)) for event in events]
        waiting = [Candidate(event, "audit", now, leaf, leaf_hash(leaf)) for event, leaf in leaves]
        await self._store.seal(self._scope, waiting)
        self.size += len(events)

    async def measure(self) -> Cost:
        async def append() -> None:
            await self._seal(events.pop())

        async def prove() -> None:
            index = self._rng.randrange(self.size)
            tiles = await self._store.tiles(the_log(self._scope), proofs.inclusion_tiles(index, self.size))
            proofs.prove_inclusion(index, self.size, tiles)

        events = [self._events(APPEND) for _ in range(REPEATS + 1)]
        appended = await _times(append)
        proven = await _times(prove)
        searched = [took for query in self._searches() for took in await _times(partial(self._search, query))]
        return Cost(statistics.median(appended), statistics.median(proven), _p95(searched))

    def _searches(self) -> list[Filter]:
        some = self._rng.choice(self._templates)
        return [
            Filter(),
            Filter(actor=self._rng.choice(self._people[:10])),
            Filter(category=some.category),
            Filter(action=some.action),
            Filter(request_id=self._rng.choice(self._requests)),
        ]

    async def _search(self, query: Filter) -> None:
        await self._reading.scan(the_log(self._scope), query, start=0, end=self.size, limit=PAGE, newest_first=True)


async def _times(work: Callable[[], Awaitable[None]]) -> list[float]:
    await work()
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        await work()
        took.append(1_000 * (time.perf_counter() - started))
    return took


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)]


async def _costs(sizes: Sequence[int]) -> dict[int, Cost]:
    costs = {}
    async with log_world() as mesh:
        database = Database(mesh.database_url("wardmesh_audit"), application="benchmark")
        async with database, asyncpg.create_pool(mesh.database_url(SUPERUSER), min_size=1, max_size=1) as owner:
            grower = Grower(database, random.Random(1))
            for size in sizes:
                await grower.grow_to(size)
                # What the database does by itself after a while: until then it has no idea of the values, and writes
                # what the growing has left, beside what is measured.
                await owner.execute("vacuum (analyze) audit.entries, audit.leaves, audit.tiles")
                await owner.execute("checkpoint")
                costs[size] = await grower.measure()
                step(f"at {size:,}: {costs[size]}")
    return costs


def measure(*, short: bool = False) -> list[Figure]:
    sizes = (1_000, 2_000, 10_000) if short else (10_000, 100_000, 1_000_000, 10_000_000)
    costs = asyncio.run(_costs(sizes))
    first, middle, last = sizes[0], sizes[1], sizes[-1]
    low, mid, high = costs[first], costs[middle], costs[last]
    # A proof has a hash for each level; what is read for one is a tile for every eight of them.
    levels = math.log2(last) / math.log2(first)
    return [
        Figure("appending, at the last size against the first", high.append / low.append, "×", 1.5, "less",
               f"{high.append:.1f} ms at {last:,} entries, {low.append:.1f} ms at {first:,}; {APPEND} events a time"),
        Figure("proving, at the last size against the first", high.proof / low.proof, "×", levels, "less",
               f"{high.proof:.1f} ms at {last:,} entries, {low.proof:.1f} ms at {first:,}; log(n) is {levels:.2f} ×"),
        Figure("searching, p95, at the last size against the second", high.search_p95 / mid.search_p95, "×", 2, "less",
               f"{high.search_p95:.1f} ms at {last:,} entries, {mid.search_p95:.1f} ms at {middle:,}; pages of {PAGE}"),
    ]  # fmt: skip
