"""Showing the log: search it, follow it, take a part of it along, and remember how far somebody has read.

What always holds:
- A reader sees the entries of its own scope, up to a committed size, without a gap.
- One call looks at a bounded part of the log, whatever it is asked for, and says where to go on.

On failure: `LogDamaged` where an entry is missing that an unfiltered tail would pass over.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from wardmesh.contracts.audit import (
    DeletePosition,
    Entries,
    Entry,
    Filter,
    Mine,
    Nodes,
    OwnEntries,
    Position,
    Positions,
    Query,
    ReadNodes,
    SavePosition,
    SelectedLeaves,
    SelectLeaves,
    Tail,
)
from wardmesh.contracts.operation import Empty
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit import proofs
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.errors import LogDamaged, NoSuchEntry
from wardmesh_audit.ports import LogStore, PeopleStore, ReadingStore, Scanned, Wakeups
from wardmesh_audit.searching import SINCE_MARGIN
from wardmesh_audit.subjects import Subjects

QUERY_SECONDS: Final = 1.0
"""How long a query that has found nothing yet goes on looking before it says where it is: people watch it."""
ANSWER_SECONDS: Final = 1.0
"""Kept of the caller's deadline for the way back."""
GAP_ENTRIES: Final = 10_000
"""How far one look of a tail goes over entries that were pruned."""
_NO_FILTER: Final = Filter()


