"""C2SP signed notes: a text, a blank line, and a line for each signature.

    If you think cryptography is the answer to your problem,
    then you don't know what your problem is.

    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=

What always holds: `open_note` returns a text only if a trusted key signed exactly its bytes. Signatures by unknown keys
are ignored, for they may be witnesses'; a wrong signature by a trusted key spoils the whole note. A note has one
spelling: what `parse` accepts, `encode` writes back byte for byte.

Keys are named. A key's id is a hash of its name and its bytes, so one key under two names has two ids, and a signature
made for one log does not pass for another's.

On failure: `MalformedEncoding`, `BadSignature`, and `InvalidKey` for a verifier key that is not one.

Source: C2SP signed-note v1.1, with Ed25519 signatures (type 0x01); limits as in golang.org/x/mod/sumdb/note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wardmesh.crypto.encoding import base64_decode, base64_encode
from wardmesh.crypto.errors import BadSignature, InvalidKey, MalformedEncoding
from wardmesh.crypto.vkey import KEY_ID_BYTES, KeyIdentity, NamedKey, is_key_name

MAX_NOTE_BYTES: Final = 1_000_000
MAX_SIGNATURES: Final = 100
_SIGNATURE_START: Final = "\u2014 "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


class VerifierKey(NamedKey):
    """A named Ed25519 public key; its text form is what logs publish as their *vkey*."""

    __slots__ = ()
    type = b"\x01"
    length = 32
    algorithm = "Ed25519"

    def verify(self, text: str, signature: bytes) -> None:
        """Return only if `signature` is this key's over `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except InvalidSignature as error:
            raise BadSignature("the note's signature by the trusted key is wrong") from error


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, of whatever algorithm."""

    name: str
    key_id: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name) or len(self.key_id) != KEY_ID_BYTES or not self.signature:
            raise MalformedEncoding("a signature needs a key's name, its id and a signature")

    @property
    def identity(self) -> KeyIdentity:
        """Whose it says that it is."""
        return self.name, self.key_id

    def __str__(self) -> str:
        return f"{_SIGNATURE_START}{self.name} {base64_encode(self.key_id + self.signature)}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return what a signature line says."""
        name, _, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
        if not line.startswith(_SIGNATURE_START):
            raise MalformedEncoding("a signature line starts with an em dash and a space")
        data = base64_decode(encoded)
        return cls(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


class Signer:
    """A named Ed25519 key pair; its representation never shows the private half."""

    __slots__ = ("_private", "verifier")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier: Final = VerifierKey(name, private.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """Return the signer of a 32-byte Ed25519 private key (RFC 8032's seed)."""
        try:
            return cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        except ValueError as error:
            raise InvalidKey("not an Ed25519 private key") from error

    def sign(self, text: str) -> Signature:
        """Return this key's signature over a note's text."""
        return Signature(*self.verifier.identity, self._private.sign(text.encode()))

    def __repr__(self) -> str:
        return f"Signer({self.verifier})"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A text, which MUST NOT be believed before `open_note` has returned it, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n") or _CONTROL.search(self.text) is not None:
            raise MalformedEncoding("a note's text ends with a newline and has no other control character")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise MalformedEncoding(f"a note has from 1 to {MAX_SIGNATURES} signatures")
        if len({line.identity for line in self.signatures}) != len(self.signatures):
            raise MalformedEncoding("a note has two signatures by one key")

    def encode(self) -> bytes:
        """Return the note as it is published."""
        lines = "".join(f"{line}\n" for line in self.signatures)
        return f"{self.text}\n{lines}".encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the note that `data` is; nothing of it is verified."""
        if len(data) > MAX_NOTE_BYTES:
            raise MalformedEncoding("the note is too long")
        try:
            note = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedEncoding("the note is not UTF-8") from error
        text, blank_line, lines = note.rpartition("\n\n")
        if not blank_line or not lines.endswith("\n"):
            raise MalformedEncoding("a note is a text, a blank line and signature lines")
        # Never splitlines(): it also splits at characters that a text or a name may contain.
        signature_lines = lines[:-1].split("\n", MAX_SIGNATURES)
        return cls(f"{text}\n", tuple(map(Signature.parse, signature_lines)))


def sign_note(text: str, signers: Iterable[Signer]) -> SignedNote:
    """Return `text` signed by each of `signers`."""
    return SignedNote(text, tuple(signer.sign(text) for signer in signers))


def open_note(note: SignedNote, trusted: Iterable[VerifierKey]) -> str:
    """Return the note's text only if at least one trusted key signed it, and none of them wrongly."""
    keys = {key.identity: key for key in trusted}
    verified = 0
    for line in note.signatures:
        key = keys.get(line.identity)
        if key is not None:
            key.verify(note.text, line.signature)
            verified += 1
    if not verified:
        raise BadSignature("no trusted key has signed the note")
    return note.text
