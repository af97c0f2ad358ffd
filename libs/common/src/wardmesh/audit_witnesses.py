"""Whether enough witnesses have cosigned a checkpoint: what exports, receipts and growth are held to, if somebody asks.

What always holds: `check_witnesses` returns only if the policy's quorum has cosigned the very checkpoint, and the log's
key is one that the policy names, if it names any. Lines by others are ignored.

On failure: `NotWitnessed` with the names of who is missing, `BadSignature`, `InvalidKey`.
"""

from __future__ import annotations

from collections.abc import Iterator

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import moment
from wardmesh.crypto.errors import InvalidKey
from wardmesh.crypto.note import SignedNote, VerifierKey
from wardmesh.crypto.tlog_policy import Policy, Witnessed

__all__ = ["check_witnesses", "witness_lines"]


def check_witnesses(note: bytes, checkpoint: Checkpoint, key: VerifierKey, policy: Policy) -> Witnessed:
    """Return who has cosigned `note`, which is that checkpoint signed by `key`, only if that is a quorum."""
    if policy.logs and str(key) not in policy.logs:
        raise InvalidKey("the policy does not name the key that signed the checkpoint")
    return policy.check(SignedNote.parse(note), checkpoint)


def witness_lines(found: Witnessed) -> Iterator[str]:
    """Yield, for people, who has cosigned and when, and who has not."""
    for name, time in found.at.items():
        yield f"cosigned   by {name}, at {moment(time):%Y-%m-%d %H:%M:%S} UTC"
    if found.missing:
        yield f"           not by {', '.join(found.missing)}, which the quorum does not need"
