"""RFC 6962 Merkle trees: hashing, and the frontier of a tree that grows.

A tree of n leaves is a row of perfect subtrees, one for each bit of n, the largest first. Their roots are the
*frontier*: at most 64 hashes that are all it takes to append to the tree and to know its root. It is what a log keeps
beside its size, in one row.

What always holds: a frontier has exactly as many hashes as its size has bits; `append` costs amortised one node hash;
the root is RFC 6962's MTH of all leaves ever appended.

A *node* is a perfect subtree, addressed by level and index: node (level, index) covers the leaves from index · 2^level
up to (index + 1) · 2^level. A node never changes once its last leaf is in, which is why it can be stored.

On failure: `MalformedEncoding` when stored state does not fit its size; `ValueError` for a caller's mistake.

Sources: RFC 6962 section 2.1; "compact ranges", transparency-dev/merkle docs/compact_ranges.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final, Self, TypeAlias

from wardmesh.crypto.errors import MalformedEncoding

HASH_BYTES: Final = 32
LEAF_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"
EMPTY_ROOT: Final = sha256(b"").digest()


Node: TypeAlias = tuple[int, int]
"""The level and the index of a perfect subtree."""
StoreNode: TypeAlias = Callable[[int, int, bytes], None]
"""Takes the level, the index and the hash of a node that has just become complete."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(NODE_PREFIX + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes that are all at hand."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over a power of two of sibling hashes; a tight loop, for those who hash millions."""
    row = list(hashes)
    if not row or len(row) & (len(row) - 1):
        raise ValueError("a perfect subtree has a power of two of leaves")
    while len(row) > 1:
        pairs = iter(row)
        row = [sha256(NODE_PREFIX + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return row[0]


class Frontier:
    """The roots of a tree's perfect subtrees, left to right."""

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._hashes: list[bytes] = []

    @classmethod
    def restore(cls, size: int, hashes: Iterable[bytes]) -> Self:
        """Return the frontier that had this `size` and these `hashes`."""
        frontier = cls()
        frontier._size = size
        frontier._hashes = list(hashes)
        if size < 0 or size.bit_count() != len(frontier._hashes):
            raise MalformedEncoding("a stored frontier has another number of hashes than its size requires")
        if any(len(stored) != HASH_BYTES for stored in frontier._hashes):
            raise MalformedEncoding(f"a stored frontier's hashes must have {HASH_BYTES} bytes")
        return frontier

    @property
    def size(self) -> int:
        """How many leaves the tree has."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The roots of the perfect subtrees, largest (leftmost) first: what `restore` takes."""
        return tuple(self._hashes)

    def copy(self) -> Frontier:
        """Return a frontier that grows independently of this one."""
        return Frontier.restore(self._size, self._hashes)

    def append(self, leaf: bytes, store: StoreNode | None = None) -> None:
        """Add a leaf's hash; tell `store` of every node that this completes, the leaf itself first."""
        self.append_subtree(0, leaf, store)

    def extend(self, leaves: Iterable[bytes], store: StoreNode | None = None) -> None:
        """Add leaves' hashes in order."""
        for leaf in leaves:
            self.append_subtree(0, leaf, store)

    def append_subtree(self, level: int, root: bytes, store: StoreNode | None = None) -> None:
        """Add 2^`level` leaves by the root over them; the size so far MUST be a multiple of 2^`level`."""
        index = self._size >> level
        if index << level != self._size:
            raise ValueError("a subtree cannot be appended here: it would not be aligned")
        self._size += 1 << level
        hashes = self._hashes
        while True:
            if store is not None:
                store(level, index, root)
            if not index & 1:
                break
            root = sha256(NODE_PREFIX + hashes.pop() + root).digest()
            level += 1
            index >>= 1
        hashes.append(root)

    def root(self) -> bytes:
        """Return RFC 6962's tree hash (MTH) of all leaves."""
        if not self._hashes:
            return EMPTY_ROOT
        *rest, root = self._hashes
        for left in reversed(rest):
            root = node_hash(left, root)
        return root

    def __repr__(self) -> str:
        return f"Frontier(size={self._size}, root={self.root().hex()})"
