"""What the log does for callers: take events, and give out leaves as they are.

What it shows is in `reading.py`, what it proves in `proving.py`.

What always holds:
- `emit` takes who acts and where from the gates, never from the body, and returns when the events are on disk.
- Leaves come without a gap, up to a committed size, with the tree's own hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from wardmesh.contracts.audit import Emit, Emitted, Leaves, ReadLeaves
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tiles import TILE_WIDTH, Tile, decode_tile
from wardmesh.server import telemetry
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit import domain
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.leaves import PRUNED, leaves_of
from wardmesh_audit.ports import Emitter, LogStore, PeopleStore
from wardmesh_audit.subjects import Subjects


class AuditService:
    """The use cases of writing, and of taking the log along."""

    def __init__(
        self,
        store: LogStore,
        emitter: Emitter,
        clock: Callable[[], datetime],
        subjects: Subjects,
        people: PeopleStore,
    ) -> None:
        self._people = people
        self._subjects = subjects
        self._store = store
        self._emitter = emitter
        self._clock = clock

    async def emit(self, call: Call, request: Emit) -> Emitted:
        """Take events; return their ids when every one is durable."""
        caller = call.caller
        now = self._clock()
        domain.check_times(request.events, now)
        events = [
            domain.complete(
                new,
                actor=caller.principal,
                acting_for=caller.acting_for,
                request_id=call.request_id,
                trace_id=call.trace_id,
                now=now,
            )
            for new in request.events
        ]
        await self._emitter.emit(caller.scope, events, trace_parent=telemetry.trace_parent())
        return Emitted(ids=tuple(event.id for event in events))

    async def leaves(self, call: Call, request: ReadLeaves) -> Leaves:
        """Return leaves as they were hashed, and the tree's own hashes for them."""
        # Before anything is opened: what is erased meanwhile makes the next answer say another number.
        erasures = await self._people.count_erasures(call.tenant)
        size = (await self._store.head(call.tenant)).size
        end = min(size, request.start + request.limit)
        if request.start >= end:
            return Leaves(leaves=(), hashes=(), erasures=erasures)
        found = await leaves_of(self._store, call.tenant, start=request.start, end=end)
        hashes = await self._leaf_hashes(call.tenant, request.start, request.start + len(found.leaves), size)
        known = await self._known(call.tenant, request.start, found.leaves, hashes)
        found = found.first(request.start, known)
        openings = await self._subjects.openings(call.caller.scope, found.committing(request.start))
        return Leaves(
            leaves=tuple(found.leaves),
            hashes=hashes[:known],
            kept=tuple(found.kept),
            openings=openings,
            erasures=erasures,
        )

    async def _known(self, tenant: TenantContext, start: int, leaves: Sequence[bytes], hashes: Sequence[bytes]) -> int:
        """Return how many of these leaves the log remembers as it should; raise `LogDamaged` if the first is not.

        An entry that differs from the tree is given out as it is: whoever verifies can then say what was changed. One
        that agrees with it, and is remembered as another event or not at all, nobody else could see: an event with its
        id would enter the log a second time. Of one that was pruned, the hash is all there is to agree.
        """
        places = await self._store.places(tenant, start=start, end=start + len(leaves))
        for index, (leaf, value) in enumerate(zip(leaves, hashes, strict=True), start):
            place = places.get(index)
            is_remembered = (
                place is not None
                and place.leaf_hash == value
                and (leaf == PRUNED or domain.is_of(leaf, place.event_id))
            )
            if not is_remembered and (leaf == PRUNED or leaf_hash(leaf) == value):
                if index == start:
                    raise LogDamaged(f"What the log remembers of entry {start} is damaged.")
                return index - start
        return len(leaves)

    async def _leaf_hashes(self, tenant: TenantContext, start: int, end: int, size: int) -> tuple[bytes, ...]:
        wanted = [Tile.at(0, index, size) for index in range(start // TILE_WIDTH, (end - 1) // TILE_WIDTH + 1)]
        contents = await self._store.tiles(tenant, wanted)
        try:
            hashes = [value for tile in wanted for value in decode_tile(contents[tile], width=tile.width)]
        except MalformedEncoding as error:
            raise LogDamaged(f"The tree is damaged around entry {start}.") from error
        first = wanted[0].first_entry()
        return tuple(hashes[start - first : end - first])
