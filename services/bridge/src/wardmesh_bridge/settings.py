"""What the bridge needs to be told, besides what every service is."""

from __future__ import annotations

from pathlib import Path

from wardmesh.server.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the bridge service."""

    key_file: Path
    """The key encryption key: 32 raw bytes that are nowhere else. Without it, no agreement's key opens."""