class ReadingService:
    """The use cases of reading."""

    def __init__(
        self, log: LogStore, store: ReadingStore, wakeups: Wakeups, subjects: Subjects, people: PeopleStore
    ) -> None:
        self._log = log
        self._people = people
        self._subjects = subjects
        self._store = store
        self._wakeups = wakeups
        self._ending = False

    async def query(self, call: Call, request: Query) -> Entries:
        """Return a page of what matches, newest first."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(QUERY_SECONDS, max(0.0, call.seconds_left() - ANSWER_SECONDS))
        size = (await self._log.head(call.tenant)).size
        place = size if request.before is None else min(request.before, size)
        since = request.filter.since
        floor = 0 if since is None else await self._store.sealed_before(call.tenant, since - SINCE_MARGIN)
        names = await self._subjects.names(call.caller.scope, request.filter)
        while place > floor:
            found = await self._store.scan(
                call.tenant,
                request.filter,
                start=floor,
                end=place,
                limit=request.limit,
                newest_first=True,
                names=names,
            )
            place = found.reached
            if found.entries or loop.time() > ends_at:
                entries = await self._subjects.entries(call.caller.scope, found.entries)
                return Entries(entries=entries, next_start=size, next_before=place if place > floor else None)
        return Entries(entries=(), next_start=size)

    async def mine(self, call: Call, request: Mine) -> OwnEntries:
        """Return a page of the caller's own entries, newest first."""
        await self._subjects.known_as(call)
        found = await self._people.own(call.tenant, before=request.before, limit=request.limit)
        entries = await self._subjects.entries(call.caller.scope, found.entries)
        return OwnEntries(entries=entries, next_before=found.reached or None)

    def end_tails(self) -> None:
        """Answer the tails that wait, each when it next looks (`MAX_SILENCE_SECONDS`), and let no new one wait."""
        self._ending = True

    async def tail(self, call: Call, request: Tail) -> Entries:
        """Return entries from an index on as soon as there are some, or none when the wait is over."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(request.wait_seconds, max(0.0, call.seconds_left() - ANSWER_SECONDS))
        async with self._wakeups.listen(call.caller.scope) as listener:  # before looking: nothing falls in between
            start = request.start
            while True:
                size = (await self._log.head(call.tenant)).size
                if start is None:
                    start = await self.beginning(call.tenant, request.start_time, size)
                answer = await self._look(call.tenant, request, start, size)
                if answer.entries:
                    return answer
                start = answer.next_start
                left = ends_at - loop.time()
                if left <= 0 or self._ending:
                    return answer
                if start >= size:
                    await listener.wait(left)

    async def beginning(self, tenant: TenantContext, start_time: datetime | None, size: int) -> int:
        """Return where a tail begins that names no index: at a time, or behind a log of that size."""
        if start_time is None:
            return size
        return await self._store.received(tenant, start_time, end=size)

    async def size(self, tenant: TenantContext) -> int:
        """Return how many entries the log has."""
        return (await self._log.head(tenant)).size

    async def following(self, tenant: TenantContext, kept: Filter, *, start: int, limit: int) -> Entries:
        """Return what a tail has now, without waiting, of a filter as it is kept (`Subjects.concealed`)."""
        wanted = await self._subjects.revealed(scope_of(tenant), kept)
        return await self._look(tenant, Tail(filter=wanted, limit=limit), start, await self.size(tenant))

    async def newest(self, tenant: TenantContext, kept: Filter) -> Entry | None:
        """Return the newest entry that matches such a filter; None if there is none, or none within `QUERY_SECONDS`."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + QUERY_SECONDS
        scope = scope_of(tenant)
        wanted = await self._subjects.revealed(scope, kept)
        names = await self._subjects.names(scope, wanted)
        place = await self.size(tenant)
        while place > 0 and loop.time() < ends_at:
            found = await self._store.scan(tenant, wanted, start=0, end=place, limit=1, newest_first=True, names=names)
            if found.entries:
                return (await self._subjects.entries(scope, found.entries))[0]
            place = found.reached
        return None

    async def _look(self, tenant: TenantContext, request: Tail, start: int, size: int) -> Entries:
        """Return what there is now from `start` on, and where to go on."""
        if start >= size:
            return Entries(entries=(), next_start=start)
        everything = request.filter == _NO_FILTER
        end = min(size, start + GAP_ENTRIES) if everything else size
        scope = scope_of(tenant)
        names = await self._subjects.names(scope, request.filter)  # each time: somebody may be erased, or come
        found = await self._store.scan(
            tenant, request.filter, start=start, end=end, limit=request.limit, newest_first=False, names=names
        )
        if everything:
            await self._check_gaps(tenant, found, start)
        return Entries(entries=await self._subjects.entries(scope, found.entries), next_start=found.reached)

    async def _check_gaps(self, tenant: TenantContext, found: Scanned, start: int) -> None:
        """Raise `LogDamaged` if something was passed over that is neither there nor pruned."""
        missing = set(range(start, found.reached)) - {stored.index for stored in found.entries}
        if missing:
            missing -= (await self._log.kept(tenant, start=start, end=found.reached)).pruned()
        if missing:
            raise LogDamaged(f"Entry {min(missing)} is missing.")

    async def select(self, call: Call, request: SelectLeaves) -> SelectedLeaves:
        """Return leaves that match, as they were hashed."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(QUERY_SECONDS, max(0.0, call.seconds_left() - ANSWER_SECONDS))
        end = min(request.end, (await self._log.head(call.tenant)).size)
        start = request.start
        scope = call.caller.scope
        names = await self._subjects.names(scope, request.filter)
        # Before anything is opened: what is erased meanwhile makes the next answer say another number.
        erasures = await self._people.count_erasures(call.tenant)
        while start < end:
            found = await self._store.scan(
                call.tenant, request.filter, start=start, end=end, limit=request.limit, newest_first=False, names=names
            )
            start = found.reached
            if found.entries or loop.time() > ends_at:
                return SelectedLeaves(
                    indexes=tuple(stored.index for stored in found.entries),
                    leaves=tuple(stored.leaf for stored in found.entries),
                    next_start=start,
                    openings=await self._subjects.openings(scope, found.entries),
                    erasures=erasures,
                )
        return SelectedLeaves(indexes=(), leaves=(), next_start=max(start, end), erasures=erasures)

    async def nodes(self, call: Call, request: ReadNodes) -> Nodes:
        """Return hashes of the tree that the log has, or once had."""
        size = request.size
        if size > (await self._log.head(call.tenant)).size:
            raise NoSuchEntry
        if any((index + 1) << level > size for level, index in request.nodes):
            raise NoSuchEntry
        tiles = await self._log.tiles(call.tenant, proofs.tiles_of_nodes(request.nodes, size))
        return Nodes(hashes=proofs.read_nodes(request.nodes, size, tiles))

    async def save_position(self, call: Call, request: SavePosition) -> Position:
        """Save how far the caller has read."""
        await self._subjects.known_as(call)
        return await self._store.save_position(call.tenant, request.name, request.next_start)

    async def list_positions(self, call: Call, _request: Empty) -> Positions:
        """Return the caller's positions."""
        await self._subjects.known_as(call)
        return Positions(positions=tuple(await self._store.positions(call.tenant)))

    async def delete_position(self, call: Call, request: DeletePosition) -> Empty:
        """Forget one of the caller's positions."""
        await self._subjects.known_as(call)
        await self._store.delete_position(call.tenant, request.name)
        return Empty()
