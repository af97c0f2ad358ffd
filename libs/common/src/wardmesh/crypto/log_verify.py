"""A whole log against its signed checkpoint: offline, in one pass, in bounded memory.

The entries are hashed into a tree; its root must be the signed one. That alone says *whether* the log is what was
signed. Where the log's stored tiles are at hand too, it is also said *which* entry is not, and tiles that were
tampered with are found even though the entries are sound.

What always holds: a log is reported as verified only if the checkpoint's signature is right, there are exactly as
many entries as it says, their root is the signed one, every stored tile that was asked for agrees, and the log was at
each earlier size what was signed then and kept. Memory does not grow with the log. Tiles are never believed: they
serve to find a difference, and the signed root says who is to blame.

On failure: `InconsistentLog` with the fault and the first entry concerned; `BadSignature` or `MalformedEncoding` for
the checkpoint.

Sources: RFC 6962 section 2.1; C2SP tlog-tiles and tlog-checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import NamedTuple, TypeAlias

from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.errors import Fault, InconsistentLog, MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES, LEAF_PREFIX
from wardmesh.crypto.note import VerifierKey
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import Tile, bundles_of, decode_tile

StoredTile: TypeAlias = Callable[[Tile], bytes | None]
"""Returns what is stored as a tile, or None if nothing is."""


class LeafHash(bytes):
    """Stands for an entry whose bytes are gone: the hash that it has in the tree. The root shows whether it is that."""


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """What was checked: the log of `checkpoint`, all its entries, and so many stored tiles."""

    checkpoint: Checkpoint
    tiles: int


def verify_log(
    entries: Iterable[bytes],
    signed_checkpoint: bytes,
    vkey: str | VerifierKey,
    *,
    origin: str | None = None,
    stored: StoredTile | None = None,
) -> VerifiedLog:
    """Return only if `entries` are all the entries of the log that `vkey` signed a checkpoint of.

    An entry may be a `LeafHash`. `origin` as in `open_checkpoint`. With `stored`, every tile that the log's size
    requires is compared as well.
    """
    checkpoint = open_checkpoint(signed_checkpoint, vkey, origin=origin)
    return verify_bundles(_in_bundles(iter(entries), checkpoint.size), checkpoint, stored=stored)


def verify_bundles(
    bundles: Iterator[Sequence[bytes]],
    checkpoint: Checkpoint,
    *,
    stored: StoredTile | None = None,
    kept: Sequence[Checkpoint] = (),
) -> VerifiedLog:
    """Return only if `bundles` are the entries of `checkpoint`, which the caller has opened, 256 at a time.

    A bundle MUST NOT have more than 256 entries; the log ends with the first that has fewer than its size requires.
    It MUST have been what each checkpoint of `kept` says at its size; those are the caller's, opened too.
    """
    size = checkpoint.size
    builder = TileBuilder()
    comparison = _Comparison(size, stored)
    marks = deque(sorted(kept, key=lambda each: each.size))
    forked: Checkpoint | None = None
    for expected, entries in zip(bundles_of(size), bundles, strict=False):
        leaves = [
            bytes(entry) if type(entry) is LeafHash else sha256(LEAF_PREFIX + entry).digest() for entry in entries
        ]
        while marks and marks[0].size <= builder.size + len(leaves):
            mark = marks.popleft()
            if forked is None and builder.root(leaves[: mark.size - builder.size]) != mark.root:
                forked = mark
        comparison.check(builder.add(leaves))
        if len(leaves) != expected.width:
            break
    comparison.check(builder.partial_tiles())

    if builder.size != size or builder.root() != checkpoint.root:
        raise _blame(builder.size, checkpoint, comparison, stored)
    if next(bundles, None):
        raise InconsistentLog(Fault.ENTRY_EXTRA, size)
    if comparison.first is not None:
        tile, position, fault = comparison.first
        raise InconsistentLog(fault, tile.first_entry(position), tile=tile.path)
    if forked is not None or any(mark.size > size for mark in marks):
        raise InconsistentLog(Fault.FORKED, marks[0].size if forked is None else forked.size)
    return VerifiedLog(checkpoint, comparison.compared)


def _in_bundles(entries: Iterator[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for bundle in bundles_of(size):
        yield list(islice(entries, bundle.width))
    yield list(islice(entries, 1))  # not empty where there are too many


class _Difference(NamedTuple):
    tile: Tile
    position: int
    fault: Fault


class _Comparison:
    """Compares computed tiles with the stored ones until the first difference."""

    def __init__(self, size: int, stored: StoredTile | None) -> None:
        self._size = size
        self._stored = stored
        self.compared = 0
        self.first: _Difference | None = None

    def check(self, computed: Iterable[tuple[Tile, bytes]]) -> None:
        if self._stored is None or self.first is not None:
            return
        for tile, content in computed:
            # The entries may end too early; what is stored has the width that the signed size gives it.
            expected = Tile.at(tile.level, tile.index, self._size)
            found = self._stored(expected)
            self.compared += 1
            if found is None:
                self.first = _Difference(expected, 0, Fault.TILE_MISSING)
            elif len(found) != expected.width * HASH_BYTES or not found.startswith(content):
                self.first = _Difference(expected, _first_difference(content, found), Fault.TILE_CHANGED)
            if self.first is not None:
                return


def _first_difference(left: bytes, right: bytes) -> int:
    differing = (at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differing, min(len(left), len(right))) // HASH_BYTES


def _blame(count: int, checkpoint: Checkpoint, comparison: _Comparison, stored: StoredTile | None) -> InconsistentLog:
    """Return where entries that do not make the signed root are first at fault."""
    authentic = stored is not None and _leaf_tiles_root(checkpoint.size, stored) == checkpoint.root
    difference = comparison.first
    if difference is not None and difference.fault is Fault.TILE_CHANGED:
        tile, position, _ = difference
        first = tile.first_entry(position)
        if first < count:
            return InconsistentLog(Fault.ENTRY_CHANGED, first, tile=tile.path, proven=authentic)
    if count < checkpoint.size:
        return InconsistentLog(Fault.ENTRY_MISSING, count, proven=authentic)
    return InconsistentLog(Fault.ROOT_DIFFERS, 0)


def _leaf_tiles_root(size: int, stored: StoredTile) -> bytes | None:
    """Return the root that the stored leaf hashes make, or None if they are incomplete."""
    builder = TileBuilder()
    for bundle in bundles_of(size):
        content = stored(Tile(0, bundle.index, bundle.width))
        if content is None:
            return None
        try:
            builder.add(decode_tile(content, width=bundle.width))
        except MalformedEncoding:
            return None
    return builder.root()
