"""Proofs are RFC 6962's, and nothing that is not a proof passes for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardmesh.crypto.errors import BadProof
from wardmesh.crypto.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash
from wardmesh.crypto.tlog import (
    consistency_nodes,
    consistency_proof,
    frontier_at,
    frontier_nodes,
    inclusion_nodes,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)

EXHAUSTIVE_SIZE = 130  # over 2^7, so that every shape of a right edge up to seven levels is met


def test_published_inclusion_proofs(rfc6962: Any) -> None:
    read = reader(rfc6962.leaves)
    for index, size, proof in rfc6962.inclusion:
        assert inclusion_proof(index, size, read) == proof
        verify_inclusion(index, size, leaf_hash(rfc6962.leaves[index]), proof, rfc6962.roots[size - 1])


def test_published_consistency_proofs(rfc6962: Any) -> None:
    read = reader(rfc6962.leaves)
    for old, new, proof in rfc6962.consistency:
        assert consistency_proof(old, new, read) == proof
        verify_consistency(old, new, proof, rfc6962.roots[old - 1], rfc6962.roots[new - 1])


def test_every_inclusion_proof_of_every_small_log(obvious: Any) -> None:
    for size in range(1, EXHAUSTIVE_SIZE):
        root = obvious.root(0, size)
        for index in range(size):
            proof = inclusion_proof(index, size, obvious.node)
            assert proof == obvious.path(index, 0, size)
            verify_inclusion(index, size, obvious.root(index, index + 1), proof, root)


def test_every_consistency_proof_between_small_logs(obvious: Any) -> None:
    for new in range(EXHAUSTIVE_SIZE):
        for old in range(new + 1):
            proof = consistency_proof(old, new, obvious.node)
            assert proof == (obvious.subproof(old, 0, new) if old else [])
            verify_consistency(old, new, proof, obvious.root(0, old), obvious.root(0, new))


@pytest.mark.property
@settings(deadline=None)
@given(st.data())
def test_larger_logs(obvious: Any, data: st.DataObject) -> None:
    new = data.draw(st.integers(1, len(obvious.entries)))
    old, index = data.draw(st.integers(1, new)), data.draw(st.integers(0, new - 1))
    root = obvious.root(0, new)
    verify_inclusion(index, new, obvious.root(index, index + 1), inclusion_proof(index, new, obvious.node), root)
    verify_consistency(old, new, consistency_proof(old, new, obvious.node), obvious.root(0, old), root)


@pytest.mark.property
@given(st.data())
def test_proofs_in_logs_that_no_memory_holds(data: st.DataObject) -> None:
    """All leaves alike make every node of a level alike, so that a log of 2^62 entries fits in a table."""
    levels = [leaf_hash(b"same")]
    for _ in range(63):
        levels.append(node_hash(levels[-1], levels[-1]))

    def read(level: int, _index: int) -> bytes:
        return levels[level]

    new = data.draw(st.integers(1, 2**62))
    old, index = data.draw(st.integers(1, new)), data.draw(st.integers(0, new - 1))
    root = frontier_at(new, read).root()
    inclusion, consistency = inclusion_proof(index, new, read), consistency_proof(old, new, read)
    verify_inclusion(index, new, levels[0], inclusion, root)
    verify_consistency(old, new, consistency, frontier_at(old, read).root(), root)
    assert len(inclusion) <= new.bit_length()
    assert len(consistency) <= new.bit_length() + 1


@pytest.mark.property
@given(st.data())
def test_the_nodes_announced_are_those_that_are_read(obvious: Any, data: st.DataObject) -> None:
    new = data.draw(st.integers(1, len(obvious.entries)))
    old, index = data.draw(st.integers(0, new)), data.draw(st.integers(0, new - 1))
    seen: list[tuple[int, int]] = []

    def read(level: int, number: int) -> bytes:
        assert (number + 1) << level <= new, "an incomplete node was asked for"
        seen.append((level, number))
        return bytes(obvious.node(level, number))

    inclusion_proof(index, new, read)
    assert seen == inclusion_nodes(index, new)
    seen.clear()
    consistency_proof(old, new, read)
    assert seen == consistency_nodes(old, new)
    seen.clear()
    frontier = frontier_at(new, read)
    assert seen == frontier_nodes(new)
    assert frontier.root() == obvious.root(0, new)


# --- Attacks ---------------------------------------------------------------------------------------------------------

GARBAGE = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")


def corrupted(proof: list[bytes], *roots: bytes) -> Iterator[list[bytes]]:
    """The ways of spoiling a proof that transparency-dev/merkle tries in proof/verify_test.go."""
    for extra in (b"", GARBAGE, *roots):
        yield [*proof, extra]
        yield [extra, *proof]
    for position, value in enumerate(proof):
        yield proof[:position] + proof[position + 1 :]
        yield [*proof[:position], bytes([value[0] ^ 8]) + value[1:], *proof[position + 1 :]]
        yield [*proof[:position], value[:-1], *proof[position + 1 :]]
        yield [*proof[:position], GARBAGE, *proof[position:]]
    if len(set(proof)) > 1:
        yield proof[::-1]
    yield [GARBAGE] * 1000


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 33, 100])
def test_corrupted_inclusion_proofs_are_refused(obvious: Any, size: int) -> None:
    root = obvious.root(0, size)
    for index in range(size):
        leaf, proof = obvious.root(index, index + 1), obvious.path(index, 0, size)
        attacks = [(index, size, leaf, wrong, root) for wrong in corrupted(proof, root, leaf)]
        attacks += [(other, size, leaf, proof, root) for other in (index - 1, index + 1, index ^ 2, -1, size)]
        # A proof of log2(n) hashes can say nothing of another size, unless both sizes lead along the same path.
        attacks += [
            (index, 0, leaf, proof, root),
            (index, index, leaf, proof, root),
            (index, size * 4, leaf, proof, root),
        ]
        attacks += [(index, size, wrong, proof, root) for wrong in (GARBAGE, b"", leaf[:-1], EMPTY_ROOT)]
        attacks += [(index, size, leaf, proof, wrong) for wrong in (GARBAGE, b"", EMPTY_ROOT)]
        for attack in attacks:
            with pytest.raises(BadProof):
                verify_inclusion(*attack)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (1, 8), (2, 5), (3, 7), (4, 7), (6, 8), (6, 7), (63, 64), (64, 100)])
def test_corrupted_consistency_proofs_are_refused(obvious: Any, old: int, new: int) -> None:
    old_root, new_root = obvious.root(0, old), obvious.root(0, new)
    proof = obvious.subproof(old, 0, new)
    attacks = [(old, new, wrong, old_root, new_root) for wrong in (*corrupted(proof, old_root, new_root), [])]
    attacks += [(other, new, proof, old_root, new_root) for other in (old - 1, old + 1, old ^ 2, -1, new, new + 1)]
    attacks += [(old, other, proof, old_root, new_root) for other in (0, old, new * 2, new // 2)]
    attacks += [(old, new, proof, wrong, new_root) for wrong in (GARBAGE, b"", new_root, EMPTY_ROOT)]
    attacks += [(old, new, proof, old_root, wrong) for wrong in (GARBAGE, b"", old_root, EMPTY_ROOT)]
    attacks += [(new, old, proof, new_root, old_root), (new, old, proof, old_root, new_root)]
    for attack in attacks:
        with pytest.raises(BadProof):
            verify_consistency(*attack)


def test_a_proof_that_is_too_long_is_refused_even_if_its_hashes_fit(obvious: Any) -> None:
    """A root that the attacker signed itself: size and proof disagree, and only the length shows it."""
    for size in (1, 5, 8):
        longer = [*obvious.path(0, 0, size), GARBAGE]
        with pytest.raises(BadProof, match="too long"):
            verify_inclusion(0, size, obvious.root(0, 1), longer, node_hash(GARBAGE, obvious.root(0, size)))


@pytest.mark.parametrize(
    ("old", "new", "proof", "old_root", "new_root"),
    [
        (0, 0, [], GARBAGE, GARBAGE),
        (0, 0, [], EMPTY_ROOT, GARBAGE),
        (0, 0, [EMPTY_ROOT], EMPTY_ROOT, EMPTY_ROOT),
        (0, 1, [], GARBAGE, GARBAGE),
        (0, 1, [GARBAGE], EMPTY_ROOT, GARBAGE),
        (1, 1, [], EMPTY_ROOT, GARBAGE),
        (1, 1, [GARBAGE], GARBAGE, GARBAGE),
        (1, 2, [], GARBAGE, GARBAGE),
        (1, 0, [], GARBAGE, EMPTY_ROOT),
        (2, 1, [], GARBAGE, GARBAGE),
    ],
)
def test_trivial_consistency_is_checked_too(
    old: int, new: int, proof: list[bytes], old_root: bytes, new_root: bytes
) -> None:
    with pytest.raises(BadProof):
        verify_consistency(old, new, proof, old_root, new_root)


def test_a_fork_has_no_consistency_proof(obvious: Any) -> None:
    """A log that was restored and written again: whichever of both proofs it offers is refused."""
    forked = Frontier()
    forked.extend(obvious.root(index, index + 1) for index in range(40))
    forked.append(leaf_hash(b"another entry"))
    old_root = obvious.root(0, 41)
    forked.extend(obvious.root(index, index + 1) for index in range(41, 60))
    proof = obvious.subproof(41, 0, 60)
    with pytest.raises(BadProof):
        verify_consistency(41, 60, proof, old_root, forked.root())


@pytest.mark.property
@given(st.integers(-2, 40), st.integers(-2, 40), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_made_up_proofs_are_refused_and_never_crash(index: int, size: int, proof: list[bytes]) -> None:
    with pytest.raises(BadProof):
        verify_inclusion(index, size, GARBAGE, proof, EMPTY_ROOT)
    with pytest.raises(BadProof):
        verify_consistency(index, size, proof, GARBAGE, EMPTY_ROOT)


def test_the_generators_refuse_what_makes_no_sense(obvious: Any) -> None:
    for index, size in ((0, 0), (1, 1), (-1, 1)):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(index, size, obvious.node)
    for old, new in ((2, 1), (-1, 1)):
        with pytest.raises(ValueError, match="shrink"):
            consistency_proof(old, new, obvious.node)


def reader(entries: list[bytes]) -> Any:
    stored: dict[tuple[int, int], bytes] = {}
    Frontier().extend(map(leaf_hash, entries), lambda level, index, value: stored.update({(level, index): value}))
    return lambda level, index: stored[level, index]
