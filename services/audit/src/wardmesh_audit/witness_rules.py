"""What a witness may cosign (C2SP tlog-witness, add-checkpoint). Pure.

What always holds: `check_signed` returns only for a log that we were told of, signed by a key that we were told of;
`check_growth` only for a tree that begins with the one that was cosigned last. The order of the checks, and with it
which error a request gets that is wrong in several ways, is the specification's.

On failure: `MalformedCheckpoint` (400), `UnknownLog` (404), `NotTheLogs` (403), `Inconsistent` (422), and `Elsewhere`
for what the specification answers with 409 and a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import BadProof, CryptoError
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import SignedNote, VerifierKey
from wardmesh.crypto.tlog import verify_consistency
from wardmesh.crypto.tlog_witness import AddCheckpoint
from wardmesh_audit.errors import BooksDiffer, Inconsistent, MalformedCheckpoint, NotTheLogs, UnknownLog
from wardmesh_audit.proofs import SignedHead

LogKey: TypeAlias = VerifierKey | MldsaKey
Logs: TypeAlias = Mapping[str, tuple[LogKey, ...]]
"""The logs that we witness: origin → the keys of which one must have signed."""


@dataclass(frozen=True, slots=True)
class Latest:
    """What was cosigned last of a log; nothing, to begin with."""

    size: int = 0
    root: bytes = EMPTY_ROOT


class Elsewhere(Exception):
    """The request does not extend what was cosigned last, whose size that is."""

    def __init__(self, size: int, *, other_root: bool = False) -> None:
        super().__init__(size)
        self.size = size
        self.other_root = other_root
        """Whether the log has signed two roots of one size: it forked."""


def read(body: bytes) -> tuple[AddCheckpoint, Checkpoint]:
    """Return a request and the checkpoint in it, of which nothing is verified."""
    try:
        request = AddCheckpoint.parse(body)
        checkpoint = request.checkpoint
    except CryptoError as error:
        raise MalformedCheckpoint(f"This is no add-checkpoint request: {error}.") from error
    return request, checkpoint


def check_signed(note: SignedNote, checkpoint: Checkpoint, logs: Logs) -> None:
    """Return only if a trusted key of the checkpoint's log has signed the note, and none of them wrongly.

    An ML-DSA-44 signature does not cover extension lines. Anybody could add some; such a note needs one that does.
    """
    keys = {key.identity: key for key in logs.get(checkpoint.origin, ())}
    if not keys:
        raise UnknownLog
    enough = False
    for line in note.signatures:
        key = keys.get(line.identity)
        if key is None:
            continue
        try:
            if isinstance(key, VerifierKey):
                key.verify(note.text, line.signature)
                enough = True
            else:
                key.verify(checkpoint, line.signature)
                enough = enough or not checkpoint.extensions
        except CryptoError as error:
            raise NotTheLogs from error
    if not enough:
        raise NotTheLogs


def later(inside: Latest, outside: SignedHead | None) -> Latest:
    """Return what was cosigned last, of what the books say and what is remembered outside of them."""
    if outside is None or outside.size < inside.size:
        return inside
    if outside.size == inside.size and outside.root != inside.root:
        raise BooksDiffer
    return Latest(outside.size, outside.root)


def check_growth(latest: Latest, request: AddCheckpoint, checkpoint: Checkpoint) -> None:
    """Return only if the checkpoint may be cosigned after `latest`."""
    if request.old_size > checkpoint.size:
        raise MalformedCheckpoint("The old size is greater than the checkpoint's: a log cannot shrink.")
    forked = checkpoint.size == latest.size and checkpoint.root != latest.root
    if request.old_size != latest.size:
        raise Elsewhere(latest.size, other_root=forked)
    if request.old_size == checkpoint.size and not request.proof:
        if forked:
            raise Elsewhere(latest.size, other_root=True)
        return
    try:
        verify_consistency(latest.size, checkpoint.size, request.proof, latest.root, checkpoint.root)
    except BadProof as error:
        raise Inconsistent from error
