"""What the log needs to be told, besides what every service is."""

from __future__ import annotations

from pathlib import Path

from wardmesh.server.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the audit service."""

    audit_log_key_file: Path
    """The Ed25519 key that signs checkpoints (PEM). Whoever has it can vouch for another log than ours."""
    audit_log_mldsa_key_file: Path | None = None
    """An ML-DSA-44 key (PEM) that signs checkpoints beside it, against forgers with a quantum computer."""
    audit_subject_keys_dir: Path
    """The folder of people's keys, outside of the database and its backups, and shared by every replica. Erasing a
    person destroys a file here."""
    audit_log_name: str | None = None
    """The first part of every log's name (its origin); without it, the mesh's issuer."""

    @property
    def log_name(self) -> str:
        return self.audit_log_name or self.issuer
