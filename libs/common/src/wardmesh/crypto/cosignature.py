"""C2SP tlog-cosignatures: a witness's word that a log only grew, as a line on the log's checkpoint.

    — witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ…

Two kinds: Ed25519 (type 0x04), which signs a time and the checkpoint's whole text, and ML-DSA-44 (type 0x06, `mldsa`),
which signs a time, origin, size and root in the witness's own name.

What always holds: `cosigned` names a key only if its line is on the note, signs this very checkpoint, and says when.
Lines of keys that the caller did not name are ignored; a wrong line by a key that it did name spoils the note.

On failure: `InvalidKey`, `BadSignature`, `MalformedEncoding`. Whether a time is believable is for who has a clock.

Source: C2SP tlog-cosignature (the revision that is named in docs/adr/0025-witnesses.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import BadSignature, InvalidKey
from wardmesh.crypto.mldsa import TYPE as MLDSA_TYPE
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import Signature, SignedNote
from wardmesh.crypto.vkey import NamedKey, parts_of

TYPE: Final = b"\x04"
MAX_TIME: Final = 2**63 - 1
_LAST_TIME: Final = 253_402_300_799
_HEADER: Final = "cosignature/v1"
_TIMESTAMP_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64


class CosignerKey(NamedKey):
    """A witness's named Ed25519 public key; its text form is a *vkey* of type 0x04."""

    __slots__ = ()
    type = TYPE
    length = 32
    algorithm = "Ed25519"
    makes = "cosignatures"

    def verify(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """Return only if `signature` (a time and an Ed25519 signature) is this key's on `checkpoint`."""
        if len(signature) != _TIMESTAMP_BYTES + _SIGNATURE_BYTES:
            raise BadSignature("the cosignature has another length than all have")
        time = int.from_bytes(signature[:_TIMESTAMP_BYTES], "big")
        try:
            public = Ed25519PublicKey.from_public_bytes(self.public_key)
            public.verify(signature[_TIMESTAMP_BYTES:], _message(time, checkpoint))
        except InvalidSignature as error:
            raise BadSignature("the cosignature by the trusted key is wrong") from error


WitnessKey: TypeAlias = CosignerKey | MldsaKey


class Cosigner:
    """A witness's named Ed25519 key pair; its representation never shows the private half."""

    __slots__ = ("_private", "verifier")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier: Final = CosignerKey(name, private.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint, time: int) -> Signature:
        """Return this key's line on a checkpoint, at `time` (seconds since 1970)."""
        if not 0 < time <= MAX_TIME:
            raise ValueError("a cosignature's time is positive and has 63 bits")
        signed = self._private.sign(_message(time, checkpoint))
        stamped = time.to_bytes(_TIMESTAMP_BYTES, "big") + signed
        return Signature(*self.verifier.identity, stamped)

    def __repr__(self) -> str:
        return f"Cosigner({self.verifier})"


def parse_witness_key(vkey: str) -> WitnessKey:
    """Return a witness's key, of whichever kind `vkey` says that it is."""
    _, _, data = parts_of(vkey)
    if data.startswith(MLDSA_TYPE):
        return MldsaKey.parse(vkey)
    if data.startswith(TYPE):
        return CosignerKey.parse(vkey)
    raise InvalidKey("not a witness's key: cosignatures are of type 0x04 (Ed25519) or 0x06 (ML-DSA-44)")


def check_cosignature(checkpoint: Checkpoint, line: Signature, key: WitnessKey) -> int:
    """Return when `key` cosigned the checkpoint, in seconds since 1970, only if `line` is its line and right."""
    if line.identity != key.identity:
        raise BadSignature("the line is of another key")
    key.verify(checkpoint, line.signature)
    time = int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big")
    if not 0 < time <= MAX_TIME:
        raise BadSignature("the cosignature does not say when it was made, as a witness's must")
    return time


def moment(time: int) -> datetime:
    """Return a cosignature's time as a date. A witness may say what it likes; dates end with the year 9999."""
    return datetime.fromtimestamp(min(time, _LAST_TIME), UTC)


def cosigned(note: SignedNote, checkpoint: Checkpoint, keys: Iterable[WitnessKey]) -> Mapping[WitnessKey, int]:
    """Return when each of `keys` cosigned the note, whose checkpoint that is; those that did not are left out."""
    lines = {line.identity: line for line in note.signatures}
    found = {}
    for key in keys:
        line = lines.get(key.identity)
        if line is not None:
            found[key] = check_cosignature(checkpoint, line, key)
    return found


def with_lines(note: SignedNote, lines: Iterable[Signature]) -> SignedNote:
    """Return the note with those lines behind its own; a key that has signed already keeps its line."""
    there = {line.identity for line in note.signatures}
    return SignedNote(note.text, (*note.signatures, *(line for line in lines if line.identity not in there)))


def _message(time: int, checkpoint: Checkpoint) -> bytes:
    return f"{_HEADER}\ntime {time}\n{checkpoint.text()}".encode()
