"""What the webhooks service needs to be told, besides what every service is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from wardmesh.server.settings import ServiceSettings


class Settings(ServiceSettings):
    """Settings of the webhooks service."""

    key_file: Path
    """The key encryption key of signing secrets: 32 raw bytes. Without it, no source can be verified."""
    webhooks_http_host: str = "127.0.0.1"
    """Where the door for other people's events listens; TLS and the public name are a proxy's."""
    webhooks_http_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """Its port; 0 takes a free one."""
