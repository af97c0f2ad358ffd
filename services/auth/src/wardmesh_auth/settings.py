"""What auth needs to be told, besides what every service is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from wardmesh.server.settings import ServiceSettings
from wardmesh_auth.domain import ACCESS_TOKEN_LIFETIME


class Settings(ServiceSettings):
    """Settings of the auth service, its callout and its gateway."""

    auth_signing_key_file: Path
    """The Ed25519 key that signs access tokens, PEM."""
    auth_callout_seed_file: Path
    """The nkey user of account AUTH that hears who wants to connect."""
    auth_callout_issuer_seed_file: Path
    """The account key that signs the answers."""
    auth_callout_xkey_seed_file: Path
    """The curve key that questions are sealed to."""
    auth_sys_seed_file: Path
    """The nkey user of account SYS that finds and kicks connections."""
    auth_gateway_seed_file: Path
    """The nkey user that forwards HTTP callers' requests."""
    auth_http_host: str = "127.0.0.1"
    """Where the gateway listens; TLS and the public name are a proxy's."""
    auth_http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Its port; 0 takes a free one."""
    auth_token_seconds: Annotated[int, Field(ge=5, le=round(ACCESS_TOKEN_LIFETIME.total_seconds()))] = round(
        ACCESS_TOKEN_LIFETIME.total_seconds()
    )
    """How long an access token counts, and a connection to the broker stays without showing its credential again."""
    auth_sign_up: Literal["open", "closed"] = "open"
    """Whether anybody may create an organization."""
    auth_password_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Password hashes computed at once; each takes 64 MiB and a core."""
    auth_logins_per_second: Annotated[float, Field(gt=0)] = 5.0
    """One address's share, at the gateway, of the operations that carry a credential of their own."""
    auth_logins_burst: Annotated[int, Field(ge=1)] = 50
    """The same at once."""
