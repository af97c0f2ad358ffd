"""Encodings mean one thing, and decoders accept what their encoder writes and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.encoding import (
    UINT64_MAX,
    base64_decode,
    base64_encode,
    base64url_decode,
    base64url_encode,
    decimal_decode,
    length_prefixed,
)
from wardmesh.crypto.errors import MalformedEncoding

fields = st.lists(st.binary(max_size=40), max_size=6)


def read_back(data: bytes) -> list[bytes]:
    """The inverse of `length_prefixed`; that there is one is what makes it unambiguous."""
    count, position = int.from_bytes(data[:8], "big"), 8
    found = []
    for _ in range(count):
        length = int.from_bytes(data[position : position + 8], "big")
        position += 8
        found.append(data[position : position + length])
        position += length
    assert position == len(data)
    return found


def test_the_encoding_is_pinned() -> None:
    # Signatures and ciphertexts that exist depend on these bytes.
    assert length_prefixed(b"a", b"") == bytes.fromhex("0000000000000002 0000000000000001 61 0000000000000000")
    assert length_prefixed() == bytes(8)


@pytest.mark.property
@given(fields)
def test_fields_can_be_read_back(parts: list[bytes]) -> None:
    assert read_back(length_prefixed(*parts)) == parts


@pytest.mark.property
@given(fields, fields)
def test_different_fields_never_encode_alike(some: list[bytes], others: list[bytes]) -> None:
    assert (length_prefixed(*some) == length_prefixed(*others)) == (some == others)


@pytest.mark.parametrize(
    ("some", "others"),
    [((b"ab", b"c"), (b"a", b"bc")), ((b"a",), (b"a", b"")), ((), (b"",)), ((length_prefixed(b"a"),), (b"a",))],
)
def test_bytes_cannot_move_between_fields(some: tuple[bytes, ...], others: tuple[bytes, ...]) -> None:
    assert length_prefixed(*some) != length_prefixed(*others)


@pytest.mark.property
@given(st.binary(max_size=70))
def test_base64_round_trips(data: bytes) -> None:
    assert base64url_decode(base64url_encode(data)) == data
    assert base64_decode(base64_encode(data)) == data


@pytest.mark.property
@given(st.text(alphabet="ABab01+/-_= \n", max_size=12))
def test_whatever_base64_decodes_is_spelled_the_one_way(text: str) -> None:
    for decode, encode in ((base64url_decode, base64url_encode), (base64_decode, base64_encode)):
        try:
            data = decode(text)
        except MalformedEncoding:
            continue
        assert encode(data) == text


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y", "Y Q", "YQ\n", "+_", "a/b_", "é", "YWI=", "\ud800"])
def test_base64url_refuses(text: str) -> None:
    with pytest.raises(MalformedEncoding):
        base64url_decode(text)


@pytest.mark.parametrize("text", ["YQ", "YR==", "YQ=", "YQ===", "Y Q==", "YQ==\n", "YQ==YQ==", "-_==", "é", "QUJD="])
def test_base64_refuses(text: str) -> None:
    with pytest.raises(MalformedEncoding):
        base64_decode(text)


def test_decimals() -> None:
    assert decimal_decode("0") == 0
    assert decimal_decode("20852163") == 20852163
    assert decimal_decode(str(UINT64_MAX)) == UINT64_MAX
    assert decimal_decode("255", maximum=255) == 255


@pytest.mark.parametrize(
    "text", ["", "00", "01", "+1", "-1", " 1", "1\n", "1_0", "1.0", "٣", "x", str(2**64), "9" * 9999]
)
def test_decimals_refuse(text: str) -> None:
    with pytest.raises(MalformedEncoding):
        decimal_decode(text)


def test_decimals_refuse_more_than_the_maximum() -> None:
    with pytest.raises(MalformedEncoding):
        decimal_decode("256", maximum=255)
