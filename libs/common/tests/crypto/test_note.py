"""Signed notes: the published examples, and everything that is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto.encoding import base64_decode, base64_encode
from wardmesh.crypto.errors import BadSignature, CryptoError, InvalidKey, MalformedEncoding
from wardmesh.crypto.note import MAX_SIGNATURES, SignedNote, Signer, VerifierKey, open_note, sign_note

# golang.org/x/mod/sumdb/note, note.go and note_test.go (v0.21.0).
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = base64_decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
GO_NOTE = f"{TEXT}\n{PETER_LINE}{ENOCH_LINE}".encode()

# C2SP signed-note, "Verifier keys" and "Example".
C2SP_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_LINE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
C2SP_NOTE = f"This is an example message.\n\n{C2SP_LINE}".encode()

# Verifier keys in use: the Go checksum database's, pinned in every Go toolchain.
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

SIGNER = Signer.from_seed("example.org/log", bytes(range(32)))


@pytest.mark.parametrize("vkey", [PETER, ENOCH, C2SP_KEY, SUMDB])
def test_published_keys_read_back(vkey: str) -> None:
    assert str(VerifierKey.parse(vkey)) == vkey


def test_published_notes_verify() -> None:
    peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)
    for trusted in ([peter], [enoch], [peter, enoch]):
        assert open_note(SignedNote.parse(GO_NOTE), trusted) == TEXT
    assert open_note(SignedNote.parse(C2SP_NOTE), [VerifierKey.parse(C2SP_KEY)]) == "This is an example message.\n"
    assert SignedNote.parse(GO_NOTE).encode() == GO_NOTE


def test_we_sign_as_go_does() -> None:
    signer = Signer.from_seed("PeterNeumann", PETER_SEED)
    assert str(signer.verifier) == PETER
    assert sign_note(TEXT, [signer]).encode() == f"{TEXT}\n{PETER_LINE}".encode()


texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.just("\n"), max_size=40)


@pytest.mark.property
@given(texts)
def test_round_trip(body: str) -> None:
    text = f"{body}\n"
    data = sign_note(text, [SIGNER]).encode()
    assert open_note(SignedNote.parse(data), [SIGNER.verifier]) == text
    assert SignedNote.parse(data).encode() == data


@pytest.mark.property
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    note = bytearray(sign_note("a text\n\nin two parts\n", [SIGNER]).encode())
    bit = data.draw(st.integers(0, len(note) * 8 - 1))
    note[bit // 8] ^= 1 << bit % 8
    with pytest.raises((BadSignature, MalformedEncoding)):
        open_note(SignedNote.parse(bytes(note)), [SIGNER.verifier])


@pytest.mark.property
@given(st.binary(max_size=80) | st.text("\n— a+AQ=\u2028", max_size=30).map(str.encode))
def test_whatever_parses_is_spelled_the_one_way(data: bytes) -> None:
    for note in (data, b"text\n\n" + data):
        try:
            parsed = SignedNote.parse(note)
        except MalformedEncoding:
            continue
        assert parsed.encode() == note


def test_the_text_may_have_blank_lines_and_odd_separators() -> None:
    # U+2028 and U+0085 end lines for str.splitlines, but not in a note.
    text = "one\n\n\u2028two\u0085\n\n"
    assert open_note(SignedNote.parse(sign_note(text, [SIGNER]).encode()), [SIGNER.verifier]) == text


def test_lines_by_unknown_keys_are_ignored_but_do_not_suffice() -> None:
    with pytest.raises(BadSignature):
        open_note(SignedNote.parse(GO_NOTE), [SIGNER.verifier])
    with pytest.raises(BadSignature):
        open_note(SignedNote.parse(GO_NOTE), [])


def test_a_wrong_signature_by_one_trusted_key_spoils_the_note() -> None:
    forged = GO_NOTE.replace(b"rwz+eBzm", b"rwz+eBzn")
    trusted = [VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)]
    assert open_note(SignedNote.parse(forged), trusted[:1]) == TEXT
    with pytest.raises(BadSignature):
        open_note(SignedNote.parse(forged), trusted)


def test_one_key_under_another_name_is_another_key() -> None:
    elsewhere = VerifierKey("example.org/other-log", SIGNER.verifier.public_key)
    with pytest.raises(BadSignature):
        open_note(sign_note(TEXT, [SIGNER]), [elsewhere])
    renamed = sign_note(TEXT, [SIGNER]).encode().replace(b"example.org/log ", b"example.org/other-log ")
    with pytest.raises(BadSignature):
        open_note(SignedNote.parse(renamed), [elsewhere])


LINE = C2SP_LINE.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        b"text\n" + LINE,
        b"text\n\n" + LINE.rstrip(b"\n"),
        b"text\n\n" + LINE + b"trailing\n",
        b"text\n\n" + LINE + LINE,
        b"text\r\n\r\n" + LINE,
        b"te\txt\n\n" + LINE,
        b"te\0xt\n\n" + LINE,
        b"te\xffxt\n\n" + LINE,
        b"te\xed\xa0\x80xt\n\n" + LINE,
        b"text\n\n" + LINE.replace("—".encode(), b"-"),
        b"text\n\n" + LINE.replace("— ".encode(), "—".encode()),
        b"text\n\n" + LINE.replace("— ".encode(), "—  ".encode()),
        b"text\n\n" + LINE.replace(b" Uw2Q", b"  Uw2Q"),
        b"text\n\n" + LINE.replace(b"example.com/foo", b"example.com+foo"),
        b"text\n\n" + LINE.replace(b"example.com/foo", b""),
        b"text\n\n" + LINE.replace(b"example.com/foo", "example\u00a0com".encode()),
        b"text\n\n" + LINE.replace(b"aQM=\n", b"aQM\n"),
        b"text\n\n" + LINE.replace(b"aQM=\n", b"aQN=\n"),
        b"text\n\n" + LINE.replace(b"aQM=\n", b"aQM= \n"),
        "text\n\n— name AAAA\n".encode(),
        "text\n\n— name AAAAAA==\n".encode(),
        "text\n\n— name\n".encode(),
        b"text\n\n" + b"".join(f"— n{n} AAAAAAA=\n".encode() for n in range(MAX_SIGNATURES + 1)),
        b"x" * 1_000_000 + b"\n\n" + LINE,
    ],
)
def test_malformed_notes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedEncoding):
        SignedNote.parse(data)


def test_as_many_signatures_as_the_specification_asks_for_are_accepted() -> None:
    lines = "".join(f"— witness{number} AAAAAAA=\n" for number in range(16))
    note = SignedNote.parse(sign_note(TEXT, [SIGNER]).encode() + lines.encode())
    assert open_note(note, [SIGNER.verifier]) == TEXT


@pytest.mark.parametrize(
    "vkey",
    [
        # golang.org/x/mod/sumdb/note, note_test.go, TestNewVerifier: wrong length, wrong id, unknown algorithm.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        "PeterNeumann+c74f20a3+",
        "PeterNeumann+c74f20a3+!!!!",
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER.replace("c74f20a3", "c7 4f 20 a3"),
        PETER.replace("c74f20a3", "c74f20a"),
        PETER.replace("PeterNeumann", "Peter Neumann"),
        PETER.replace("PeterNeumann", "SomebodyElse"),
        PETER.replace("PeterNeumann", ""),
        PETER + "\n",
        PETER.replace("10TW", "10TW="),
    ],
)
def test_malformed_keys_are_refused(vkey: str) -> None:
    with pytest.raises(InvalidKey):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize("text", ["no newline at its end", "", "a\x00b\n", "a\r\n"])
def test_only_what_can_be_read_back_is_signed(text: str) -> None:
    with pytest.raises(MalformedEncoding):
        sign_note(text, [SIGNER])


def test_a_note_without_signers_or_with_one_twice_is_refused() -> None:
    for signers in ([], [SIGNER, SIGNER]):
        with pytest.raises(MalformedEncoding):
            sign_note(TEXT, signers)


def test_unusable_signers_are_refused() -> None:
    for name, seed in (("example.org/log", bytes(31)), ("a name", bytes(32)), ("a+b", bytes(32)), ("", bytes(32))):
        with pytest.raises(InvalidKey):
            Signer.from_seed(name, seed)


def test_the_private_half_is_not_shown() -> None:
    assert base64_encode(bytes(range(32))) not in repr(SIGNER)
    assert str(SIGNER.verifier) in repr(SIGNER)


def test_messages_name_nothing_that_came_from_outside() -> None:
    with pytest.raises(CryptoError) as caught:
        SignedNote.parse(b"canary\n\n- canary canary\n")
    assert "canary" not in str(caught.value)
