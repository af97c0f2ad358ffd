"""C2SP cosignatures: real ones of public witnesses, another implementation's, and what is none."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import (
    Cosigner,
    CosignerKey,
    check_cosignature,
    cosigned,
    parse_witness_key,
    with_lines,
)
from wardmesh.crypto.errors import BadSignature, InvalidKey
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.mldsa import MldsaKey, MldsaSigner
from wardmesh.crypto.note import Signature, Signer, VerifierKey, open_note, sign_note

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tlog_cosignature.json").read_text())
LOG = Signer.from_seed("example.org/ws_1", bytes(range(32)))
ONE = Cosigner("witness.example.org/w1", Ed25519PrivateKey.from_private_bytes(bytes(32)))
MLDSA = MldsaSigner("witness.example.org/q1", MLDSA44PrivateKey.generate())
CHECKPOINT = Checkpoint("example.org/ws_1", 1, leaf_hash(b"entry"))
NOTE = sign_note(CHECKPOINT.text(), [LOG])
NOW = 1_765_558_886


def hashed(key: str) -> str:
    return sha256(bytes.fromhex(key)).hexdigest()


def test_real_cosignatures_of_public_witnesses_verify() -> None:
    origin = f"sigsum.org/v1/tree/{VECTORS['log_key_hash']}"
    checkpoint = Checkpoint(origin, VECTORS["size"], bytes.fromhex(VECTORS["root_hash"]))
    keys = {hashed(key): CosignerKey(name, bytes.fromhex(key)) for name, key in VECTORS["witnesses"].items()}
    lines = []
    for key_hash, time, signature in VECTORS["cosignatures"]:
        if (key := keys.get(key_hash)) is not None:
            lines.append(Signature(key.name, key.key_id, time.to_bytes(8, "big") + bytes.fromhex(signature)))
    assert len(lines) >= 4
    note = with_lines(sign_note(checkpoint.text(), [LOG]), lines)
    found = cosigned(note, checkpoint, keys.values())
    assert set(found.values()) == {NOW}
    assert len(found) == len(lines)


def test_an_independent_implementation_agrees_both_ways() -> None:
    signing = pytest.importorskip("tlog_scales.signing", reason="tlog-scales is not installed")
    tlog = pytest.importorskip("tlog_scales.tlog")
    theirs = tlog.Checkpoint(origin=CHECKPOINT.origin, size=CHECKPOINT.size, root_hash=CHECKPOINT.root, signatures=[])
    line = ONE.sign(CHECKPOINT, NOW)
    vkey = signing.Vkey.from_string(str(ONE.verifier))
    assert vkey.key_id.to_bytes(4, "big") == ONE.verifier.key_id
    vkey.get_verifier().verify_note(signing.NoteSignature.from_line(str(line)), theirs)
    quantum = signing.Vkey.from_string(str(MLDSA.verifier))
    quantum.get_verifier().verify_note(signing.NoteSignature.from_line(str(MLDSA.sign(CHECKPOINT, NOW))), theirs)
    signer = signing.MLDSA44CosignatureSigner("w2", MLDSA44PrivateKey.generate())
    made = Signature.parse(signer.sign(theirs).serialize())
    assert check_cosignature(CHECKPOINT, made, parse_witness_key(signer.vkey.serialize())) >= NOW


@pytest.mark.parametrize("signer", [ONE, MLDSA], ids=["ed25519", "ml-dsa-44"])
def test_a_cosignature_is_of_one_checkpoint_one_time_and_one_key(signer: Cosigner | MldsaSigner) -> None:
    line = signer.sign(CHECKPOINT, NOW)
    assert check_cosignature(CHECKPOINT, line, signer.verifier) == NOW
    grown = Checkpoint(CHECKPOINT.origin, 2, CHECKPOINT.root)
    other = Checkpoint("example.org/ws_2", 1, CHECKPOINT.root)
    for changed in (grown, other):
        with pytest.raises(BadSignature):
            check_cosignature(changed, line, signer.verifier)
    later = Signature(line.name, line.key_id, (NOW + 1).to_bytes(8, "big") + line.signature[8:])
    shorter = Signature(line.name, line.key_id, line.signature[:-1])
    for wrong in (later, shorter, Signature("w", line.key_id, line.signature)):
        with pytest.raises(BadSignature):
            check_cosignature(CHECKPOINT, wrong, signer.verifier)


def test_a_witness_says_when() -> None:
    with pytest.raises(ValueError, match="time"):
        ONE.sign(CHECKPOINT, 0)
    with pytest.raises(BadSignature, match="does not say when"):
        check_cosignature(CHECKPOINT, MLDSA.sign(CHECKPOINT), MLDSA.verifier)


def test_lines_of_unknown_keys_are_ignored_and_a_wrong_one_spoils_the_note() -> None:
    stranger = Cosigner("stranger", Ed25519PrivateKey.generate())
    namesake = Cosigner(ONE.verifier.name, Ed25519PrivateKey.generate())
    note = with_lines(NOTE, [stranger.sign(CHECKPOINT, NOW), namesake.sign(CHECKPOINT, NOW), ONE.sign(CHECKPOINT, NOW)])
    assert cosigned(note, CHECKPOINT, [ONE.verifier, MLDSA.verifier]) == {ONE.verifier: NOW}
    assert open_note(note, [LOG.verifier]) == CHECKPOINT.text()
    forged = Signature(ONE.verifier.name, ONE.verifier.key_id, bytes(7) + b"\x01" + bytes(64))
    with pytest.raises(BadSignature):
        cosigned(with_lines(NOTE, [forged]), CHECKPOINT, [ONE.verifier])


def test_a_logs_signature_is_no_cosignature_and_the_other_way_round() -> None:
    key = Ed25519PrivateKey.generate()
    log, witness = Signer("same", key), Cosigner("same", key)
    assert log.verifier.key_id != witness.verifier.key_id
    with pytest.raises(InvalidKey):
        CosignerKey.parse(str(log.verifier))
    with pytest.raises(InvalidKey):
        VerifierKey.parse(str(witness.verifier))
    line = log.sign(CHECKPOINT.text())
    with pytest.raises(BadSignature):
        check_cosignature(
            CHECKPOINT, Signature("same", witness.verifier.key_id, bytes(8) + line.signature), witness.verifier
        )


def test_keys_have_one_spelling() -> None:
    for key in (ONE.verifier, MLDSA.verifier):
        assert parse_witness_key(str(key)) == key
    assert isinstance(parse_witness_key(str(MLDSA.verifier)), MldsaKey)
    text = str(ONE.verifier)
    name, key_id, encoded = text.split("+", 2)
    for wrong in (
        "",
        "w",
        f"{name}+{key_id}",
        f"{name}+00000000+{encoded}",
        f"{name}+{key_id}+!",
        f"x{text}",
        f"{text}=",
    ):
        with pytest.raises(InvalidKey):
            parse_witness_key(wrong)
    assert "Ed25519PrivateKey" not in repr(ONE)


@pytest.mark.property
@given(st.binary(max_size=120))
def test_no_other_bytes_pass_for_a_cosignature(signature: bytes) -> None:
    if signature:
        with pytest.raises(BadSignature):
            check_cosignature(CHECKPOINT, Signature(ONE.verifier.name, ONE.verifier.key_id, signature), ONE.verifier)
