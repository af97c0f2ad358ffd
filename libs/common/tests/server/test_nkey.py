"""nkeys against what others made of the same seeds."""

from __future__ import annotations

import base64

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from wardmesh.server import nkey
from wardmesh.server.nkey import InvalidNkeyError, Kind

# The pair of the NATS documentation, and a challenge that clients in other languages test their signatures with.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
NONCE = b"PXoWU7zWAMt75FY"
SIGNER = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"
SIGNER_PUBLIC = "UCK5N7N66OBOINFXAYC2ACJQYFSOD4VYNU6APEJTAVFZB2SVHLKGEW7L"
SIGNATURE = "ZaAiVDgB5CeYoXoQ7cBCmq+ZllzUnGUoDVb8C7PilWvCs8XKfUchAUhz2P4BYAF++Dg3w05CqyQFRDiGL6LrDw=="

SIGNING = (Kind.ACCOUNT, Kind.SERVER, Kind.USER)
LETTERS = {Kind.ACCOUNT: "A", Kind.SERVER: "N", Kind.USER: "U", Kind.CURVE: "X"}
raw_keys = st.binary(min_size=nkey.KEY_BYTES, max_size=nkey.KEY_BYTES)


def test_the_documented_seed_has_the_documented_public_key() -> None:
    assert nkey.public_key(Kind.USER, SEED) == PUBLIC
    assert nkey.encode_seed(Kind.USER, nkey.seed_bytes(Kind.USER, SEED)) == SEED
    assert nkey.encode(Kind.USER, nkey.decode(Kind.USER, PUBLIC)) == PUBLIC


def test_a_challenge_is_signed_as_elsewhere() -> None:
    assert nkey.public_key(Kind.USER, SIGNER) == SIGNER_PUBLIC
    signature = nkey.sign(Kind.USER, SIGNER, NONCE)
    assert base64.b64encode(signature).decode() == SIGNATURE
    assert nkey.is_signed_by(Kind.USER, SIGNER_PUBLIC, signature, NONCE)
    assert not nkey.is_signed_by(Kind.USER, PUBLIC, signature, NONCE)
    assert not nkey.is_signed_by(Kind.USER, SIGNER_PUBLIC, signature, NONCE + b".")
    assert not nkey.is_signed_by(Kind.USER, "no key at all", signature, NONCE)


@pytest.mark.property
@given(st.sampled_from(SIGNING), raw_keys, st.binary(max_size=64))
def test_the_package_nkeys_agrees(kind: Kind, raw: bytes, message: bytes) -> None:
    seed = nkey.encode_seed(kind, raw)
    theirs = nkeys.from_seed(bytearray(seed.encode()))
    public = bytes(theirs.public_key).decode()
    assert nkey.public_key(kind, seed) == public
    assert nkey.sign(kind, seed, message) == theirs.sign(message)
    assert public[0] == LETTERS[kind]
    assert seed[:2] == f"S{LETTERS[kind]}"


@pytest.mark.property
@given(raw_keys)
def test_a_curve_key_is_that_of_nacl(raw: bytes) -> None:
    seed = nkey.encode_seed(Kind.CURVE, raw)
    assert seed.startswith("SX")
    assert nkey.decode(Kind.CURVE, nkey.public_key(Kind.CURVE, seed)) == bytes(PrivateKey(raw).public_key)


@pytest.mark.property
@given(st.sampled_from(Kind), st.sampled_from(Kind), raw_keys)
def test_a_key_of_another_kind_is_none(kind: Kind, other: Kind, raw: bytes) -> None:
    seed, public = nkey.encode_seed(kind, raw), nkey.encode(kind, raw)
    assert nkey.seed_bytes(kind, seed) == raw
    assert nkey.decode(kind, public) == raw
    if other is not kind:
        with pytest.raises(InvalidNkeyError):
            nkey.seed_bytes(other, seed)
        with pytest.raises(InvalidNkeyError):
            nkey.decode(other, public)


@pytest.mark.property
@given(st.text() | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=50, max_size=60), st.sampled_from(Kind))
def test_anything_else_is_refused_and_never_quoted(text: str, kind: Kind) -> None:
    for read in (nkey.seed_bytes, nkey.decode):
        with pytest.raises(InvalidNkeyError) as refused:
            read(kind, text)
        assert len(text) < 8 or text not in str(refused.value)


@pytest.mark.parametrize("position", range(len(SEED)))
def test_one_wrong_letter_is_noticed_without_telling_the_rest(position: int) -> None:
    wrong = SEED[:position] + ("A" if SEED[position] != "A" else "B") + SEED[position + 1 :]
    with pytest.raises(InvalidNkeyError) as refused:
        nkey.public_key(Kind.USER, wrong)
    assert wrong[5:20] not in str(refused.value)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(InvalidNkeyError):
        nkey.encode_seed(Kind.USER, bytes(length))
    with pytest.raises(InvalidNkeyError):
        nkey.encode(Kind.USER, bytes(length))


def test_a_curve_key_does_not_sign() -> None:
    with pytest.raises(InvalidNkeyError):
        nkey.sign(Kind.CURVE, nkey.new_seed(Kind.CURVE), b"")


def test_fresh_seeds_differ_and_take_their_randomness_from_where_they_are_told() -> None:
    assert nkey.new_seed(Kind.USER) != nkey.new_seed(Kind.USER)
    assert nkey.new_seed(Kind.USER, bytes) == nkey.encode_seed(Kind.USER, bytes(32))
