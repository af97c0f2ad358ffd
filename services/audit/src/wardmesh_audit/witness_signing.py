"""The keys that cosign other people's logs, apart from those that sign ours.

On failure: `ValueError` naming the file that is wrong, at the start.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature
from wardmesh_audit.signing import read_ed25519, read_mldsa


class WitnessSigner:
    """Cosigns with an Ed25519 key, and with an ML-DSA-44 key beside it where there is one."""

    def __init__(self, name: str, key: Ed25519PrivateKey, mldsa: MLDSA44PrivateKey | None = None) -> None:
        self._cosigners: tuple[Cosigner | MldsaSigner, ...] = (Cosigner(name, key),)
        if mldsa is not None:
            self._cosigners = (*self._cosigners, MldsaSigner(name, mldsa))

    @classmethod
    def from_files(cls, name: str, path: Path, mldsa_path: Path | None = None) -> WitnessSigner:
        """Return the signer of the keys in those files (PEM)."""
        return cls(name, read_ed25519(path), None if mldsa_path is None else read_mldsa(mldsa_path))

    @property
    def verifier_keys(self) -> tuple[str, ...]:
        """What the operators of other logs, and whoever verifies them, have to know."""
        return tuple(str(cosigner.verifier) for cosigner in self._cosigners)

    def sign(self, checkpoint: Checkpoint, time: int) -> tuple[Signature, ...]:
        """Return the cosignature lines. Whether they may be made is `witness_rules`' to say."""
        return tuple(cosigner.sign(checkpoint, time) for cosigner in self._cosigners)
