"""A log in memory, to be written and to be read: the ports of its rows, which can be made to fail (`fake_ports`)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime

from fake_ports import Failing
from makers import NOW

from wardmesh.contracts.audit import (
    MAX_PAGE_BYTES,
    MAX_POSITIONS,
    Entry,
    Filter,
    KeptRun,
    Position,
)
from wardmesh.crypto.tiles import TILE_WIDTH, Tile
from wardmesh.ids import EventId, Scope, parse_principal
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.domain import Candidate, Names, Stored, decode_leaf
from wardmesh_audit.errors import TooManyPositions
from wardmesh_audit.keeping import FOR_EVER, NEVER, Policy, kept_to
from wardmesh_audit.ports import (
    NO_NAMES,
    NOTHING,
    Check,
    Kept,
    Located,
    Place,
    Publication,
    Scanned,
    Sealed,
)
from wardmesh_audit.proofs import FullTile, Head, SignedHead, grow, partial_tiles
from wardmesh_audit.searching import matches


@dataclass
class Rows:
    """What one scope has."""

    head: Head = field(default_factory=Head)
    leaves: list[tuple[EventId, bytes]] = field(default_factory=list)
    entries: dict[int, bytes] = field(default_factory=dict)
    openings: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, Names] = field(default_factory=dict)
    tiles: dict[tuple[int, int], FullTile] = field(default_factory=dict)
    signed: SignedHead | None = None
    published_size: int = 0
    kept: dict[int, date] = field(default_factory=dict)
    """Of every entry, also of one that is gone."""
    policy: Policy = field(default_factory=dict)
    pruning_to: date = NEVER
    pruned_to: date = NEVER

    def readable(self) -> dict[int, bytes]:
        return {index: leaf for index, leaf in self.entries.items() if self.kept[index] > self.pruned_to}

    def stored(self, index: int) -> Stored:
        return Stored(index, self.entries[index], self.openings.get(index))

    def searched(self, index: int) -> Entry:
        """An entry as its columns have it, to search by."""
        entry, names = decode_leaf(self.stored(index)), self.names[index]
        people = {"actor": parse_principal(names.actor), "targets": tuple(names.targets)}
        if names.acting_for is not None:
            people["acting_for"] = parse_principal(names.acting_for)
        return entry.model_copy(update={"event": entry.event.model_copy(update=people)})


class FakeLog(Failing):
    """The port `LogStore` in memory."""

    def __init__(self) -> None:
        self.rows: dict[Scope, Rows] = defaultdict(Rows)
        self.appending: dict[Scope, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._locks: dict[Scope, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        self._fail()
        async with self.appending[scope]:
            if check is not None:
                await check()
            return self._appended(scope, candidates)

    def _appended(self, scope: Scope, candidates: Sequence[Candidate]) -> Sealed:
        rows = self.rows[scope]
        before = rows.head
        known = {event_id for event_id, _ in rows.leaves}
        fresh: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.event.id not in known:
                fresh.setdefault(candidate.event.id, candidate)
        hashes = [candidate.leaf_hash for candidate in fresh.values()]
        growth = grow(before, hashes, self._tiles(rows, partial_tiles(before.size, len(hashes))))
        for index, candidate in enumerate(fresh.values(), before.size):
            rows.leaves.append((candidate.event.id, candidate.leaf_hash))
            rows.entries[index] = candidate.leaf
            rows.names[index] = candidate.stored_names()
            if candidate.openings is not None:
                rows.openings[index] = candidate.openings
            rows.kept[index] = kept_to(
                candidate.event, candidate.source, candidate.received_at, rows.policy, rows.pruning_to
            )
        rows.tiles |= {(full.tile.level, full.tile.index): full for full in growth.filled}
        rows.head = growth.head
        return Sealed(before.size, tuple(fresh.values()), len(candidates) - len(fresh))

    @asynccontextmanager
    async def publication(self, scope: Scope, *, limit: int, at_hand: range = NOTHING) -> AsyncIterator[Publication]:
        async with self._locks[scope]:
            rows = self.rows[scope]
            start = rows.published_size
            due = () if start in at_hand else self._leaves(rows, start, min(rows.head.size, start + limit))
            publication = Publication(due, start, rows.head.size)
            yield publication
            if publication.upto is not None:
                rows.published_size = max(start, publication.upto)

    async def head(self, tenant: TenantContext) -> Head:
        self._fail()
        return self.rows[scope_of(tenant)].head

    async def leaves(self, tenant: TenantContext, *, start: int, end: int) -> Sequence[Stored]:
        return self._leaves(self.rows[scope_of(tenant)], start, end)

    async def places(self, tenant: TenantContext, *, start: int, end: int) -> Mapping[int, Place]:
        rows = self.rows[scope_of(tenant)].leaves
        return {index: Place(*rows[index]) for index in range(start, min(end, len(rows)))}

    async def locate(self, tenant: TenantContext, event_id: EventId) -> Located | None:
        rows = self.rows[scope_of(tenant)]
        for index, (known, leaf_hash) in enumerate(rows.leaves):
            if known == event_id:
                return Located(index, leaf_hash, rows.readable().get(index), rows.openings.get(index))
        return None

    async def kept(self, tenant: TenantContext, *, start: int, end: int) -> Kept:
        rows = self.rows[scope_of(tenant)]
        runs: list[KeptRun] = []
        for index in range(start, min(end, rows.head.size)):
            last = runs[-1] if runs else None
            day = rows.kept[index]
            if day != FOR_EVER and last is not None and last.kept_to == day and last.last == index - 1:
                runs[-1] = KeptRun(first=last.first, last=index, kept_to=day)
            elif day != FOR_EVER:
                runs.append(KeptRun(first=index, last=index, kept_to=day))
        return Kept(tuple(runs), rows.pruned_to)

    async def tiles(self, tenant: TenantContext, tiles: Iterable[Tile]) -> Mapping[Tile, bytes]:
        return self._tiles(self.rows[scope_of(tenant)], tiles)

    async def signed(self, scope: Scope) -> SignedHead | None:
        return self.rows[scope].signed

    async def remember_signed(self, scope: Scope, signed: SignedHead) -> None:
        self._fail()
        rows = self.rows[scope]
        if rows.signed is None or rows.signed.size < signed.size:
            rows.signed = signed

    def _leaves(self, rows: Rows, start: int, end: int) -> list[Stored]:
        there = rows.readable()
        return _within_bytes([rows.stored(index) for index in range(start, end) if index in there])

    def _tiles(self, rows: Rows, tiles: Iterable[Tile]) -> dict[Tile, bytes]:
        found = {}
        for tile in tiles:
            first = tile.index * TILE_WIDTH
            if tile.level == 0:
                parts = [leaf_hash for _, leaf_hash in rows.leaves[first : first + tile.width]]
            else:
                below = [rows.tiles.get((tile.level - 1, first + place)) for place in range(tile.width)]
                parts = [full.root for full in below if full is not None]
            found[tile] = b"".join(parts)
        return found


class FakeReading(Failing):
    """The port `ReadingStore` on a log in memory."""

    scan_entries = 10_000

    def __init__(self, log: FakeLog) -> None:
        self._log = log
        self.saved: dict[tuple[Scope, str], dict[str, Position]] = defaultdict(dict)

    async def scan(
        self,
        tenant: TenantContext,
        query: Filter,
        *,
        start: int,
        end: int,
        limit: int,
        newest_first: bool,
        names: Mapping[str, str] = NO_NAMES,
    ) -> Scanned:
        self._fail()
        rows = self._log.rows[scope_of(tenant)]
        looked_at = sorted((index for index in rows.readable() if start <= index < end), reverse=newest_first)
        cut = len(looked_at) > self.scan_entries
        found, size = [], 0
        for index in looked_at[: self.scan_entries]:
            stored = rows.stored(index)
            if not any(matches(each, rows.searched(index)) for each in _spelled(query, names)):
                continue
            size += stored.size
            if (found and size > MAX_PAGE_BYTES) or len(found) == limit:
                last = found[-1].index
                return Scanned(found, last if newest_first else last + 1)
            found.append(stored)
        if not cut:
            return Scanned(found, start if newest_first else end)
        last = looked_at[self.scan_entries - 1]
        return Scanned(found, last if newest_first else last + 1)

    async def received(self, tenant: TenantContext, moment: datetime, *, end: int) -> int:
        entries = self._log.rows[scope_of(tenant)].entries
        times = (index for index, leaf in sorted(entries.items()) if _received(index, leaf) >= moment)
        return min(next(times, end), end)

    async def sealed_before(self, tenant: TenantContext, moment: datetime) -> int:
        return await self.received(tenant, moment, end=self._log.rows[scope_of(tenant)].head.size)

    async def positions(self, tenant: TenantContext) -> Sequence[Position]:
        return [position for _, position in sorted(self._mine(tenant).items())]

    async def save_position(self, tenant: TenantContext, name: str, next_start: int) -> Position:
        mine = self._mine(tenant)
        if name not in mine and len(mine) == MAX_POSITIONS:
            raise TooManyPositions
        mine[name] = Position(name=name, next_start=next_start, saved_at=NOW)
        return mine[name]

    async def delete_position(self, tenant: TenantContext, name: str) -> None:
        self._mine(tenant).pop(name, None)

    def _mine(self, tenant: TenantContext) -> dict[str, Position]:
        return self.saved[scope_of(tenant), tenant.principal_id]


def _spelled(query: Filter, names: Mapping[str, str]) -> Iterator[Filter]:
    """A filter by the names that people may have in rows."""
    for actor in {query.actor, names.get(query.actor or "", query.actor)}:
        for target in {query.target, names.get(query.target or "", query.target)}:
            yield query.model_copy(update={"actor": actor, "target": target})


def _received(index: int, leaf: bytes) -> datetime:
    return decode_leaf(Stored(index, leaf)).received_at


def _within_bytes(found: list[Stored]) -> list[Stored]:
    total = 0
    for place, stored in enumerate(found):
        total += stored.size
        if place and total > MAX_PAGE_BYTES:
            return found[:place]
    return found
