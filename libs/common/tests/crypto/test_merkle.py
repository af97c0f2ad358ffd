"""RFC 6962 hashing and the frontier of a growing tree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash, perfect_root, root_of

LEAVES = [leaf_hash(b"%d" % number) for number in range(600)]


def test_published_roots(rfc6962: Any) -> None:
    leaves = [leaf_hash(leaf) for leaf in rfc6962.leaves]
    assert rfc6962.empty_root == EMPTY_ROOT == root_of([])
    assert [root_of(leaves[:size]) for size in range(1, 9)] == rfc6962.roots


def test_a_leaf_cannot_pass_for_a_node() -> None:
    # Without the two prefixes a leaf of 64 bytes would hash like the node over its halves.
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


def test_a_repeated_last_leaf_makes_another_root() -> None:
    assert root_of([*LEAVES[:3], LEAVES[2]]) != root_of(LEAVES[:3])


def test_every_root_of_a_growing_log(obvious: Any) -> None:
    frontier = Frontier()
    for size, entry in enumerate(obvious.entries):
        assert frontier.size == size
        assert len(frontier.hashes) == size.bit_count()
        if size < 300 or size % 64 < 2:
            assert frontier.root() == obvious.root(0, size)
        frontier.append(leaf_hash(entry))


@pytest.mark.property
@given(st.lists(st.integers(0, 70), max_size=6))
def test_the_root_does_not_depend_on_how_the_leaves_come(batches: list[int]) -> None:
    frontier = Frontier()
    for batch in batches:
        frontier = Frontier.restore(frontier.size, frontier.hashes)  # as between two transactions
        frontier.extend(LEAVES[frontier.size : frontier.size + batch])
    assert frontier.root() == root_of(LEAVES[: sum(batches)])


def test_completed_nodes_are_stored_once_each_and_right(obvious: Any) -> None:
    stored: dict[tuple[int, int], bytes] = {}

    def store(level: int, index: int, value: bytes) -> None:
        assert stored.setdefault((level, index), value) is value

    frontier = Frontier()
    frontier.append(leaf_hash(obvious.entries[0]), store)
    frontier.extend(map(leaf_hash, obvious.entries[1:]), store)
    size = len(obvious.entries)
    assert stored == {
        (level, index): obvious.node(level, index) for level in range(11) for index in range(size >> level)
    }


@pytest.mark.property
@given(st.integers(0, 8), st.integers(0, 3), st.integers(0, 40))
def test_subtrees_can_be_appended_whole(level: int, before: int, after: int) -> None:
    width = 1 << level
    start, rest = before * width % 256, LEAVES[width:][:after]
    start -= start % width
    frontier = Frontier()
    frontier.extend(LEAVES[:start])
    frontier.append_subtree(level, perfect_root(LEAVES[:width]))
    frontier.extend(rest)
    assert frontier.root() == root_of([*LEAVES[:start], *LEAVES[:width], *rest])


def test_a_subtree_out_of_place_is_refused() -> None:
    frontier = Frontier()
    frontier.append(LEAVES[0])
    with pytest.raises(ValueError, match="aligned"):
        frontier.append_subtree(1, LEAVES[1])
    assert (frontier.size, frontier.root()) == (1, LEAVES[0])


def test_a_copy_grows_alone() -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:5])
    copy = frontier.copy()
    copy.append(LEAVES[5])
    assert (frontier.root(), copy.root()) == (root_of(LEAVES[:5]), root_of(LEAVES[:6]))


@pytest.mark.parametrize(
    ("size", "hashes"), [(1, []), (0, [bytes(32)]), (3, [bytes(32)]), (-1, [bytes(32)]), (1, [bytes(31)]), (1, [b""])]
)
def test_stored_state_that_does_not_fit_is_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(MalformedEncoding):
        Frontier.restore(size, hashes)


@pytest.mark.parametrize("count", [0, 3, 6, 255])
def test_perfect_root_wants_a_power_of_two(count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        perfect_root(LEAVES[:count])
    assert perfect_root(LEAVES[:256]) == root_of(LEAVES[:256])
