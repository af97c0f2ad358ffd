"""The keys that sign checkpoints, and what was signed or cosigned last, remembered in a key-value bucket.

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
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.mldsa import MldsaSigner
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

    def __init__(self, name: str, key: Ed25519PrivateKey, mldsa: MLDSA44PrivateKey | None = None) -> None:
        self._name = name
        self._key = key
        self._mldsa = mldsa

    @classmethod
    def from_files(cls, name: str, path: Path, mldsa_path: Path | None = None) -> LogSigner:
        """Return the signer of the keys in those files (PEM); raise `ValueError` naming one that is wrong."""
        return cls(name, read_ed25519(path), None if mldsa_path is None else read_mldsa(mldsa_path))

    def origin(self, scope: Scope) -> str:
        """Return the name of a scope's log."""
        return f"{self._name}/{scope}"

    def verifier_key(self, scope: Scope) -> str:
        """Return the key that verifies the scope's checkpoints, in its text form."""
        return str(Signer(self.origin(scope), self._key).verifier)

    def mldsa_key(self, scope: Scope) -> str | None:
        """Return the ML-DSA-44 key that signs the scope's checkpoints too, in its text form, if there is one."""
        return None if self._mldsa is None else str(MldsaSigner(self.origin(scope), self._mldsa).verifier)

    def sign(self, scope: Scope, head: Head) -> SignedHead:
        """Sign a head. Whether it may be signed is `proofs.check_extension`'s to say."""
        origin = self.origin(scope)
        checkpoint = Checkpoint(origin, head.size, head.root)
        note = SignedNote(checkpoint.text(), (Signer(origin, self._key).sign(checkpoint.text()),))
        if self._mldsa is not None:
            line = MldsaSigner(origin, self._mldsa).sign(checkpoint)
            note = SignedNote(note.text, (*note.signatures, line))
        return SignedHead(head.size, head.root, note.encode())

    def sign_note(self, scope: Scope, text: str) -> bytes:
        """Return another text than a checkpoint's as a note that the scope's log has signed.

        By Ed25519 alone: C2SP's ML-DSA-44 signature is of a tree, and of no other text.
        """
        return SignedNote(text, (Signer(self.origin(scope), self._key).sign(text),)).encode()


def same_signers(one: bytes, other: bytes) -> bool:
    """Tell whether two notes say the same, signed by the same keys: an ML-DSA signature is another one each time."""
    left, right = SignedNote.parse(one), SignedNote.parse(other)
    return left.text == right.text and _keys_of(left) == _keys_of(right)


def _keys_of(note: SignedNote) -> set[tuple[str, bytes]]:
    return {line.identity for line in note.signatures}


def read_ed25519(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key in a file (PEM); raise `ValueError` naming the file if it holds anything else."""
    key = _read_key(path, "an Ed25519")
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: expected an Ed25519 key")  # noqa: TRY004 - a file's content, not a caller's type
    return key


def read_mldsa(path: Path) -> MLDSA44PrivateKey:
    """Return the ML-DSA-44 key in a file, likewise."""
    key = _read_key(path, "an ML-DSA-44")
    if not isinstance(key, MLDSA44PrivateKey):
        raise ValueError(f"{path}: expected an ML-DSA-44 key")  # noqa: TRY004 - as above
    return key


def _read_key(path: Path, called: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: expected {called} private key in PEM, without a password") from error


class BucketMemory:
    """The port `SignedMemory` on a JetStream key-value bucket; its compare-and-set orders concurrent signers."""

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket

    @classmethod
    async def open(cls, jetstream: JetStreamContext) -> BucketMemory:
        """Return the memory; its bucket is there (`Messaging.expect_bucket`)."""
        return cls(await jetstream.key_value(CHECKPOINTS))

    async def last(self, log: str) -> tuple[SignedHead | None, int]:
        try:
            entry = await self._bucket.get(log)
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

    async def remember(self, log: str, signed: SignedHead, revision: int) -> None:
        try:
            await self._bucket.update(log, signed.note, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise SignedMeanwhile from None
        except _FAILURES:
            raise ServiceUnavailable("What is to be signed cannot be remembered.") from None
