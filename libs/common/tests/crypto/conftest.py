"""What several tests of the log share: published vectors, and a log made the slow, obvious way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Rfc6962Vectors:
    """See the `source` inside the file."""

    leaves: list[bytes]
    empty_root: bytes
    roots: list[bytes]
    inclusion: list[tuple[int, int, list[bytes]]]
    consistency: list[tuple[int, int, list[bytes]]]


@pytest.fixture(scope="session")
def rfc6962() -> Rfc6962Vectors:
    data = json.loads((Path(__file__).parent / "vectors" / "rfc6962.json").read_text())
    return Rfc6962Vectors(
        leaves=[bytes.fromhex(leaf) for leaf in data["leaves"]],
        empty_root=bytes.fromhex(data["empty_root"]),
        roots=[bytes.fromhex(root) for root in data["roots"]],
        inclusion=[(case["index"], case["size"], unhex(case["proof"])) for case in data["inclusion"]],
        consistency=[(case["old"], case["new"], unhex(case["proof"])) for case in data["consistency"]],
    )


def unhex(hashes: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in hashes]


class ObviousLog:
    """RFC 6962 section 2.1, word for word: recursive definitions over all leaves, with nothing stored but hashes."""

    def __init__(self, count: int) -> None:
        self.entries = [b"entry %d" % number for number in range(count)]
        self._hashes: dict[tuple[int, int], bytes] = {}

    def root(self, start: int, end: int) -> bytes:
        """MTH(D[start:end])."""
        if (start, end) not in self._hashes:
            self._hashes[start, end] = self._root(start, end)
        return self._hashes[start, end]

    def _root(self, start: int, end: int) -> bytes:
        if start == end:
            return sha256(b"").digest()
        if end - start == 1:
            return sha256(b"\x00" + self.entries[start]).digest()
        middle = start + self._split(end - start)
        return sha256(b"\x01" + self.root(start, middle) + self.root(middle, end)).digest()

    def path(self, index: int, start: int, end: int) -> list[bytes]:
        """PATH(m, D[n])."""
        if end - start == 1:
            return []
        middle = start + self._split(end - start)
        if index < middle:
            return [*self.path(index, start, middle), self.root(middle, end)]
        return [*self.path(index, middle, end), self.root(start, middle)]

    def subproof(self, old: int, start: int, end: int, *, known: bool = True) -> list[bytes]:
        """SUBPROOF(m, D[n], b), with `old` counted from the log's beginning."""
        if old == end:
            return [] if known else [self.root(start, end)]
        middle = start + self._split(end - start)
        if old <= middle:
            return [*self.subproof(old, start, middle, known=known), self.root(middle, end)]
        return [*self.subproof(old, middle, end, known=False), self.root(start, middle)]

    def node(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree; fails for one that the log does not have yet."""
        start, end = index << level, (index + 1) << level
        assert end <= len(self.entries)
        return self.root(start, end)

    @staticmethod
    def _split(width: int) -> int:
        split = 1
        while split * 2 < width:
            split *= 2
        return split


@pytest.fixture(scope="session")
def obvious() -> ObviousLog:
    return ObviousLog(1030)
