"""ML-DSA-44 on checkpoints: another implementation agrees, and nothing else passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.errors import BadSignature, InvalidKey
from wardmesh.crypto.mldsa import MldsaKey, MldsaSigner, check_signed
from wardmesh.crypto.note import SignedNote, Signer

ORIGIN = "example.org/ws_1"
ED25519 = Signer.from_seed(ORIGIN, bytes(range(32)))
MLDSA = MldsaSigner(ORIGIN, MLDSA44PrivateKey.from_seed_bytes(bytes(range(32))))
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(range(32)))


def signed(checkpoint: Checkpoint = CHECKPOINT, signer: MldsaSigner = MLDSA) -> bytes:
    text = checkpoint.text()
    return SignedNote(text, (ED25519.sign(text), signer.sign(checkpoint))).encode()


def test_another_implementation_agrees() -> None:
    signing = pytest.importorskip("tlog_scales.signing", reason="tlog-scales is not installed")
    tlog = pytest.importorskip("tlog_scales.tlog")
    theirs = signing.MLDSA44CosignatureSigner(ORIGIN, bytes(range(32)))
    assert theirs.vkey.serialize() == str(MLDSA.verifier)
    made = tlog.Checkpoint.make_signed(ORIGIN, 7, CHECKPOINT.root, [theirs]).serialize().encode()
    check_signed(made, CHECKPOINT, MLDSA.verifier)

    (_, line) = SignedNote.parse(signed()).signatures
    theirs_of_ours = tlog.Checkpoint(ORIGIN, 7, CHECKPOINT.root, [])
    vkey = signing.Vkey.from_string(str(MLDSA.verifier))
    vkey.get_verifier().verify(line.signature, theirs_of_ours)


def test_who_knows_ed25519_alone_reads_it_as_before() -> None:
    assert open_checkpoint(signed(), ED25519.verifier) == CHECKPOINT


def test_each_field_of_the_checkpoint_is_signed() -> None:
    for other in (
        replace(CHECKPOINT, origin="example.org/ws_2"),
        replace(CHECKPOINT, size=8),
        replace(CHECKPOINT, root=bytes(32)),
    ):
        with pytest.raises(BadSignature):
            check_signed(signed(), other, MLDSA.verifier)


def test_another_key_or_the_same_under_another_name_has_not_signed() -> None:
    stranger = MldsaSigner(ORIGIN, MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    renamed = MldsaSigner("example.org/ws_2", MLDSA44PrivateKey.from_seed_bytes(bytes(range(32))))
    for signer in (stranger, renamed):
        with pytest.raises(BadSignature, match="has not signed"):
            check_signed(signed(signer=signer), CHECKPOINT, MLDSA.verifier)
    bare = SignedNote(CHECKPOINT.text(), (ED25519.sign(CHECKPOINT.text()),)).encode()
    with pytest.raises(BadSignature, match="has not signed"):
        check_signed(bare, CHECKPOINT, MLDSA.verifier)


def test_a_changed_signature_or_time_is_refused() -> None:
    (_, line) = SignedNote.parse(signed()).signatures
    for at in (0, 7, 8, 2427):
        changed = bytearray(line.signature)
        changed[at] ^= 1
        with pytest.raises(BadSignature):
            MLDSA.verifier.verify(CHECKPOINT, bytes(changed))
    with pytest.raises(BadSignature, match="length"):
        MLDSA.verifier.verify(CHECKPOINT, line.signature[:-1])


@pytest.mark.parametrize(
    "vkey", ["", "a+b", str(ED25519.verifier), "x" + str(MLDSA.verifier), str(MLDSA.verifier)[:-4]]
)
def test_what_is_no_key_is_refused(vkey: str) -> None:
    assert MldsaKey.parse(str(MLDSA.verifier)) == MLDSA.verifier
    with pytest.raises(InvalidKey):
        MldsaKey.parse(vkey)
