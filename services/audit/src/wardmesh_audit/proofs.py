"""The tree beside the entries: growing it, reading it, and deciding what may be signed. Pure.

The store keeps the head's frontier, every leaf's hash, and every tile once it is full. A partial tile is never stored,
so nothing of the tree is ever written twice: its hashes are those of the leaves, or of the full tiles, below.

What always holds: `grow` returns what has to be inserted and nothing that is there already; `check_extension` returns
only if the tree that the tiles make has the head's root and contains the tree that was signed before.

On failure: `LogDamaged` if what is stored contradicts itself, `SigningRefused` if signing would fork the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wardmesh.crypto.errors import CryptoError, MalformedEncoding
from wardmesh.crypto.merkle import EMPTY_ROOT, HASH_BYTES, Frontier, Node, perfect_root
from wardmesh.crypto.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, node_reader
from wardmesh.crypto.tlog import (
    consistency_nodes,
    consistency_proof,
    frontier_at,
    frontier_nodes,
    inclusion_nodes,
    inclusion_proof,
    verify_consistency,
)
from wardmesh_audit.errors import LogDamaged, SigningRefused


@dataclass(frozen=True, slots=True)
class Head:
    """The log as a whole: how many entries, and what commits to them."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()
    root: bytes = EMPTY_ROOT

    def tree(self) -> Frontier:
        """Return what the tree grows from; raise `LogDamaged` if the stored head is not one tree's."""
        try:
            tree = Frontier.restore(self.size, self.frontier)
        except MalformedEncoding as error:
            raise LogDamaged(f"The head of the log, at {self.size} entries, is damaged.") from error
        if tree.root() != self.root:
            raise LogDamaged(f"The head of the log, at {self.size} entries, is damaged.")
        return tree


@dataclass(frozen=True, slots=True)
class FullTile:
    """A tile that will never change, and the hash that stands for it in the level above."""

    tile: Tile
    root: bytes
    hashes: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Growth:
    """What appending did: the new head, and the tiles that were filled."""

    head: Head
    filled: tuple[FullTile, ...]


def partial_tiles(size: int, added: int) -> list[Tile]:
    """Return the partial tiles of a log of `size` entries that will be filled once `added` more are in."""
    tiles = []
    level = 0
    while (after := size + added >> TILE_HEIGHT * level) >= TILE_WIDTH:
        before = size >> TILE_HEIGHT * level
        width = before % TILE_WIDTH
        if width and after // TILE_WIDTH > before // TILE_WIDTH:
            tiles.append(Tile(level, before // TILE_WIDTH, width))
        level += 1
    return tiles


def grow(head: Head, leaves: Sequence[bytes], partial: Mapping[Tile, bytes]) -> Growth:
    """Append leaf hashes. `partial` has the contents of what `partial_tiles` asked for."""
    tree = head.tree()
    rows: dict[tuple[int, int], list[bytes]] = {}
    for tile, content in partial.items():
        rows[tile.level, tile.index] = _hashes(tile, content)
    filled: list[FullTile] = []

    def store(level: int, index: int, value: bytes) -> None:
        tile_level, rest = divmod(level, TILE_HEIGHT)
        if rest:
            return
        if tile_level:  # the root of a tile of the level below, which is full now
            below = Tile(tile_level - 1, index)
            filled.append(FullTile(below, value, b"".join(rows.pop((below.level, below.index), []))))
        rows.setdefault((tile_level, index // TILE_WIDTH), []).append(value)

    tree.extend(leaves, store)
    for full in filled:
        # Costs what hashing the tile costs, and stops damage from being built upon.
        if len(full.hashes) != TILE_WIDTH * HASH_BYTES or perfect_root(_hashes(full.tile, full.hashes)) != full.root:
            raise LogDamaged(f"The tree is damaged below entry {full.tile.first_entry(TILE_WIDTH)}.")
    return Growth(Head(tree.size, tree.hashes, tree.root()), tuple(filled))


def tiles_of_nodes(nodes: Iterable[Node], size: int) -> list[Tile]:
    """Return the tiles, as wide as they are in a log of `size` entries, that those nodes are read from."""
    found: dict[Tile, None] = {}
    for level, index in nodes:
        tile_level, rest = divmod(level, TILE_HEIGHT)
        found[Tile.at(tile_level, (index << rest) // TILE_WIDTH, size)] = None
    return list(found)


def read_nodes(nodes: Iterable[Node], size: int, tiles: Mapping[Tile, bytes]) -> tuple[bytes, ...]:
    """Return the hashes of complete nodes, from the tiles that `tiles_of_nodes` asks for."""
    read = node_reader(size, tiles.__getitem__)
    try:
        return tuple(read(level, index) for level, index in nodes)
    except CryptoError as error:
        raise LogDamaged(f"The tree is damaged before entry {size}.") from error


def inclusion_tiles(index: int, size: int) -> list[Tile]:
    """Return the tiles that `prove_inclusion` will read."""
    return tiles_of_nodes(inclusion_nodes(index, size), size)


def prove_inclusion(index: int, size: int, tiles: Mapping[Tile, bytes]) -> list[bytes]:
    """Return the proof that entry `index` is in the tree of `size` entries."""
    try:
        return inclusion_proof(index, size, node_reader(size, tiles.__getitem__))
    except CryptoError as error:
        raise LogDamaged(f"The tree is damaged around entry {index}.") from error


def consistency_tiles(old_size: int, size: int) -> list[Tile]:
    """Return the tiles that `prove_consistency` will read."""
    return tiles_of_nodes(consistency_nodes(old_size, size), size)


def prove_consistency(old_size: int, size: int, tiles: Mapping[Tile, bytes]) -> list[bytes]:
    """Return the proof that the tree of `size` entries begins with the one of `old_size`."""
    try:
        return consistency_proof(old_size, size, node_reader(size, tiles.__getitem__))
    except CryptoError as error:
        raise LogDamaged(f"The tree is damaged before entry {size}.") from error


def check_consistency(old_size: int, signed: SignedHead, hashes: Sequence[bytes], old_root: bytes) -> None:
    """Return only if the proof leads from the old root to what was signed; raise `BadProof`."""
    verify_consistency(old_size, signed.size, hashes, old_root, signed.root)


def head_tiles(size: int) -> list[Tile]:
    """Return the tiles from which the root at `size` is computed."""
    return tiles_of_nodes(frontier_nodes(size), size)


def root_from_tiles(size: int, tiles: Mapping[Tile, bytes]) -> bytes:
    """Return the root that the stored tree had at `size`."""
    try:
        return frontier_at(size, node_reader(size, tiles.__getitem__)).root()
    except CryptoError as error:
        raise LogDamaged(f"The tree is damaged before entry {size}.") from error


@dataclass(frozen=True, slots=True)
class SignedHead:
    """What was signed last, wherever it is remembered."""

    size: int
    root: bytes
    note: bytes


def check_extension(head: Head, before: SignedHead | None, tiles: Mapping[Tile, bytes]) -> None:
    """Return only if `head` may be signed after `before`.

    `tiles` has what `head_tiles` asks for, at the head's size and at the size that was signed before.
    """
    head.tree()
    if root_from_tiles(head.size, tiles) != head.root:
        raise LogDamaged(f"The tree and the head of the log differ at {head.size} entries.")
    if before is None:
        return
    if before.size > head.size or root_from_tiles(before.size, tiles) != before.root:
        raise SigningRefused


def _hashes(tile: Tile, content: bytes) -> list[bytes]:
    if len(content) % HASH_BYTES or not content:
        raise LogDamaged(f"The tree is damaged from entry {tile.first_entry()} on.")
    return [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]
