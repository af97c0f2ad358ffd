"""Commitments: vectors that never change, and what nobody can do with them."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.commitment import COMMITMENT_BYTES, DOMAIN, SALT_BYTES, commit, is_opened_by
from wardmesh.crypto.encoding import length_prefixed

SALTS = st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def test_it_is_the_hash_of_four_length_prefixed_fields() -> None:
    salt = bytes(range(32))
    written_out = (
        b"\0\0\0\0\0\0\0\4"
        b"\0\0\0\0\0\0\0\x1cwardmesh/audit/commitment/v1"
        b"\0\0\0\0\0\0\0\6/actor"
        b"\0\0\0\0\0\0\0\x20" + salt + b"\0\0\0\0\0\0\0\x1eusr_01h455vb4pex5vsknk084sn02q"
    )
    made = commit("/actor", salt, "usr_01h455vb4pex5vsknk084sn02q")
    assert made == sha256(written_out).digest()
    assert made.hex() == "afa5e78bd80fc1073ef1ef11567c4e7c5a11eb8996b3f4a064f8506cc6ae84cb"


@given(path=TEXTS, salt=SALTS, value=TEXTS)
def test_it_is_what_it_says_for_every_path_and_value(path: str, salt: bytes, value: str) -> None:
    made = commit(path, salt, value)
    assert made == sha256(length_prefixed(DOMAIN, path.encode(), salt, value.encode())).digest()
    assert len(made) == COMMITMENT_BYTES
    assert is_opened_by(made, path, salt, value)


@given(one=st.tuples(TEXTS, SALTS, TEXTS), other=st.tuples(TEXTS, SALTS, TEXTS))
def test_nothing_else_opens_it(one: tuple[str, bytes, str], other: tuple[str, bytes, str]) -> None:
    assert is_opened_by(commit(*one), *other) is (one == other)


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33)])
def test_a_salt_of_another_length_makes_and_opens_nothing(salt: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        commit("/actor", salt, "x")
    assert not is_opened_by(bytes(32), "/actor", salt, "x")


def test_half_of_a_pair_opens_nothing() -> None:
    assert not is_opened_by(bytes(32), "/actor", bytes(32), "\ud800")
