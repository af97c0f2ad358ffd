"""A certificate of erasure and the receipt of the entry that tells of it: what belongs together, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardmesh.audit_erasure import ErasureCertificate, verify_erasure
from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.errors import BadSignature, CryptoError, InvalidKey, MalformedEncoding, NotWitnessed
from wardmesh.crypto.merkle import EMPTY_ROOT, leaf_hash, root_of
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature, SignedNote, Signer, sign_note
from wardmesh.crypto.tlog import inclusion_proof
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.ids import EventId, ServiceId, UserId, WorkspaceId

SIGNER = Signer.from_seed("wardmesh/ws_1", bytes(32))
MLDSA, MLDSA_OTHER = (
    MldsaSigner(SIGNER.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes([n]) * 32)) for n in (1, 2)
)
ERASED_AT = datetime(2026, 11, 26, 8, 0, 0, 123456, tzinfo=UTC)
CERTIFIED = ErasureCertificate(SIGNER.verifier.name, EventId.new(), ERASED_AT, 3, 2, bytes(32))


def told(source: str = "audit", **changes: object) -> bytes:
    event: dict[str, object] = {
        "id": CERTIFIED.erasure_id,
        "occurred_at": ERASED_AT.isoformat(),
        "category": "administration",
        "action": "audit.subject_erased",
        "outcome": "success",
        "actor": ServiceId.nil(),
        "details": {"entries": 3},
    }
    document = {"version": 1, "scope": WorkspaceId.new(), "source": source, "received_at": ERASED_AT.isoformat()}
    return json.dumps({**document, "event": {**event, **changes}}).encode()


def receipt_of(entry: bytes, *, index: int = 2, signer: Signer = SIGNER) -> bytes:
    leaves = [b"a", b"b", b"c"]
    leaves[index] = entry
    hashes = list(map(leaf_hash, leaves))
    note = sign_checkpoint(Checkpoint(signer.verifier.name, 3, root_of(hashes)), signer)
    proof = inclusion_proof(index, 3, lambda level, at: root_of(hashes[at << level : (at + 1) << level]))
    return TlogProof(index, tuple(proof), note, extra=entry).encode()


def test_a_certificate_and_the_receipt_of_its_entry_belong_together() -> None:
    note, key = sign_note(CERTIFIED.text(), [SIGNER]).encode(), str(SIGNER.verifier)
    certificate, proven = verify_erasure(note, receipt_of(told()), key)
    assert (certificate, proven.index) == (CERTIFIED, 2)
    with pytest.raises(NotWitnessed):
        verify_erasure(
            note,
            receipt_of(told()),
            key,
            policy=Policy.of_keys([str(Cosigner("w", Ed25519PrivateKey.generate()).verifier)]),
        )
    for word, receipt in {
        "another event": receipt_of(told(id=EventId.new())),
        "somebody emitted it": receipt_of(told(actor=UserId.nil())),
        "another service": receipt_of(told(source="bridge")),
        "another action": receipt_of(told(action="audit.erase")),
        "it was refused": receipt_of(told(outcome="refused")),
        "more entries": receipt_of(told(details={"entries": 4})),
        "no number": receipt_of(told(details={})),
        "another time": receipt_of(told(occurred_at="2026-11-26T08:00:00Z")),
        "before it was done": receipt_of(told(), index=1),
        "no entry": receipt_of(b"c"),
        "deep": receipt_of(b"[" * 60_000),
        "another log": receipt_of(told(), signer=Signer.from_seed("wardmesh/ws_2", bytes(32))),
        "another key": receipt_of(told(), signer=Signer.from_seed(SIGNER.verifier.name, bytes(31) + b"1")),
        "nothing": b"",
    }.items():
        with pytest.raises(CryptoError):
            pytest.fail(f"{word}: {verify_erasure(note, receipt, key)}")
    with pytest.raises(MalformedEncoding, match="not a certificate"):
        verify_erasure(
            sign_checkpoint(Checkpoint(SIGNER.verifier.name, 0, EMPTY_ROOT), SIGNER), receipt_of(told()), key
        )


def test_the_receipt_of_an_erasure_is_held_to_the_mldsa_key_that_is_named() -> None:
    note, key = sign_note(CERTIFIED.text(), [SIGNER]).encode(), str(SIGNER.verifier)
    proof = TlogProof.parse(receipt_of(told()))
    signed = SignedNote.parse(proof.checkpoint)
    head = Checkpoint.parse_text(signed.text)
    sound = MLDSA.sign(head)

    def also_signed(line: Signature) -> bytes:
        return replace(proof, checkpoint=SignedNote(signed.text, (*signed.signatures, line)).encode()).encode()

    for named in (MLDSA.verifier, str(MLDSA.verifier)):
        certificate, proven = verify_erasure(note, also_signed(sound), key, mldsa_key=named)
        assert (certificate, proven.index, proven.mldsa_checked) == (CERTIFIED, 2, True)
    assert not verify_erasure(note, also_signed(sound), key)[1].mldsa_checked, "who does not ask is not told"
    tampered = bytes([*sound.signature[:-1], sound.signature[-1] ^ 1])
    for word, receipt in {
        "no line": proof.encode(),
        "another key's line": also_signed(MLDSA_OTHER.sign(head)),
        "by another key in its name": also_signed(replace(sound, signature=MLDSA_OTHER.sign(head).signature)),
        "of another tree": also_signed(MLDSA.sign(replace(head, root=bytes(32)))),
        "tampered with": also_signed(replace(sound, signature=tampered)),
    }.items():
        assert verify_erasure(note, receipt, key)[1].index == 2, word
        with pytest.raises(BadSignature):
            pytest.fail(f"{word}: {verify_erasure(note, receipt, key, mldsa_key=MLDSA.verifier)}")
    with pytest.raises(BadSignature):  # it signs beside the log's key, not in its place
        verify_erasure(note, also_signed(sound), str(Signer.from_seed(SIGNER.verifier.name, bytes(31) + b"1").verifier),
                       mldsa_key=MLDSA.verifier)  # fmt: skip
    with pytest.raises(InvalidKey):
        verify_erasure(note, also_signed(sound), key, mldsa_key=key)
