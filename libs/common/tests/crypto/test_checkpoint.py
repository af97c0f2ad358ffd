"""Checkpoints: the published example, strict parsing, and whose log it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.checkpoint import MAX_SIZE, Checkpoint, open_checkpoint, sign_checkpoint
from wardmesh.crypto.encoding import base64_decode
from wardmesh.crypto.errors import BadSignature, MalformedEncoding
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.crypto.note import SignedNote, Signer, VerifierKey, sign_note

# C2SP tlog-checkpoint and tlog-cosignature: the example, with its witness's line. Their keys are not published.
C2SP_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
C2SP_EXAMPLE = (
    f"{C2SP_TEXT}\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
ROOT = base64_decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")

SIGNER = Signer.from_seed("example.org/ws_1", bytes(range(32)))
CHECKPOINT = Checkpoint("example.org/ws_1", 8, ROOT)
VKEY = str(SIGNER.verifier)


def test_the_published_example() -> None:
    note = SignedNote.parse(C2SP_EXAMPLE.encode())
    assert note.encode() == C2SP_EXAMPLE.encode()
    checkpoint = Checkpoint.parse_text(note.text)
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, ROOT)
    assert checkpoint.text() == C2SP_TEXT


@pytest.mark.property
@given(st.integers(1, MAX_SIZE), st.binary(min_size=32, max_size=32), st.lists(st.sampled_from("ab — +"), max_size=3))
def test_round_trip(size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint("example.org/ws_1", size, root, tuple(extensions))
    assert Checkpoint.parse_text(checkpoint.text()) == checkpoint
    assert open_checkpoint(sign_checkpoint(checkpoint, SIGNER), VKEY) == checkpoint


@pytest.mark.property
@given(st.integers(0))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray(sign_checkpoint(CHECKPOINT, SIGNER))
    bit %= len(data) * 8
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((BadSignature, MalformedEncoding)):
        open_checkpoint(bytes(data), VKEY)


@pytest.mark.property
@given(st.text("a0189=+/\n ", max_size=60))
def test_whatever_parses_is_spelled_the_one_way(text: str) -> None:
    for body in (text, f"origin\n{text}", f"origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n{text}"):
        try:
            checkpoint = Checkpoint.parse_text(body)
        except MalformedEncoding:
            continue
        assert checkpoint.text() == body


def test_another_log_of_the_same_key_does_not_pass() -> None:
    """One key signs the logs of all tenants: the signature alone says nothing of which log it is."""
    foreign = sign_checkpoint(Checkpoint("example.org/ws_2", 8, ROOT), SIGNER)
    with pytest.raises(BadSignature):
        open_checkpoint(foreign, VKEY)
    with pytest.raises(BadSignature):
        open_checkpoint(sign_checkpoint(CHECKPOINT, SIGNER), VKEY, origin="example.org/ws_2")
    assert open_checkpoint(foreign, VKEY, origin="example.org/ws_2").origin == "example.org/ws_2"


def test_a_witness_alone_does_not_speak_for_the_log() -> None:
    witness = Signer.from_seed("witness.example/w1", bytes(32))
    with pytest.raises(BadSignature):
        open_checkpoint(sign_checkpoint(CHECKPOINT, witness), VKEY)
    assert open_checkpoint(sign_checkpoint(CHECKPOINT, SIGNER, witness), VKEY) == CHECKPOINT


def test_a_key_may_be_given_parsed() -> None:
    assert open_checkpoint(sign_checkpoint(CHECKPOINT, SIGNER), VerifierKey.parse(VKEY)) == CHECKPOINT


ROOT64 = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n8\n",
        f"origin\n8\n{ROOT64}",
        f"\n8\n{ROOT64}\n",
        f"origin\n\n{ROOT64}\n",
        f"origin\n08\n{ROOT64}\n",
        f"origin\n+8\n{ROOT64}\n",
        f"origin\n-1\n{ROOT64}\n",
        f"origin\n8 \n{ROOT64}\n",
        f"origin\n{2**63}\n{ROOT64}\n",
        f"origin\n99999999999999999999\n{ROOT64}\n",
        f"origin\n0\n{ROOT64}\n",
        f"origin\n8\n{ROOT64[:-1]}\n",
        f"origin\n8\n{ROOT64[:-2]}J=\n",
        f"origin\n8\n{ROOT64[4:]}\n",
        "origin\n8\n\n",
        f"origin\n8\n{ROOT64}\n\n",
        f"origin\n8\n{ROOT64}\n\nextension\n",
        f"ori\tgin\n8\n{ROOT64}\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(MalformedEncoding):
        Checkpoint.parse_text(text)


def test_a_signed_text_that_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(MalformedEncoding):
        open_checkpoint(sign_note("just a text\n", [SIGNER]).encode(), VKEY)


@pytest.mark.parametrize(
    "arguments",
    [
        ("", 8, ROOT),
        ("evil\n999", 8, ROOT),
        ("origin", -1, ROOT),
        ("origin", 2**63, ROOT),
        ("origin", 8, ROOT[:-1]),
        ("origin", 0, ROOT),
        ("origin", 8, ROOT, ("",)),
        ("origin", 8, ROOT, ("a\nb",)),
    ],
)
def test_what_would_read_back_as_something_else_cannot_be_made(arguments: tuple[str, int, bytes]) -> None:
    with pytest.raises(MalformedEncoding):
        Checkpoint(*arguments)


def test_an_empty_log_has_a_checkpoint() -> None:
    empty = Checkpoint("example.org/ws_1", 0, EMPTY_ROOT)
    assert open_checkpoint(sign_checkpoint(empty, SIGNER), VKEY) == empty
