"""What the log does for callers: take events and show them. What it proves is in `proving.py`.

What always holds:
- `emit` takes who acts and where from the gates, never from the body, and returns when the events are on disk.
- A reader sees the entries of its own scope, up to a committed size, without a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Emit, Emitted, Entries, Leaves, Query, ReadLeaves, Tail
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES, TILE_WIDTH, Tile, decode_tile
from wardmesh.server import telemetry
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_audit import domain
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.ports import Emitter, LogStore, Wakeups

TAIL_WINDOW: Final = 20_000
"""Entries that one look of a filtered tail goes through, so that a filter that matches nothing stays cheap."""
ANSWER_SECONDS: Final = 1.0
"""Kept of the caller's deadline for the way back."""
_NO_FILTER: Final = contracts.Filter()


class AuditService:
    """The use cases of writing and reading."""

    def __init__(self, store: LogStore, emitter: Emitter, wakeups: Wakeups, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._emitter = emitter
        self._wakeups = wakeups
        self._clock = clock
        self._ending = False

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

    async def query(self, call: Call, request: Query) -> Entries:
        """Return a page of what matches, newest first."""
        size = (await self._store.head(call.tenant)).size
        end = size if request.before is None else min(request.before, size)
        found = await self._store.page(
            call.tenant, request.filter, start=0, end=end, limit=request.limit, newest_first=True
        )
        return Entries(entries=tuple(map(domain.decode_leaf, found)), next_start=size)

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
                size = (await self._store.head(call.tenant)).size
                start = size if start is None else start
                answer = await self._look(call.tenant, request, start, size)
                if answer.entries:
                    return answer
                start = answer.next_start
                left = ends_at - loop.time()
                if left <= 0 or self._ending:
                    return answer
                if start >= size:
                    await listener.wait(left)

    async def _look(self, tenant: TenantContext, request: Tail, start: int, size: int) -> Entries:
        """Return what there is now from `start` on, and where to go on."""
        end = min(size, start + TAIL_WINDOW)
        if start >= end:
            return Entries(entries=(), next_start=start)
        found = await self._store.page(
            tenant, request.filter, start=start, end=end, limit=request.limit, newest_first=False
        )
        if request.filter == _NO_FILTER and [stored.index for stored in found] != list(
            range(start, start + len(found))
        ):
            raise LogDamaged(f"Entries from {start} on are missing.")
        if not found and request.filter == _NO_FILTER:
            raise LogDamaged(f"Entry {start} is missing.")
        # A page that is full, in number or in bytes, ends at its last entry; one that is not covers the window.
        covered = len(found) < request.limit and not _is_cut(found)
        following = end if covered else found[-1].index + 1
        return Entries(entries=tuple(map(domain.decode_leaf, found)), next_start=following)

    async def leaves(self, call: Call, request: ReadLeaves) -> Leaves:
        """Return leaves as they were hashed, and the tree's own hashes for them."""
        size = (await self._store.head(call.tenant)).size
        end = min(size, request.start + request.limit)
        if request.start >= end:
            return Leaves(leaves=(), hashes=())
        found = await self._store.leaves(call.tenant, start=request.start, end=end)
        for expected, stored in enumerate(found, request.start):
            if stored.index != expected:
                found = found[: expected - request.start]
                break
        if not found:
            raise LogDamaged(f"Entry {request.start} is missing.")
        hashes = await self._leaf_hashes(call.tenant, request.start, request.start + len(found), size)
        return Leaves(leaves=tuple(stored.leaf for stored in found), hashes=hashes)

    async def _leaf_hashes(self, tenant: TenantContext, start: int, end: int, size: int) -> tuple[bytes, ...]:
        wanted = [Tile.at(0, index, size) for index in range(start // TILE_WIDTH, (end - 1) // TILE_WIDTH + 1)]
        contents = await self._store.tiles(tenant, wanted)
        try:
            hashes = [value for tile in wanted for value in decode_tile(contents[tile], width=tile.width)]
        except MalformedEncoding as error:
            raise LogDamaged(f"The tree is damaged around entry {start}.") from error
        first = wanted[0].first_entry()
        return tuple(hashes[start - first : end - first])


def _is_cut(found: Sequence[domain.Stored]) -> bool:
    """Tell whether a page may have been ended by its bytes: the next entry, of any size, might not have fitted."""
    return sum(len(stored.leaf) for stored in found) > contracts.MAX_PAGE_BYTES - MAX_ENTRY_BYTES
