"""C2SP tlog-proofs, and receipts made of them: one spelling, and nothing believed that is not hashed and signed."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.errors import BadProof, BadSignature, CryptoError, InvalidKey, MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.mldsa import MldsaKey, MldsaSigner
from wardmesh.crypto.note import Signature, SignedNote, Signer
from wardmesh.crypto.tlog import consistency_proof, inclusion_proof
from wardmesh.crypto.tlog_proof import MAX_TLOG_PROOF_BYTES, TlogProof, verify_proof

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tlog_proof.json").read_text())
SIGNER = Signer.from_seed("example.org/ws_1", bytes(range(32)))
OTHER = Signer.from_seed("example.org/ws_2", bytes(range(32)))
MLDSA, MLDSA_OTHER = (
    MldsaSigner(SIGNER.verifier.name, MLDSA44PrivateKey.from_seed_bytes(bytes([n]) * 32)) for n in (1, 2)
)


def log(size: int) -> tuple[list[bytes], list[bytes]]:
    entries = [b"entry %d" % number for number in range(size)]
    return entries, [leaf_hash(entry) for entry in entries]


def checkpoint(size: int, signer: Signer = SIGNER) -> bytes:
    return sign_checkpoint(Checkpoint(signer.verifier.name, size, root_of(log(size)[1])), signer)


def made(index: int, size: int, signer: Signer = SIGNER) -> TlogProof:
    entries, hashes = log(size)
    proof = inclusion_proof(index, size, lambda level, at: root_of(hashes[at << level : (at + 1) << level]))
    return TlogProof(index, tuple(proof), checkpoint(size, signer), extra=entries[index])


@pytest.mark.parametrize("vector", VECTORS["written"])
def test_proofs_are_written_as_others_write_them(vector: dict[str, Any]) -> None:
    extra = None if vector["extra"] is None else vector["extra"].encode()
    hashes = tuple(sha256(text.encode()).digest() for text in vector["hashed"])
    proof = TlogProof(vector["index"], hashes, vector["checkpoint"].encode(), extra)
    assert TlogProof.parse(proof.encode()) == proof


@pytest.mark.parametrize("text", VECTORS["texts"])
def test_what_others_write_has_one_spelling(text: str) -> None:
    assert TlogProof.parse(text.encode()).encode() == text.encode()


@pytest.mark.parametrize("name", [*VECTORS["malformed"], *VECTORS["lenient"]])
def test_what_is_no_proof_is_refused(name: str) -> None:
    text = (VECTORS["malformed"] | VECTORS["lenient"])[name]
    with pytest.raises(MalformedEncoding):
        TlogProof.parse(text.encode())


def test_a_proof_has_bounds() -> None:
    with pytest.raises(MalformedEncoding, match="too long"):
        TlogProof.parse(bytes(MAX_TLOG_PROOF_BYTES + 1))
    line = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    with pytest.raises(MalformedEncoding):
        TlogProof.parse(f"c2sp.org/tlog-proof@v1\nindex 0\n{line * 66}\ncp\n".encode())


@given(st.integers(1, 300).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_any_entry_has_a_receipt_that_verifies(place: tuple[int, int]) -> None:
    index, size = place
    receipt = made(index, size).encode()
    verified = verify_receipt(receipt, SIGNER.verifier)
    assert (verified.index, verified.entry, verified.checkpoint.size) == (index, b"entry %d" % index, size)
    assert TlogProof.parse(receipt).encode() == receipt


@given(st.data())
def test_no_byte_of_a_receipt_can_be_changed(data: st.DataObject) -> None:
    receipt = bytearray(made(70, 100).encode())
    at = data.draw(st.integers(0, len(receipt) - 1))
    receipt[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        verify_receipt(bytes(receipt), SIGNER.verifier)


def test_extra_data_is_believed_only_where_it_is_what_was_hashed() -> None:
    proof = made(3, 9)
    forged = TlogProof(proof.index, proof.hashes, proof.checkpoint, extra=b"entry 4")
    with pytest.raises(BadProof):
        verify_receipt(forged.encode(), SIGNER.verifier)
    bare = TlogProof(proof.index, proof.hashes, proof.checkpoint)
    with pytest.raises(MalformedEncoding, match="no entry in it"):
        verify_receipt(bare.encode(), SIGNER.verifier)
    assert verify_receipt(bare.encode(), SIGNER.verifier, entry=b"entry 3").index == 3
    with pytest.raises(BadProof):
        verify_receipt(proof.encode(), SIGNER.verifier, entry=b"entry 4")


def test_a_receipt_of_another_place_or_another_log_is_none() -> None:
    proof = made(3, 9)
    elsewhere = TlogProof(2, proof.hashes, proof.checkpoint, proof.extra)
    with pytest.raises(BadProof):
        verify_receipt(elsewhere.encode(), SIGNER.verifier)
    with pytest.raises(BadSignature):
        verify_receipt(made(3, 9, OTHER).encode(), SIGNER.verifier)
    with pytest.raises(BadSignature):  # the same key, another log's name
        verify_proof(proof, leaf_hash(b"entry 3"), SIGNER.verifier, origin="example.org/ws_3")


@given(st.integers(0, 200), st.integers(0, 200))
def test_growth_verifies_in_one_direction(old: int, new: int) -> None:
    hashes = log(max(old, new))[1]
    if old > new:
        with pytest.raises(BadProof, match="shrink"):
            verify_growth(checkpoint(old), checkpoint(new), [], SIGNER.verifier)
        return
    proof = consistency_proof(old, new, lambda level, at: root_of(hashes[at << level : (at + 1) << level]))
    kept, present = verify_growth(checkpoint(old), checkpoint(new), proof, str(SIGNER.verifier))
    assert (kept.size, present.size) == (old, new)


def test_growth_is_of_one_log() -> None:
    with pytest.raises(BadSignature):
        verify_growth(checkpoint(3, OTHER), checkpoint(3), [], SIGNER.verifier)


def also_signed(note: bytes, *lines: Signature) -> bytes:
    parsed = SignedNote.parse(note)
    return SignedNote(parsed.text, (*parsed.signatures, *lines)).encode()


def not_signed(note: bytes) -> dict[str, bytes]:
    """The same checkpoint in every way in which `MLDSA` has not signed it."""
    head = Checkpoint.parse_text(SignedNote.parse(note).text)
    sound = MLDSA.sign(head)
    renamed = MldsaSigner(OTHER.verifier.name, MLDSA._private)
    forged = {
        "of another size": MLDSA.sign(replace(head, size=head.size + 1)).signature,
        "of another tree": MLDSA.sign(replace(head, root=bytes(32))).signature,
        "by another key": MLDSA_OTHER.sign(head).signature,
        "with another time": bytes(7) + b"\x01" + sound.signature[8:],
        "cut short": sound.signature[:-1],
    }
    return {
        "no line": note,
        "another's line": also_signed(note, MLDSA_OTHER.sign(head)),
        "another name's line": also_signed(note, renamed.sign(head)),
    } | {what: also_signed(note, Signature(sound.name, sound.key_id, each)) for what, each in forged.items()}


def test_a_receipt_is_held_to_the_mldsa_key_that_is_named() -> None:
    proof = made(3, 9)
    line = MLDSA.sign(Checkpoint.parse_text(SignedNote.parse(proof.checkpoint).text))
    genuine = replace(proof, checkpoint=also_signed(proof.checkpoint, line)).encode()
    for key in (MLDSA.verifier, str(MLDSA.verifier)):
        verified = verify_receipt(genuine, SIGNER.verifier, mldsa_key=key)
        assert (verified.index, verified.mldsa_checked) == (3, True)
    assert not verify_receipt(genuine, SIGNER.verifier).mldsa_checked, "who does not ask is not told"
    for what, note in not_signed(proof.checkpoint).items():
        receipt = replace(proof, checkpoint=note).encode()
        assert verify_receipt(receipt, SIGNER.verifier).index == 3, what
        with pytest.raises(BadSignature):
            verify_receipt(receipt, SIGNER.verifier, mldsa_key=MLDSA.verifier)
    with pytest.raises(BadSignature):  # it signs beside the log's key, not in its place
        verify_receipt(genuine, OTHER.verifier, mldsa_key=MLDSA.verifier)
    for no_key in ("", str(SIGNER.verifier)):
        with pytest.raises(InvalidKey):
            verify_receipt(genuine, SIGNER.verifier, mldsa_key=no_key)


def test_growth_is_held_to_the_mldsa_key_that_is_named() -> None:
    hashes = log(9)[1]
    proof = consistency_proof(3, 9, lambda level, at: root_of(hashes[at << level : (at + 1) << level]))
    old, new = checkpoint(3), checkpoint(9)

    def grown(present: bytes, key: str | MldsaKey | None = MLDSA.verifier) -> int:
        return verify_growth(old, present, proof, SIGNER.verifier, mldsa_key=key)[1].size

    genuine = also_signed(new, MLDSA.sign(Checkpoint.parse_text(SignedNote.parse(new).text)))
    assert grown(genuine) == grown(genuine, str(MLDSA.verifier)) == grown(genuine, None) == 9, "kept before it had one"
    for what, note in not_signed(new).items():
        assert grown(note, None) == 9, what
        with pytest.raises(BadSignature):
            grown(note)
    with pytest.raises(InvalidKey):
        grown(genuine, "")
