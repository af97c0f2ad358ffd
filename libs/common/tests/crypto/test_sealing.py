"""Only the holder opens what is sealed to it, and only as the answer that it was sealed for."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wardmesh.crypto import jwk
from wardmesh.crypto.errors import InvalidKey, Undecryptable
from wardmesh.crypto.sealing import OVERHEAD_BYTES, HolderKey, open_sealed, seal_to

HOLDER = HolderKey.from_private_bytes(bytes(range(32)))
INFO = [b"req_1", b"agt_1", b"7", b"1790000000"]

infos = st.lists(st.binary(max_size=12), max_size=4)


@pytest.mark.property
@given(st.binary(max_size=200), infos)
def test_round_trip(plaintext: bytes, info: list[bytes]) -> None:
    sealed = seal_to(HOLDER.public_bytes, plaintext, info)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert HOLDER.open(sealed, info) == plaintext
    assert open_sealed(HOLDER.private_bytes(), sealed, info) == plaintext


@pytest.mark.property
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal_to(HOLDER.public_bytes, b"plaintext", INFO))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    # The top bit of an X25519 key is ignored by definition (RFC 7748 section 5); HPKE hashes the key as sent, though.
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Undecryptable):
        HOLDER.open(bytes(sealed), INFO)


@pytest.mark.property
@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    for sealed in (data, b"\x01" + data):
        with pytest.raises(Undecryptable):
            HOLDER.open(sealed, INFO)


@pytest.mark.property
@given(infos, infos)
def test_an_answer_to_something_else_is_refused(info: list[bytes], other: list[bytes]) -> None:
    assume(info != other)
    with pytest.raises(Undecryptable):
        HOLDER.open(seal_to(HOLDER.public_bytes, b"plaintext", info), other)


def test_another_holder_is_refused() -> None:
    with pytest.raises(Undecryptable):
        HolderKey.generate().open(seal_to(HOLDER.public_bytes, b"plaintext", INFO), INFO)


def test_sealing_twice_shows_nothing() -> None:
    assert seal_to(HOLDER.public_bytes, b"same", INFO) != seal_to(HOLDER.public_bytes, b"same", INFO)


def test_an_encapsulated_key_of_small_order_is_refused() -> None:
    sealed = seal_to(HOLDER.public_bytes, b"plaintext", INFO)
    with pytest.raises(Undecryptable):
        HOLDER.open(sealed[:1] + bytes(32) + sealed[33:], INFO)


@pytest.mark.parametrize("public_key", [b"", bytes(31), bytes(33), bytes(32), (1).to_bytes(32, "little")])
def test_unusable_public_keys_are_refused(public_key: bytes) -> None:
    # The last two are of small order: everybody would compute the same shared secret with them.
    with pytest.raises(InvalidKey):
        seal_to(public_key, b"plaintext", INFO)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_private_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(InvalidKey):
        HolderKey.from_private_bytes(bytes(size))


def test_a_token_can_name_the_holder() -> None:
    assert jwk.public_bytes("X25519", HOLDER.public_jwk()) == HOLDER.public_bytes
    assert HOLDER.thumbprint() == jwk.thumbprint("X25519", HOLDER.public_bytes)


def test_the_private_half_is_not_shown() -> None:
    shown = repr(HOLDER) + str(HOLDER) + str(HOLDER.public_jwk())
    assert HOLDER.private_bytes().hex() not in shown
    assert str(HOLDER.private_bytes()) not in shown
    assert HOLDER.thumbprint() in repr(HOLDER)
