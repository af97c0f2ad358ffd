"""A mesh that is the witness of others' logs, and one whose logs are witnessed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh_audit.settings import Settings
from wardmesh_cli.embedded.mesh import EmbeddedMesh

NAME = "witness.example/mesh"


class WitnessMesh(EmbeddedMesh):
    """A whole mesh that cosigns the logs in `listed`, to begin with none."""

    def __init__(self, folder: Path, *, log_level: str = "info") -> None:
        super().__init__(data_dir=folder / "data", log_level=log_level)
        keys = Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate()
        self.vkeys = str(Cosigner(NAME, keys[0]).verifier), str(MldsaSigner(NAME, keys[1]).verifier)
        self.listed = folder / "logs"
        self.listed.write_text("logs/v0\n")
        self._audit = {
            "audit_witnessed_logs_file": self.listed,
            "audit_witness_key_file": _saved(folder / "ed25519.pem", keys[0]),
            "audit_witness_mldsa_key_file": _saved(folder / "mldsa.pem", keys[1]),
            "audit_witness_name": NAME,
        }

    @property
    def witness_url(self) -> str:
        """The submission prefix."""
        return f"{self.http_url}/v1/witness"

    def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
        return super().environment(service, health_port=health_port) | _settings(service, self._audit)


class WitnessedMesh(EmbeddedMesh):
    """A mesh of auth and audit, whose logs are cosigned as a policy says."""

    def __init__(self, folder: Path, policy: Path) -> None:
        super().__init__(data_dir=folder, services=("auth", "audit"))
        self._policy = policy

    def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
        environment = super().environment(service, health_port=health_port)
        return environment | _settings(service, {"audit_witness_policy_file": self._policy})


def _settings(service: str, audit: dict[str, Path | str] | dict[str, Path]) -> dict[str, str]:
    assert audit.keys() <= Settings.model_fields.keys()
    return {f"WARDMESH_{name.upper()}": str(value) for name, value in audit.items()} if service == "audit" else {}


def _saved(path: Path, key: Ed25519PrivateKey | MLDSA44PrivateKey) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path
