"""Checks what was kept of a log, with no server and no credential: a receipt, or that the log only grew.

A receipt is a C2SP tlog-proof whose `extra` is the entry itself, so one file and the log's verifier key are all it
takes. Where the entry was not handed out, whoever has it brings it.

What always holds: `verify_receipt` returns only if the key signed the tree and the entry's bytes are hashed into it;
`verify_growth` only if both checkpoints are signed by the one key and the newer begins with the older.

On failure: an error of `wardmesh.crypto`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wardmesh.audit_openings import NotOpened, check_openings
from wardmesh.contracts.audit.personal import Opening
from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.errors import BadProof, MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.note import VerifierKey
from wardmesh.crypto.tlog import verify_consistency
from wardmesh.crypto.tlog_proof import TlogProof, verify_proof

__all__ = ["VerifiedReceipt", "verify_growth", "verify_receipt"]


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """What a receipt proves: that `entry` is number `index` of the log, as its checkpoint has it."""

    index: int
    entry: bytes
    checkpoint: Checkpoint
    withheld: int = 0
    """Fields that it commits to, and that no opening was brought for."""


def verify_receipt(
    data: bytes,
    verifier_key: str | VerifierKey,
    *,
    entry: bytes | None = None,
    openings: Sequence[Opening] = (),
) -> VerifiedReceipt:
    """Return what the receipt `data` proves of its own entry, or of `entry` if that is given, and of its openings."""
    proof = TlogProof.parse(data)
    hashed = proof.extra if entry is None else entry
    if hashed is None:
        raise MalformedEncoding("the receipt has no entry in it; bring the entry's bytes")
    checkpoint = verify_proof(proof, leaf_hash(hashed), verifier_key)
    try:
        withheld = check_openings(hashed, openings)
    except NotOpened as error:
        raise BadProof(str(error)) from error
    return VerifiedReceipt(proof.index, hashed, checkpoint, withheld)


def verify_growth(
    kept: bytes, present: bytes, proof: Sequence[bytes], verifier_key: str | VerifierKey
) -> tuple[Checkpoint, Checkpoint]:
    """Return both checkpoints only if the log that was signed in `present` begins with the one in `kept`."""
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    old, new = open_checkpoint(kept, key), open_checkpoint(present, key)
    verify_consistency(old.size, new.size, proof, old.root, new.root)
    return old, new
