"""Checks what was kept of a log, with no server and no credential: a receipt, or that the log only grew.

A receipt is a C2SP tlog-proof whose `extra` is the entry itself, so one file and the log's verifier key are all it
takes. Where the entry was not handed out, whoever has it brings it.

What always holds: `verify_receipt` returns only if the key signed the tree and the entry's bytes are hashed into it;
`verify_growth` only if both checkpoints are signed by the one key and the newer begins with the older. With a policy,
its quorum of witnesses has cosigned the checkpoint, or the newer of the two.

On failure: an error of `wardmesh.crypto`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wardmesh.audit_openings import NotOpened, check_openings
from wardmesh.audit_witnesses import check_witnesses
from wardmesh.contracts.audit.personal import Opening
from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.errors import BadProof, MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.note import VerifierKey
from wardmesh.crypto.tlog import verify_consistency
from wardmesh.crypto.tlog_policy import Policy, Witnessed
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
    witnessed: Witnessed | None = None
    """Who has cosigned its checkpoint, if the caller named witnesses."""


def verify_receipt(
    data: bytes,
    verifier_key: str | VerifierKey,
    *,
    entry: bytes | None = None,
    openings: Sequence[Opening] = (),
    policy: Policy | None = None,
) -> VerifiedReceipt:
    """Return what the receipt `data` proves of its own entry, or of `entry` if that is given, and of its openings."""
    proof = TlogProof.parse(data)
    hashed = proof.extra if entry is None else entry
    if hashed is None:
        raise MalformedEncoding("the receipt has no entry in it; bring the entry's bytes")
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    checkpoint = verify_proof(proof, leaf_hash(hashed), key)
    witnessed = None if policy is None else check_witnesses(proof.checkpoint, checkpoint, key, policy)
    try:
        withheld = check_openings(hashed, openings)
    except NotOpened as error:
        raise BadProof(str(error)) from error
    return VerifiedReceipt(proof.index, hashed, checkpoint, withheld, witnessed)


def verify_growth(
    kept: bytes,
    present: bytes,
    proof: Sequence[bytes],
    verifier_key: str | VerifierKey,
    *,
    policy: Policy | None = None,
) -> tuple[Checkpoint, Checkpoint]:
    """Return both checkpoints only if the log that was signed in `present` begins with the one in `kept`."""
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    old, new = open_checkpoint(kept, key), open_checkpoint(present, key)
    verify_consistency(old.size, new.size, proof, old.root, new.root)
    if policy is not None:
        check_witnesses(present, new, key, policy)
    return old, new
