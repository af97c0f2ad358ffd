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

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.encoding import base64_decode, base64_encode
from wardmesh.crypto.errors import BadSignature, InvalidKey, MalformedEncoding
from wardmesh.crypto.mldsa import TYPE as MLDSA_TYPE
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import Signature, SignedNote, is_key_name

TYPE: Final = b"\x04"
MAX_TIME: Final = 2**63 - 1
_HEADER: Final = "cosignature/v1"
_TIMESTAMP_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_PUBLIC_KEY_BYTES: Final = 32
_KEY_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness's named Ed25519 public key; its text form is a *vkey* of type 0x04."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise InvalidKey("a key's name is not empty and has no space and no plus sign")
        if len(self.public_key) != _PUBLIC_KEY_BYTES:
            raise InvalidKey(f"an Ed25519 public key has {_PUBLIC_KEY_BYTES} bytes")

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Return the key that `vkey` (name+id+base64) describes; its id MUST be the one that its bytes have."""
        name, key_id, data = _parts(vkey)
        if not data.startswith(TYPE):
            raise InvalidKey("not a verifier key for Ed25519 cosignatures (name+id+base64)")
        key = cls(name, data[len(TYPE) :])
        if key.key_id.hex() != key_id:
            raise InvalidKey("the verifier key's id is not that of its name and bytes")
        return key

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name ‖ newline ‖ type ‖ public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + TYPE + self.public_key).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64_encode(TYPE + self.public_key)}"

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
        return Signature(self.verifier.name, self.verifier.key_id, stamped)

    def __repr__(self) -> str:
        return f"Cosigner({self.verifier})"


def parse_witness_key(vkey: str) -> WitnessKey:
    """Return a witness's key, of whichever kind `vkey` says that it is."""
    _, _, data = _parts(vkey)
    if data.startswith(MLDSA_TYPE):
        return MldsaKey.parse(vkey)
    if data.startswith(TYPE):
        return CosignerKey.parse(vkey)
    raise InvalidKey("not a witness's key: cosignatures are of type 0x04 (Ed25519) or 0x06 (ML-DSA-44)")


def check_cosignature(checkpoint: Checkpoint, line: Signature, key: WitnessKey) -> int:
    """Return when `key` cosigned the checkpoint, in seconds since 1970, only if `line` is its line and right."""
    if (line.name, line.key_id) != (key.name, key.key_id):
        raise BadSignature("the line is of another key")
    key.verify(checkpoint, line.signature)
    time = int.from_bytes(line.signature[:_TIMESTAMP_BYTES], "big")
    if not 0 < time <= MAX_TIME:
        raise BadSignature("the cosignature does not say when it was made, as a witness's must")
    return time


def cosigned(note: SignedNote, checkpoint: Checkpoint, keys: Iterable[WitnessKey]) -> Mapping[WitnessKey, int]:
    """Return when each of `keys` cosigned the note, whose checkpoint that is; those that did not are left out."""
    lines = {(line.name, line.key_id): line for line in note.signatures}
    found = {}
    for key in keys:
        line = lines.get((key.name, key.key_id))
        if line is not None:
            found[key] = check_cosignature(checkpoint, line, key)
    return found


def with_lines(note: SignedNote, lines: Iterable[Signature]) -> SignedNote:
    """Return the note with those lines behind its own; a key that has signed already keeps its line."""
    there = {(line.name, line.key_id) for line in note.signatures}
    return SignedNote(note.text, (*note.signatures, *(line for line in lines if (line.name, line.key_id) not in there)))


def _message(time: int, checkpoint: Checkpoint) -> bytes:
    return f"{_HEADER}\ntime {time}\n{checkpoint.text()}".encode()


def _parts(vkey: str) -> tuple[str, str, bytes]:
    name, _, rest = vkey.partition("+")
    key_id, _, encoded = rest.partition("+")  # base64 itself may contain a plus
    try:
        return name, key_id, base64_decode(encoded)
    except MalformedEncoding as error:
        raise InvalidKey("the verifier key's base64 is malformed") from error
