"""Growing the tree in steps, reading it from tiles, and refusing to sign a fork."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import Tile
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh_audit.errors import LogDamaged, SigningRefused
from wardmesh_audit.proofs import (
    Growth,
    Head,
    SignedHead,
    check_extension,
    grow,
    head_tiles,
    inclusion_tiles,
    partial_tiles,
    prove_inclusion,
)

LEAVES = [leaf_hash(str(number).encode()) for number in range(70_000)]


class Tree:
    """A stored tree, as rows would hold it."""

    def __init__(self) -> None:
        self.head = Head()
        self.leaves: list[bytes] = []
        self.full: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def read(self, tiles: list[Tile]) -> dict[Tile, bytes]:
        return {tile: self._read(tile) for tile in tiles}

    def _read(self, tile: Tile) -> bytes:
        first = tile.index * 256
        if tile.level == 0:
            return b"".join(self.leaves[first : first + tile.width])
        return b"".join(self.full[tile.level - 1, index][0] for index in range(first, first + tile.width))

    def append(self, leaves: list[bytes]) -> Growth:
        growth = grow(self.head, leaves, self.read(partial_tiles(self.head.size, len(leaves))))
        self.leaves += leaves
        for full in growth.filled:
            assert (full.tile.level, full.tile.index) not in self.full, "a tile is written once"
            self.full[full.tile.level, full.tile.index] = (full.root, full.hashes)
        self.head = growth.head
        return growth


def tree_of(*steps: int) -> Tree:
    tree, start = Tree(), 0
    for step in steps:
        tree.append(LEAVES[start : start + step])
        start += step
    return tree


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_steps_do_not_matter(steps: list[int]) -> None:
    tree, total = tree_of(*steps), sum(steps)
    builder = TileBuilder()
    filled = builder.add(LEAVES[:total])
    assert tree.head.size == total
    assert tree.head.root == builder.root() == root_of(LEAVES[:total])
    assert {key: hashes for key, (_, hashes) in tree.full.items()} == {
        (tile.level, tile.index): content for tile, content in filled
    }


def test_a_tree_of_three_levels() -> None:
    tree = tree_of(65_000, 535, 1, 4_464)
    assert tree.head.root == root_of(LEAVES)
    assert (1, 0) in tree.full
    assert max(level for level, _ in tree.full) == 1


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_entry_is_proven_at_every_size(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 1500))
    size = data.draw(st.integers(1, total))
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(total)
    proof = prove_inclusion(index, size, tree.read(inclusion_tiles(index, size)))
    verify_inclusion(index, size, LEAVES[index], proof, root_of(LEAVES[:size]))


@settings(max_examples=40, deadline=None)
@given(before=st.integers(0, 800), more=st.integers(0, 800))
def test_what_grew_may_be_signed(before: int, more: int) -> None:
    tree = tree_of(before) if before else Tree()
    signed = SignedHead(tree.head.size, tree.head.root, b"")
    if more:
        tree.append(LEAVES[before : before + more])
    check_extension(tree.head, signed, tree.read([*head_tiles(tree.head.size), *head_tiles(before)]))


def test_a_fork_is_not_signed() -> None:
    original = tree_of(500)
    signed = SignedHead(500, original.head.root, b"")
    restored = tree_of(400)
    with pytest.raises(SigningRefused):  # shorter than what was signed
        check_extension(restored.head, signed, restored.read(head_tiles(400)))
    restored.append([leaf_hash(b"something else"), *LEAVES[401:700]])
    with pytest.raises(SigningRefused):  # longer, and another
        check_extension(restored.head, signed, restored.read([*head_tiles(700), *head_tiles(500)]))


@pytest.mark.parametrize("size", [3, 300])
def test_a_damaged_tree_is_not_signed(size: int) -> None:
    tree = tree_of(size)
    tree.leaves[size - 1] = bytes(32)
    with pytest.raises(LogDamaged):
        check_extension(tree.head, None, tree.read(head_tiles(size)))
    tree.leaves.pop()
    with pytest.raises(LogDamaged):
        check_extension(tree.head, None, tree.read(head_tiles(size)))


@pytest.mark.parametrize("damaged", [Head(size=2), Head(size=1, frontier=(bytes(32),), root=bytes(31) + b"x")])
def test_a_damaged_head_is_neither_signed_nor_built_upon(damaged: Head) -> None:
    with pytest.raises(LogDamaged):
        check_extension(damaged, None, {})
    with pytest.raises(LogDamaged):
        grow(damaged, LEAVES[:1], {})


def test_damage_below_a_tile_is_not_built_upon() -> None:
    tree = tree_of(200)
    tree.leaves[7] = bytes(32)
    with pytest.raises(LogDamaged, match="below entry 256"):
        tree.append(LEAVES[200:300])
    tree = tree_of(200)
    del tree.leaves[100:]
    with pytest.raises(LogDamaged):
        tree.append(LEAVES[200:300])
    assert replace(tree.head) == tree_of(200).head
