"""Certificates of erasure: signed by the log's key, checked with no server and no credential.

    wardmesh erasure certificate v1
    log wardmesh/ws_01h455vb4pex5vsknk084sn02q
    erasure evt_01h455vb4pex5vsknk084sn02q
    erased 2026-11-26T08:00:00.000000Z
    entries 42
    size 1234
    root 0eZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo8=

It says that the log of that origin destroyed, at that time, the only key by which it could say whom these entries are
about; and what the log was before (`size`, `root`), which a consistency proof leads on from. It does not say who it is:
whoever asked for the erasure knows. The log has an entry about the event that the erasure is called after.

That is the log's word, and nobody else's: witnesses cosign checkpoints, not certificates. What they have seen is the
tree that this entry is in, so a receipt of it (`wardmesh.audit_receipt`) is what goes with a certificate to whoever
trusts them: `verify_erasure` takes both. It is the same with the log's ML-DSA-44 key, which signs checkpoints only: by
the receipt it vouches for all that a certificate says but `size` and `root`.

What always holds: it is no checkpoint, and no checkpoint is one: their second lines are of different forms. A text has
one certificate, and a certificate one text. `verify_erasure` returns only if the log itself said of this erasure, in an
entry behind the certificate's size, what the certificate says, and if the policy's quorum has cosigned a tree with it,
and the ML-DSA-44 key that is named has signed that tree.

On failure: `MalformedEncoding`, `BadSignature`, `InvalidKey`; `BadProof` for a receipt of something else,
`NotWitnessed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from wardmesh.audit_receipt import VerifiedReceipt, verify_receipt
from wardmesh.audit_rows import Row, entry_of
from wardmesh.contracts.audit import ERASED, Outcome
from wardmesh.crypto.checkpoint import MAX_SIZE
from wardmesh.crypto.encoding import base64_decode, base64_encode, decimal_decode
from wardmesh.crypto.errors import BadProof, BadSignature, MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import SignedNote, VerifierKey, open_note
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.ids import EventId, InvalidIdError, ServiceId

HEAD: Final = "wardmesh erasure certificate v1"
SOURCE: Final = "audit"
_FIELDS: Final = ("log", "erasure", "erased", "entries", "size", "root")


@dataclass(frozen=True, slots=True)
class ErasureCertificate:
    """What a certificate says."""

    origin: str
    erasure_id: EventId
    erased_at: datetime
    entries: int
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed."""
        at = self.erased_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        values = (self.origin, self.erasure_id, at, self.entries, self.size, base64_encode(self.root))
        return "".join(
            f"{line}\n" for line in (HEAD, *(f"{name} {value}" for name, value in zip(_FIELDS, values, strict=True)))
        )

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """Return what a note's text certifies."""
        head, *lines = text.removesuffix("\n").split("\n")
        names = tuple(line.partition(" ")[0] for line in lines)
        if head != HEAD or names != _FIELDS:
            raise MalformedEncoding("not a certificate of erasure")
        origin, erasure_id, at, entries, size, root = (line.partition(" ")[2] for line in lines)
        try:
            found = cls(
                origin,
                EventId.parse(erasure_id),
                datetime.fromisoformat(at),
                decimal_decode(entries, maximum=MAX_SIZE),
                decimal_decode(size, maximum=MAX_SIZE),
                base64_decode(root),
            )
        except (InvalidIdError, ValueError) as error:
            raise MalformedEncoding("a certificate's id or time is none") from error
        if len(found.root) != HASH_BYTES or found.erased_at.tzinfo is None or found.text() != text:
            raise MalformedEncoding("a certificate has one spelling")
        return found


def open_certificate(data: bytes, verifier_key: str | VerifierKey) -> ErasureCertificate:
    """Return what a certificate says only if the log's key signed it, and it is that log's."""
    key = VerifierKey.parse(verifier_key) if isinstance(verifier_key, str) else verifier_key
    certificate = ErasureCertificate.parse_text(open_note(SignedNote.parse(data), [key]))
    if certificate.origin != key.name:
        raise BadSignature("the certificate is another log's")
    return certificate


def verify_erasure(
    data: bytes,
    receipt: bytes,
    verifier_key: str | VerifierKey,
    *,
    mldsa_key: str | MldsaKey | None = None,
    policy: Policy | None = None,
) -> tuple[ErasureCertificate, VerifiedReceipt]:
    """Return a certificate and the receipt of the entry that tells of its erasure, only if they belong together.

    With `mldsa_key`, that ML-DSA-44 key MUST have signed the receipt's checkpoint too; with `policy`, its quorum of
    witnesses.
    """
    certificate = open_certificate(data, verifier_key)
    proven = verify_receipt(receipt, verifier_key, mldsa_key=mldsa_key, policy=policy)
    try:
        told = entry_of(Row(proven.index, proven.entry))
    except (ValueError, RecursionError) as error:
        raise BadProof("the receipt is of no entry that could tell of an erasure") from error
    event = told.event
    if event.id != certificate.erasure_id:
        raise BadProof("the receipt is of another event than the erasure")
    # Nobody but the log speaks as the nil service (`ids`); whoever emits an event has the name of a token in it.
    if (event.action, event.outcome, event.actor, told.source) != (ERASED, Outcome.SUCCESS, ServiceId.nil(), SOURCE):
        raise BadProof("the entry is not the log's own word of an erasure")
    said = event.details.get("entries"), event.occurred_at
    if said != (certificate.entries, certificate.erased_at) or proven.index < certificate.size:
        raise BadProof("the log says something else of the erasure than the certificate")
    return certificate, proven
