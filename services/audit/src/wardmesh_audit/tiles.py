"""Gives out the log as C2SP tlog-tiles: hashes as the tree has them, entries as they were hashed.

What always holds: what is given out is of committed entries and as wide as its path says; a path that the log does not
reach yet is not found. Whether hashes and entries agree is for the reader to see: both come from where they are stored.
An entry that was pruned has no bytes.

On failure: `NoSuchTile`; `LogDamaged` where rows are missing.
"""

from __future__ import annotations

from wardmesh.contracts.audit import BundlePart, ReadBundle, ReadTile, TileContent
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.tiles import TILE_HEIGHT, TILE_WIDTH, EntryBundle, Tile, encode_bundle, parse_path
from wardmesh.server.context import Call
from wardmesh_audit.errors import LogDamaged, NoSuchTile
from wardmesh_audit.leaves import leaves_of
from wardmesh_audit.ports import LogStore


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
        found = await leaves_of(self._store, call.tenant, start=start, end=end)
        content = encode_bundle(found.leaves)
        return BundlePart(content=content, entries=len(found.leaves), left=end - start - len(found.leaves))


def _address(path: str) -> Tile | EntryBundle:
    try:
        return parse_path(path)
    except MalformedEncoding:
        raise NoSuchTile from None
