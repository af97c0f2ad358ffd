"""What logs and witnesses say to each other: one spelling, bounded, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import CryptoError, MalformedEncoding
from wardmesh.crypto.note import Signer, sign_note
from wardmesh.crypto.tlog_witness import (
    MAX_PROOF_LINES,
    MAX_REQUEST_BYTES,
    AddCheckpoint,
    encode_lines,
    parse_lines,
    parse_size,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tlog_witness.json").read_text())
REQUEST: bytes = VECTORS["spec_request"].encode()
LOG = Signer.from_seed("example.org/ws_1", bytes(range(32)))


def test_the_specifications_own_example_is_read_and_written() -> None:
    request = AddCheckpoint.parse(REQUEST)
    assert (request.old_size, len(request.proof), len(request.note.signatures)) == (20852014, 4, 2)
    assert (request.checkpoint.origin, request.checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert request.encode() == REQUEST
    answer = VECTORS["spec_answer"].encode()
    assert encode_lines(parse_lines(answer)) == answer
    assert parse_size(b"20852014\n") == 20852014


HASH = b"PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
NOTE = REQUEST.partition(b"\n\n")[2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"old 1\n",
        b"old 1\n\n",
        b"old 1\n\nnot a note",
        b"old 01\n\n" + NOTE,
        b"old -1\n\n" + NOTE,
        b"old +1\n\n" + NOTE,
        b"old  1\n\n" + NOTE,
        b"Old 1\n\n" + NOTE,
        b"old 1 \n\n" + NOTE,
        b"old 1\r\n\n" + NOTE,
        b"old \n\n" + NOTE,
        b"size 1\n\n" + NOTE,
        b"old 9223372036854775808\n\n" + NOTE,
        b"old " + b"9" * 4000 + b"\n\n" + NOTE,
        b"old 1\n" + HASH[:-2] + b"\n\n" + NOTE,
        b"old 1\n" + HASH.strip() + b" \n\n" + NOTE,
        b"old 1\nAAAA\n\n" + NOTE,
        b"old 1\n" + HASH * (MAX_PROOF_LINES + 1) + b"\n" + NOTE,
        b"old 1\n\xff\n\n" + NOTE,
        b"old 1\n\n" + NOTE[:-1],
        b"old 1\n\n" + NOTE.replace(b"20852163", b"020852163"),
        b"old 1\n\n" + NOTE.replace(b"\n20852163\n", b"\n"),
        b"old 1\n\n" + NOTE.replace(b"sofa\n", b"so\x00fa\n"),
        b"old 1\n\n" + b"a" * MAX_REQUEST_BYTES,
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedEncoding):
        AddCheckpoint.parse(body)


@pytest.mark.property
@given(st.binary(max_size=300), st.integers(0, len(REQUEST)), st.integers(0, 40))
@example(b"\n\n", 0, 0)
def test_whatever_arrives_is_read_as_it_was_written_or_refused(inserted: bytes, at: int, dropped: int) -> None:
    body = REQUEST[:at] + inserted + REQUEST[at + dropped :]
    try:
        request = AddCheckpoint.parse(body)
    except CryptoError:
        return
    assert request.encode() == body


@pytest.mark.property
@given(st.integers(0, 2**63 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=MAX_PROOF_LINES))
def test_what_is_written_is_read(old_size: int, proof: list[bytes]) -> None:
    note = sign_note(Checkpoint("example.org/ws_1", 7, bytes(32)).text(), [LOG])
    request = AddCheckpoint(old_size, tuple(proof), note)
    assert AddCheckpoint.parse(request.encode()) == request


@pytest.mark.parametrize("body", [b"", b"1", b"\n", b"01\n", b"-1\n", b"1\n\n", b"\xff\n", b"9223372036854775808\n"])
def test_what_is_no_size_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedEncoding):
        parse_size(body)


@pytest.mark.property
@given(st.binary(max_size=400))
@example(b"\xe2\x80\x94 w AAAAAAA=\n")
@example(b"\xe2\x80\x94 w\n")
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    try:
        lines = parse_lines(body)
    except MalformedEncoding:
        return
    assert encode_lines(lines) == body


def test_an_answer_has_a_bound() -> None:
    with pytest.raises(MalformedEncoding):
        parse_lines(VECTORS["spec_answer"].encode() * 1000)
    with pytest.raises(MalformedEncoding):
        parse_lines("\u2014 w AAAAAAA=\n".encode() * 200)
