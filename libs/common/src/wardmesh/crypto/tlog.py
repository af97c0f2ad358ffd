"""Proofs about an RFC 6962 log: that an entry is in it, and that it only ever grew.

Generation reads stored nodes through a function; whoever stores them may ask first which nodes a proof will read
(`inclusion_nodes`, `consistency_nodes`, `frontier_nodes`), fetch them in one query, and answer from memory.
All of them are complete in every tree of at least the size in question, so a log that grows meanwhile does not matter.

Verification needs nothing but the proof. It reads the proof from bottom to top while walking the two numbers that say
where the leaf and the right edge are, exactly as RFC 9162 spells it out.

What always holds: `verify_*` return None only if the proof has the one right length and leads to the root. Trees of
size 0 are consistent with everything, by an empty proof; a tree is consistent with itself, by an empty proof.

On failure: `BadProof` from `verify_*`, whatever the attacker chose, `ValueError` from the generators when the caller's
own numbers make no sense.

Sources: RFC 6962 sections 2.1.1 and 2.1.2; RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from typing import Final, TypeAlias

from wardmesh.crypto.errors import BadProof
from wardmesh.crypto.merkle import EMPTY_ROOT, HASH_BYTES, Frontier, Node, node_hash

ReadNode: TypeAlias = Callable[[int, int], bytes]
"""Returns the stored hash of a node, by level and index; never asked for one that is incomplete at that size."""
_Range: TypeAlias = tuple[int, int]
MAX_PROOF_HASHES: Final = 65  # a consistency proof between trees of fewer than 2^64 leaves


def frontier_nodes(size: int) -> list[Node]:
    """Return the nodes that make up the frontier of a tree of `size` leaves."""
    return list(_perfect(0, size))


def frontier_at(size: int, read: ReadNode) -> Frontier:
    """Return the frontier, and so the root, that the log had at `size`."""
    return Frontier.restore(size, starmap(read, frontier_nodes(size)))


def inclusion_nodes(index: int, size: int) -> list[Node]:
    """Return the nodes that `inclusion_proof` will read."""
    return [node for start, end in _inclusion_ranges(index, size) for node in _perfect(start, end)]


def inclusion_proof(index: int, size: int, read: ReadNode) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves, from the leaf's sibling upwards."""
    return [_subtree_hash(start, end, read) for start, end in _inclusion_ranges(index, size)]


def consistency_nodes(old_size: int, new_size: int) -> list[Node]:
    """Return the nodes that `consistency_proof` will read."""
    return [node for start, end in _consistency_ranges(old_size, new_size) for node in _perfect(start, end)]


def consistency_proof(old_size: int, new_size: int, read: ReadNode) -> list[bytes]:
    """Return the proof that the tree of `new_size` leaves begins with the one of `old_size`."""
    return [_subtree_hash(start, end, read) for start, end in _consistency_ranges(old_size, new_size)]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Return only if `proof` shows that leaf hash `leaf` is number `index` of the tree with that size and root."""
    if not 0 <= index < size:
        raise BadProof("the tree has no leaf of that index")
    _check_hashes(leaf, root, *proof)
    position, last = index, size - 1
    computed = leaf
    for sibling in proof:
        if last == 0:
            raise BadProof("the inclusion proof is too long")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            # The right edge has no siblings at the levels where its bit is zero.
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise BadProof("the inclusion proof is too short")
    if computed != root:
        raise BadProof("the inclusion proof leads to another root")


def verify_consistency(old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Return only if `proof` shows that the tree with the new size and root begins with the old one."""
    if not 0 <= old_size <= new_size:
        raise BadProof("a log cannot shrink")
    _check_hashes(old_root, new_root, *proof)
    if old_size == 0 or old_size == new_size:
        if proof:
            raise BadProof("the consistency proof should be empty")
        if old_root != (EMPTY_ROOT if old_size == 0 else new_root) or (new_size == 0 and new_root != EMPTY_ROOT):
            raise BadProof("the roots are not those of the sizes")
        return
    # The old tree is perfect: its root is then not in the proof, being known already.
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        raise BadProof("the consistency proof is too short")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise BadProof("the consistency proof is too long")
        if position & 1 or position == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new_computed = node_hash(new_computed, sibling)
        position >>= 1
        last >>= 1
    if last:
        raise BadProof("the consistency proof is too short")
    if old_computed != old_root:
        raise BadProof("the consistency proof leads to another old root")
    if new_computed != new_root:
        raise BadProof("the consistency proof leads to another new root")


def _check_hashes(*hashes: bytes) -> None:
    if len(hashes) > MAX_PROOF_HASHES + 2:
        raise BadProof("the proof is too long for any log")
    if any(len(value) != HASH_BYTES for value in hashes):
        raise BadProof(f"every hash of a proof must have {HASH_BYTES} bytes")


def _inclusion_ranges(index: int, size: int) -> list[_Range]:
    """The subtrees of RFC 6962's PATH(m, D[n]): the sibling at each level, lowest first."""
    if not 0 <= index < size:
        raise ValueError("the tree has no leaf of that index")
    ranges: list[_Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def _consistency_ranges(old_size: int, new_size: int) -> list[_Range]:
    """The subtrees of RFC 6962's PROOF(m, D[n]), in its order."""
    if not 0 <= old_size <= new_size:
        raise ValueError("a log cannot shrink")
    if old_size in (0, new_size):
        return []
    ranges: list[_Range] = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # at 0 the subtree is the whole old tree, whose root the verifier has
        ranges.append((start, end))
    return ranges[::-1]


def _split(width: int) -> int:
    """Return the largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1


def _perfect(start: int, end: int) -> Iterator[Node]:
    """Yield the perfect subtrees, largest first, that make up the subtree over [start, end)."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _subtree_hash(start: int, end: int, read: ReadNode) -> bytes:
    *rest, result = starmap(read, _perfect(start, end))
    for left in reversed(rest):
        result = node_hash(left, result)
    return result
