"""What the log needs to be told, besides what every service is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from wardmesh.server.settings import ServiceSettings

DEFAULT_STREAM_BYTES: Final = 1024 * 1024 * 1024
"""Some two million events that wait for their database; reserved on the broker's disk."""


class Settings(ServiceSettings):
    """Settings of the audit service."""

    audit_log_key_file: Path
    """The Ed25519 key that signs checkpoints (PEM). Whoever has it can vouch for another log than ours."""
    audit_log_name: str | None = None
    """The first part of every log's name (its origin); without it, the mesh's issuer."""

    audit_stream_bytes: Annotated[int, Field(ge=1024 * 1024)] = DEFAULT_STREAM_BYTES
    """What may wait to be sealed; beyond it, whoever writes audit events is refused."""

    @property
    def log_name(self) -> str:
        return self.audit_log_name or self.issuer
