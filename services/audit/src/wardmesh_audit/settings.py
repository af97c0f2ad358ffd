"""What the log needs to be told, besides what every service is."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from wardmesh.server.settings import ServiceSettings


def _networks(text: str) -> str:
    for network in _split(text):
        ipaddress.ip_network(network)
    return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    audit_witness_policy_file: Path | None = None
    """Who cosigns checkpoints, where they are asked, and which of them must have (a C2SP tlog-policy)."""
    audit_witness_ca_file: Path | None = None
    """An authority to trust besides the system's, where witnesses are asked by https."""
    audit_witnessed_logs_file: Path | None = None
    """The logs of others that this mesh cosigns as their witness (a list in the witness network's form, `logs/v0`).
    It is read again when it changes."""
    audit_witness_key_file: Path | None = None
    """The Ed25519 key that cosigns them (PEM); not the one that signs our own logs."""
    audit_witness_mldsa_key_file: Path | None = None
    """An ML-DSA-44 key (PEM) that cosigns beside it."""
    audit_witness_name: str | None = None
    """The witness's name, in its verifier keys; without it, the logs' and `/witness`."""
    key_file: Path
    """The key encryption key of what forwarders hide: 32 raw bytes. Without it, none that has a secret goes on."""
    audit_forward_allow: Annotated[str, AfterValidator(_networks)] = ""
    """Networks that logs may be forwarded into though they are not public, separated by commas: `10.20.0.0/16`."""
    audit_forward_ca_file: Path | None = None
    """An authority (PEM) that vouches for endpoints, besides those that the system trusts."""
    audit_forward_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long an endpoint may take for a batch. A replica that dies is missed for twice as long, and two seconds."""

    @property
    def log_name(self) -> str:
        return self.audit_log_name or self.issuer

    @property
    def witness_name(self) -> str:
        return self.audit_witness_name or f"{self.log_name}/witness"

    def forward_networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        return [ipaddress.ip_network(network) for network in _split(self.audit_forward_allow)]
