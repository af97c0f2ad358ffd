"""Gives out the log as C2SP tlog-tiles: hashes as the tree has them, entries as they were hashed, and their days.

What always holds: what is given out is of committed entries and as wide as its path says; a path that the log does not
reach yet is not found. Whether hashes and entries agree is for the reader to see: both come from where they are stored.
An entry that was pruned has no bytes, and neither has one that is missing or there twice: `kept` and the log's own
announcements tell them apart, so whoever verifies names it. To when an entry is kept is decided when it is sealed, so
`kept` of a size never changes.

On failure: `NoSuchTile`; `LogDamaged` where hashes are missing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from wardmesh.contracts.audit import (
    MAX_KEPT_RUNS,
    BundlePart,
    KeptRun,
    KeptRuns,
    ReadBundle,
    ReadKept,
    ReadTile,
    TileContent,
)
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.tiles import TILE_HEIGHT, TILE_WIDTH, EntryBundle, Tile, encode_bundle, parse_path
from wardmesh.server.context import Call
from wardmesh_audit.domain import Stored
from wardmesh_audit.errors import LogDamaged, NoSuchTile
from wardmesh_audit.leaves import PRUNED
from wardmesh_audit.ports import LogStore

KEPT_ENTRIES: Final = MAX_KEPT_RUNS // 2
"""Looked at at once; in the worst case each is a run of its own."""
KEPT_SECONDS: Final = 1.0
"""How long a call goes on where few entries end, so that a log of which none does is a few calls."""
ANSWER_SECONDS: Final = 1.0
"""Kept of the caller's deadline for the way back."""


class TileReader:
    """The use cases of reading the log as files."""

    def __init__(self, store: LogStore) -> None:
        self._store = store

    async def tile(self, call: Call, request: ReadTile) -> TileContent:
        """Return a tile's hashes."""
        tile = _address(request.path)
        size = (await self._store.head(call.tenant)).size
        if not isinstance(tile, Tile) or tile.index * TILE_WIDTH + tile.width > size >> TILE_HEIGHT * tile.level:
            raise NoSuchTile
        content = (await self._store.tiles(call.tenant, [tile]))[tile]
        if len(content) != tile.width * HASH_BYTES:
            raise LogDamaged(f"The tree is damaged from entry {tile.first_entry()} on.")
        return TileContent(content=content)

    async def bundle(self, call: Call, request: ReadBundle) -> BundlePart:
        """Return entries of a bundle, as many as one answer holds, and at least one."""
        bundle = _address(request.path)
        size = (await self._store.head(call.tenant)).size
        if not isinstance(bundle, EntryBundle) or request.skip >= bundle.width:
            raise NoSuchTile
        first = bundle.index * TILE_WIDTH
        if first + bundle.width > size:
            raise NoSuchTile
        start, end = first + request.skip, first + bundle.width
        entries = _in_places(await self._store.leaves(call.tenant, start=start, end=end), start, end)
        return BundlePart(content=encode_bundle(entries), entries=len(entries), left=end - start - len(entries))

    async def kept(self, call: Call, request: ReadKept) -> KeptRuns:
        """Return to when entries are kept, a page of them."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(KEPT_SECONDS, max(0.0, call.seconds_left() - ANSWER_SECONDS))
        present = (await self._store.head(call.tenant)).size
        size = present if request.size is None else request.size
        if size > present:
            raise NoSuchTile
        runs: list[KeptRun] = []
        place = request.start
        while place < size:
            end = min(size, place + KEPT_ENTRIES)
            runs += (await self._store.kept(call.tenant, start=place, end=end)).runs
            place = end
            if len(runs) + KEPT_ENTRIES > MAX_KEPT_RUNS or loop.time() > ends_at:
                break
        return KeptRuns(runs=tuple(runs), size=size, next_start=place if place < size else None)


def _in_places(found: Sequence[Stored], start: int, end: int) -> Sequence[bytes]:
    """Return the leaves of [start, end) up to the last that was found: the page may end there. None found, none is."""
    times = Counter(stored.index for stored in found)
    leaves = {stored.index: stored.leaf for stored in found if times[stored.index] == 1}
    return [leaves.get(index, PRUNED) for index in range(start, max(times, default=end - 1) + 1)]


def _address(path: str) -> Tile | EntryBundle:
    try:
        return parse_path(path)
    except MalformedEncoding:
        raise NoSuchTile from None
