"""Some leaves of a log, and what it takes to see that they are in it: the hashes of what lies between them.

A selection of the leaves of a tree of `size` is proven by hashes from left to right: for each selected leaf, those of
the perfect subtrees between it and the one before it, and its own; then those behind the last. With k selected leaves
that is about k·log(size/k) hashes, where as many inclusion proofs would be k·log(size).

What always holds: `SelectedTree` needs memory for the tree's right edge alone, however much is selected. Its root is
the signed one only if every selected leaf has its place in the signed tree, whatever the hashes were said to be.

On failure: `MalformedEncoding` if the places do not rise, or do not fit the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import Frontier, Node


def perfect_subtrees(start: int, end: int) -> Iterator[Node]:
    """Yield the largest perfect subtrees that make up the leaves of [start, end), left to right."""
    while start < end:
        fits = (end - start).bit_length() - 1
        level = min(fits, (start & -start).bit_length() - 1) if start else fits
        yield level, start >> level
        start += 1 << level


class SelectedTree:
    """A tree that is seen in part. `read` returns the next hash of the proof."""

    def __init__(self, size: int, read: Callable[[], bytes]) -> None:
        self._size = size
        self._read = read
        self._frontier = Frontier()

    def leaf(self, index: int) -> bytes:
        """Go on to a selected leaf; return the hash that the proof has for it."""
        self._skip_to(index)
        if index >= self._size:
            raise MalformedEncoding(f"entry {index} is beyond the signed size")
        value = self._read()
        self._frontier.append(value)
        return value

    def root(self) -> bytes:
        """Go on to the end; return the root over everything."""
        self._skip_to(self._size)
        return self._frontier.root()

    def _skip_to(self, index: int) -> None:
        if index < self._frontier.size:
            raise MalformedEncoding(f"entry {index} comes after entry {self._frontier.size - 1}")
        for level, _ in perfect_subtrees(self._frontier.size, min(index, self._size)):
            self._frontier.append_subtree(level, self._read())


def nodes_to(covered: int, index: int) -> list[Node]:
    """Return the nodes of a proof that covers `covered` leaves already and goes on to select leaf `index`."""
    return [*perfect_subtrees(covered, index), (0, index)]
