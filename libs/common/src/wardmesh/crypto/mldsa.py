"""ML-DSA-44 signatures on checkpoints, beside Ed25519: what a quantum computer cannot forge either.

What always holds: `check_signed` returns only if the key's line is on the note and signs that very checkpoint, in the
signer's own name. The line is C2SP's cosignature of type 0x06, so it signs origin, size and root and no extension
lines; our checkpoints have none, and the Ed25519 signature covers the whole text.

A log's time is zero, which C2SP has for signers that make no statement on which tree was the largest they have seen: a
log says that with its Ed25519 signature, and needs no clock for this one. A witness's is when it signed
(`cosignature`).

On failure: `InvalidKey`, `BadSignature`, `MalformedEncoding`.

Sources: C2SP tlog-cosignature, "ML-DSA-44 signed message"; FIPS 204.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import BadSignature, InvalidKey, MalformedEncoding
from wardmesh.crypto.note import Signature, SignedNote
from wardmesh.crypto.vkey import NamedKey

TYPE: Final = b"\x06"
PUBLIC_KEY_BYTES: Final = 1312
SIGNATURE_BYTES: Final = 2420
_LABEL: Final = b"subtree/v1\n\x00"
_TIMESTAMP_BYTES: Final = 8
_MAX_NAME_BYTES: Final = 255  # a length of one byte stands before it


class MldsaKey(NamedKey):
    """A named ML-DSA-44 public key; its text form is a *vkey* like any other."""

    __slots__ = ()
    type = TYPE
    length = PUBLIC_KEY_BYTES
    algorithm = "ML-DSA-44"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.name.encode()) > _MAX_NAME_BYTES:
            raise InvalidKey(f"the name of an ML-DSA-44 key has at most {_MAX_NAME_BYTES} bytes")

    def verify(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """Return only if `signature` (a time and an ML-DSA-44 signature) is this key's on `checkpoint`."""
        if len(signature) != _TIMESTAMP_BYTES + SIGNATURE_BYTES:
            raise BadSignature("the ML-DSA-44 signature has another length than all have")
        timestamp, signed = signature[:_TIMESTAMP_BYTES], signature[_TIMESTAMP_BYTES:]
        try:
            public = MLDSA44PublicKey.from_public_bytes(self.public_key)
            public.verify(signed, _message(self.name, timestamp, checkpoint))
        except InvalidSignature as error:
            raise BadSignature("the ML-DSA-44 signature by the trusted key is wrong") from error


class MldsaSigner:
    """A named ML-DSA-44 key pair; its representation never shows the private half."""

    __slots__ = ("_private", "verifier")

    def __init__(self, name: str, private: MLDSA44PrivateKey) -> None:
        self._private = private
        self.verifier: Final = MldsaKey(name, private.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint, time: int = 0) -> Signature:
        """Return this key's signature line on a checkpoint. It is another one each time: ML-DSA signs with chance.

        `time` is in seconds since 1970; 0 says nothing about it.
        """
        timestamp = time.to_bytes(_TIMESTAMP_BYTES, "big")
        signed = self._private.sign(_message(self.verifier.name, timestamp, checkpoint))
        return Signature(*self.verifier.identity, timestamp + signed)

    def __repr__(self) -> str:
        return f"MldsaSigner({self.verifier.name})"


def check_signed(data: bytes, checkpoint: Checkpoint, key: MldsaKey) -> None:
    """Return only if the note `data`, which is that of `checkpoint`, has the right signature by `key`."""
    for line in SignedNote.parse(data).signatures:
        if line.identity == key.identity:
            key.verify(checkpoint, line.signature)
            return
    raise BadSignature("the ML-DSA-44 key has not signed the checkpoint")


def _message(name: str, timestamp: bytes, checkpoint: Checkpoint) -> bytes:
    origin = checkpoint.origin.encode()
    if len(origin) > _MAX_NAME_BYTES:
        raise MalformedEncoding(f"an origin that ML-DSA-44 signs has at most {_MAX_NAME_BYTES} bytes")
    return b"".join(
        (
            _LABEL,
            len(name.encode()).to_bytes(1, "big"),
            name.encode(),
            timestamp,
            len(origin).to_bytes(1, "big"),
            origin,
            (0).to_bytes(8, "big"),  # where the subtree begins: a checkpoint's is the whole tree
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )
