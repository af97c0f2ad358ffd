"""Checks what was kept of a log, with no server and no credential: a receipt, or that the log only grew.

A receipt is a C2SP tlog-proof whose `extra` is the entry itself, so one file and the log's verifier key are all it
takes. Where the entry was not handed out, whoever has it brings it.

What always holds: `verify_receipt` returns only if the key signed the tree and the entry's bytes are hashed into it;
`verify_growth` only if both checkpoints are signed by the one key and the newer begins with the older. With an
ML-DSA-44 key, that one has signed the checkpoint too, or the newer of the two; with a policy, its quorum of witnesses
has cosigned it. The older one is the caller's own, and may be from before the log had such a key.

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
from wardmesh.crypto.mldsa import MldsaKey, check_signed
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
    mldsa_checked: bool = False
    """Whether an ML-DSA-44 key that the caller named has signed its checkpoint too."""


def verify_receipt(
    data: bytes,
    verifier_key: str | VerifierKey,
    *,
    entry: bytes | None = None,
    openings: Sequence[Opening] = (),
    mldsa_key: str | MldsaKey | None = None,
    policy: Policy | None = None,
) -> VerifiedReceipt:
    """Return what the receipt `data` proves of its own entry, or of `entry` if that is given, and of its openings.

    With `mldsa_key`, that ML-DSA-44 key MUST have signed its checkpoint too; with `policy`, its quorum of witnesses.
    """
    proof = TlogProof.parse(data)
    hashed = proof.extra if entry is None else entry
    if hashed is None:
        raise MalformedEncoding("the receipt has no entry in it; bring the entry's bytes")
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    checkpoint = verify_proof(proof, leaf_hash(hashed), key)
    _check_mldsa(proof.checkpoint, checkpoint, mldsa_key)
    witnessed = None if policy is None else check_witnesses(proof.checkpoint, checkpoint, key, policy)
    try:
        withheld = check_openings(hashed, openings)
    except NotOpened as error:
        raise BadProof(str(error)) from error
    return VerifiedReceipt(proof.index, hashed, checkpoint, withheld, witnessed, mldsa_key is not None)


def verify_growth(
    kept: bytes,
    present: bytes,
    proof: Sequence[bytes],
    verifier_key: str | VerifierKey,
    *,
    mldsa_key: str | MldsaKey | None = None,
    policy: Policy | None = None,
) -> tuple[Checkpoint, Checkpoint]:
    """Return both checkpoints only if the log that was signed in `present` begins with the one in `kept`.

    With `mldsa_key`, that ML-DSA-44 key MUST have signed `present` too; with `policy`, its quorum of witnesses.
    """
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    old, new = open_checkpoint(kept, key), open_checkpoint(present, key)
    _check_mldsa(present, new, mldsa_key)
    verify_consistency(old.size, new.size, proof, old.root, new.root)
    if policy is not None:
        check_witnesses(present, new, key, policy)
    return old, new


def _check_mldsa(note: bytes, checkpoint: Checkpoint, key: str | MldsaKey | None) -> None:
    if key is not None:
        check_signed(note, checkpoint, MldsaKey.parse(key) if isinstance(key, str) else key)
