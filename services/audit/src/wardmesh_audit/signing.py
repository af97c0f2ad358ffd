"""The key that signs checkpoints, and what was signed last, remembered in a key-value bucket.

A key signs for many logs: each log's origin is `{name}/{scope}`, and the verifier key is named after it, so one log's
checkpoint never passes for another's.

On failure: `ServiceUnavailable` if the bucket cannot be read or written: nothing is signed that cannot be remembered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import nats.errors
import nats.js.errors
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from wardmesh.crypto.checkpoint import Checkpoint, sign_checkpoint
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.note import SignedNote, Signer
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import Scope
from wardmesh.server.streams import CHECKPOINTS
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.ports import SignedMeanwhile
from wardmesh_audit.proofs import Head, SignedHead

_FAILURES: Final = (nats.errors.Error, nats.js.errors.Error, TimeoutError)


class LogSigner:
    """Signs the heads of all logs of this mesh."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._name = name
        self._key = key

    @classmethod
    def from_file(cls, name: str, path: Path) -> LogSigner:
        """Return the signer whose private key is in `path` (PEM); raise `ValueError` naming the file."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{path}: expected an Ed25519 private key in PEM, without a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path}: expected an Ed25519 key")  # noqa: TRY004 - the file's content, not a caller's type
        return cls(name, key)

    def origin(self, scope: Scope) -> str:
        """Return the name of a scope's log."""
        return f"{self._name}/{scope}"

    def verifier_key(self, scope: Scope) -> str:
        """Return the key that verifies the scope's checkpoints, in its text form."""
        return str(Signer(self.origin(scope), self._key).verifier)

    def sign(self, scope: Scope, head: Head) -> SignedHead:
        """Sign a head. Whether it may be signed is `proofs.check_extension`'s to say."""
        origin = self.origin(scope)
        note = sign_checkpoint(Checkpoint(origin, head.size, head.root), Signer(origin, self._key))
        return SignedHead(head.size, head.root, note)


class BucketMemory:
    """The port `SignedMemory` on a JetStream key-value bucket; its compare-and-set orders concurrent signers."""

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket

    @classmethod
    async def open(cls, jetstream: JetStreamContext) -> BucketMemory:
        """Return the memory; its bucket is there (`Messaging.expect_bucket`)."""
        return cls(await jetstream.key_value(CHECKPOINTS))

    async def last(self, scope: Scope) -> tuple[SignedHead | None, int]:
        try:
            entry = await self._bucket.get(scope)
        except nats.js.errors.KeyNotFoundError:
            return None, 0
        except _FAILURES:
            raise ServiceUnavailable("What was signed last cannot be read.") from None
        note = entry.value or b""
        try:
            checkpoint = Checkpoint.parse_text(SignedNote.parse(note).text)
        except CryptoError as error:
            raise LogDamaged("What was signed last is damaged.") from error
        return SignedHead(checkpoint.size, checkpoint.root, note), entry.revision or 0

    async def remember(self, scope: Scope, signed: SignedHead, revision: int) -> None:
        try:
            await self._bucket.update(scope, signed.note, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise SignedMeanwhile from None
        except _FAILURES:
            raise ServiceUnavailable("What is to be signed cannot be remembered.") from None
