"""From leaf hashes to tiles, in a stream: for exporting a log, and for verifying one.

What always holds: memory is bounded (fewer than 256 hashes a level, eight levels for any real log), every tile is
given out exactly once and as soon as it is full, and `root` is RFC 6962's over all leaves so far. Leaves are hashed
upwards a tile at a time rather than one by one, which is what makes it fast.

Source: C2SP tlog-tiles, "Merkle Tree".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self

from wardmesh.crypto.merkle import Frontier, perfect_root
from wardmesh.crypto.tiles import TILE_HEIGHT, TILE_WIDTH, Tile


class TileBuilder:
    """A log's right edge, as tiles: for each level, the hashes that are not in a full tile yet."""

    __slots__ = ("_full", "_rows", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._rows: list[list[bytes]] = []
        self._full: list[int] = []  # how many full tiles each level has given out

    @classmethod
    def resumed(cls, size: int, read: Callable[[Tile], Sequence[bytes]]) -> Self:
        """Return a builder as it was at `size` leaves, a multiple of 256, from the full tiles that it had given out.

        `read` returns a tile's hashes; at most 255 of each level are asked for.
        """
        if size % TILE_WIDTH:
            raise ValueError("a builder goes on behind a full tile")
        builder = cls()
        builder._size = size
        hashes = size
        level = 0
        while hashes:
            full = hashes // TILE_WIDTH
            tiles = range(full * TILE_WIDTH, hashes) if level else range(0)
            builder._rows.append([perfect_root(read(Tile(level - 1, index))) for index in tiles])
            builder._full.append(full)
            hashes, level = full, level + 1
        return builder

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    def add(self, leaves: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Append leaf hashes; return the tiles that they fill and their contents."""
        self._size += len(leaves)
        filled: list[tuple[Tile, bytes]] = []
        self._append(0, leaves, filled)
        return filled

    def partial_tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """Yield the partial tiles of the log as it is, lowest level first."""
        for level, row in enumerate(self._rows):
            if row:
                yield Tile(level, self._full[level], len(row)), b"".join(row)

    def root(self, more: Sequence[bytes] = ()) -> bytes:
        """Return the root over all leaves, and over those of `more` as if they had been added."""
        frontier = Frontier()
        for level in reversed(range(len(self._rows))):
            for subtree in self._rows[level]:
                frontier.append_subtree(TILE_HEIGHT * level, subtree)
        frontier.extend(more)
        return frontier.root()

    def _append(self, level: int, hashes: Sequence[bytes], filled: list[tuple[Tile, bytes]]) -> None:
        if level == len(self._rows):
            self._rows.append([])
            self._full.append(0)
        row = self._rows[level]
        row.extend(hashes)
        start = 0
        while len(row) - start >= TILE_WIDTH:
            tile = row[start : start + TILE_WIDTH]
            start += TILE_WIDTH
            filled.append((Tile(level, self._full[level]), b"".join(tile)))
            self._full[level] += 1
            self._append(level + 1, (perfect_root(tile),), filled)
        del row[:start]
