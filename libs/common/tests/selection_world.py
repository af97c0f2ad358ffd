"""A log of which parts are exported, with texts that spreadsheets stumble over."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from wardmesh.contracts.audit import MAX_NODES, Checkpoint, Filter, Nodes, SelectedLeaves
from wardmesh.crypto.checkpoint import Checkpoint as Head
from wardmesh.crypto.checkpoint import sign_checkpoint
from wardmesh.crypto.cosignature import Cosigner, with_lines
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import SignedNote, Signer
from wardmesh.ids import EventId, UserId, WorkspaceId

SCOPE = WorkspaceId.new()
SIGNER = Signer.from_seed("wardmesh.test", bytes(32))
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NASTY = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    "\r=1",
    "＝1",
    'a"b',
    "a,b",
    "a\nb",
    "Zoë",
    "\x00",
    "'=1",
    "a;b",
    " =1",
    "\u2028",
]


def leaf(number: int, target: str = "a") -> bytes:
    event = {
        "action": "secret.get", "actor": UserId.nil(), "category": "secret_access", "id": EventId.new(),
        "occurred_at": "2026-11-25T12:00:00Z", "outcome": "success", "targets": [target],
        "details": {"n": number, "note": target}, "reason": target,
    }  # fmt: skip
    document = {"version": 1, "scope": SCOPE, "source": "secrets", "received_at": NOW.isoformat(), "event": event}
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class Interrupted(Exception):
    pass


@dataclass
class FakeLog:
    """The three operations, on leaves in memory. Every third leaf matches any filter with a text."""

    leaves: list[bytes]
    page: int = 7
    signs_at: int | None = None
    calls_left: int = 10**9
    asked: list[int] = field(default_factory=list)
    cosigners: tuple[Cosigner, ...] = ()
    mldsa: tuple[MldsaSigner, ...] = ()

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Interrupted

    async def checkpoint(self) -> Checkpoint:
        self._count()
        size = self.signs_at or len(self.leaves)
        root = root_of([leaf_hash(each) for each in self.leaves[:size]])
        head = Head("wardmesh.test", size, root)
        signed = SignedNote.parse(sign_checkpoint(head, SIGNER))
        lines = [each.sign(head, 1) for each in self.cosigners] + [each.sign(head) for each in self.mldsa]
        note = with_lines(signed, lines).encode()
        return Checkpoint(note=note.decode(), verifier_key=str(SIGNER.verifier), size=size)

    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        self._count()
        stop = min(end, start + self.page)
        found = [index for index in range(start, stop) if filter.text is None or index % 3 == 0]
        leaves = tuple(self.leaves[index] for index in found)
        return SelectedLeaves(indexes=tuple(found), leaves=leaves, next_start=stop)

    async def nodes(self, *, size: int, nodes: tuple[tuple[int, int], ...]) -> Nodes:
        self._count()
        assert 0 < len(nodes) <= MAX_NODES
        self.asked.append(len(nodes))
        hashes = []
        for level, index in nodes:
            below = self.leaves[index << level : (index + 1) << level]
            assert len(below) == 1 << level
            assert (index + 1) << level <= size
            hashes.append(root_of([leaf_hash(each) for each in below]))
        return Nodes(hashes=tuple(hashes))


def nasty_log(count: int = 50) -> FakeLog:
    return FakeLog([leaf(number, NASTY[number % len(NASTY)]) for number in range(count)])


SOME = Filter(text="anything")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
