"""C2SP tlog-tiles: a log as static files that other people's tools can read.

    tile/<L>/<N>[.p/<W>]         256 hashes (or W, at the right edge): the roots of the full tiles one level below
    tile/entries/<N>[.p/<W>]     256 entries (or W), each after its length as a big-endian uint16

What always holds: one tile has one path and one bundle of entries one encoding, and the parsers accept nothing else. A
hash in a tile is the root of a *full* subtree; partial tiles are never hashed into the level above.

On failure: `MalformedEncoding` for what came from outside; `ValueError` for a caller's mistake.

Source: C2SP tlog-tiles, "Merkle Tree" and "Log entries".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self, TypeAlias

from wardmesh.crypto.encoding import decimal_decode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES, perfect_root
from wardmesh.crypto.tlog import ReadNode

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
MAX_ENTRY_BYTES: Final = 2**16 - 1  # the length before an entry is a uint16
MAX_INDEX: Final = 2**63 - 1
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?"
)
_CACHED_TILES: Final = 64  # 512 KB; a proof reads at most one tile a level


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """The address of a tile: number `index` of its `level`, with `width` hashes."""

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not 0 <= self.level <= MAX_LEVEL:
            raise ValueError(f"a tile's level is from 0 to {MAX_LEVEL}")
        _check_position(self.index, self.width)

    @property
    def path(self) -> str:
        """Where the tile is served, below the log's prefix."""
        return f"tile/{self.level}/{_position_path(self.index, self.width)}"

    def first_entry(self, position: int = 0) -> int:
        """Return the index of the first entry under the tile's hash at `position`."""
        return self.index * TILE_WIDTH + position << TILE_HEIGHT * self.level

    @classmethod
    def at(cls, level: int, index: int, size: int) -> Self:
        """Return the tile at that place in a log of `size` entries, as wide as it is there."""
        return cls(level, index, min(TILE_WIDTH, (size >> TILE_HEIGHT * level) - index * TILE_WIDTH))


@dataclass(frozen=True, slots=True, order=True)
class EntryBundle:
    """The address of a bundle of entries; the level-0 tile of the same index has their hashes."""

    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        _check_position(self.index, self.width)

    @property
    def path(self) -> str:
        """Where the bundle is served, below the log's prefix."""
        return f"tile/entries/{_position_path(self.index, self.width)}"


def parse_path(path: str) -> Tile | EntryBundle:
    """Return what is served at `path`."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise MalformedEncoding("not the path of a tile or of a bundle of entries")
    level, digits, partial = match["level"], match["index"].replace("/", "").replace("x", ""), match["width"]
    try:
        index = int(digits)
        width = TILE_WIDTH if partial is None else decimal_decode(partial, maximum=TILE_WIDTH - 1)
        address = EntryBundle(index, width) if level == "entries" else Tile(decimal_decode(level), index, width)
    except ValueError as error:
        raise MalformedEncoding("a level, index or width is out of range") from error
    if address.path != path:  # leading groups of zeros
        raise MalformedEncoding("not the canonical path")
    return address


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every tile of a log of `size` entries, lowest level first, left to right."""
    return tiles_between(0, size)


def tiles_between(old_size: int, new_size: int) -> Iterator[Tile]:
    """Yield the tiles that a log of `new_size` entries has and one of `old_size` had not, in the same order."""
    for level in range(MAX_LEVEL + 1):
        old_hashes, new_hashes = (size >> TILE_HEIGHT * level for size in (old_size, new_size))
        if new_hashes == 0:
            return
        for index, width in _positions(old_hashes, new_hashes):
            yield Tile(level, index, width)


def bundles_of(size: int) -> Iterator[EntryBundle]:
    """Yield every bundle of entries of a log of `size` entries."""
    return bundles_between(0, size)


def bundles_between(old_size: int, new_size: int) -> Iterator[EntryBundle]:
    """Yield the bundles that a log of `new_size` entries has and one of `old_size` had not."""
    for index, width in _positions(old_size, new_size):
        yield EntryBundle(index, width)


def encode_tile(hashes: Sequence[bytes]) -> bytes:
    """Return a tile's content."""
    if not 1 <= len(hashes) <= TILE_WIDTH or any(len(value) != HASH_BYTES for value in hashes):
        raise ValueError(f"a tile has from 1 to {TILE_WIDTH} hashes of {HASH_BYTES} bytes")
    return b"".join(hashes)


def decode_tile(data: bytes, *, width: int = TILE_WIDTH) -> list[bytes]:
    """Return the `width` hashes of a tile's content."""
    if len(data) != width * HASH_BYTES:
        raise MalformedEncoding("a tile has another length than its width requires")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return a bundle's content."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise ValueError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    if not 1 <= len(parts) // 2 <= TILE_WIDTH:
        raise ValueError(f"a bundle has from 1 to {TILE_WIDTH} entries")
    return b"".join(parts)


def decode_bundle(data: bytes, *, width: int = TILE_WIDTH) -> list[bytes]:
    """Return the `width` entries of a bundle's content."""
    entries: list[bytes] = []
    position, end = 0, len(data)
    while position < end and len(entries) < width:
        start = position + 2
        position = start + int.from_bytes(data[start - 2 : start], "big")
        entries.append(data[start:position])
    if position != end or len(entries) != width:  # past the end, where the last entry or its length is cut off
        raise MalformedEncoding("the bundle does not have just the entries that its width requires")
    return entries


ReadTile: TypeAlias = Callable[[Tile], bytes]
"""Returns the content of a tile."""


def node_reader(size: int, read: ReadTile) -> ReadNode:
    """Return a reader of any node of a log of `size` entries, for `tlog`'s proofs, from the log's tiles alone.

    It keeps the last few tiles in memory, and asks for a partial tile only where `size` requires one to exist.
    """

    @lru_cache(maxsize=_CACHED_TILES)
    def hashes(level: int, index: int) -> list[bytes]:
        tile = Tile.at(level, index, size)
        return decode_tile(read(tile), width=tile.width)

    def read_node(level: int, index: int) -> bytes:
        # The node is the root over 2^`rest` neighbours in a tile.
        tile_level, rest = divmod(level, TILE_HEIGHT)
        tile_index, first = divmod(index << rest, TILE_WIDTH)
        return perfect_root(hashes(tile_level, tile_index)[first : first + (1 << rest)])

    return read_node


def _positions(old_count: int, new_count: int) -> Iterator[tuple[int, int]]:
    if not 0 <= old_count <= new_count:
        raise ValueError("a log cannot shrink")
    full, rest = divmod(new_count, TILE_WIDTH)
    for index in range(old_count // TILE_WIDTH, full):
        yield index, TILE_WIDTH
    if rest and new_count != old_count:
        yield full, rest


def _check_position(index: int, width: int) -> None:
    if not 0 <= index <= MAX_INDEX or not 1 <= width <= TILE_WIDTH:
        raise ValueError(f"a tile's index is from 0 to {MAX_INDEX} and its width from 1 to {TILE_WIDTH}")


def _position_path(index: int, width: int) -> str:
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03}")
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return "/".join(reversed(groups)) + partial
