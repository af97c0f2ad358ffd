"""Settings that every service has, read from the environment (`WARDMESH_…`) once, at the start.

What always holds: settings are frozen; a secret is a file's path, never a value, so that no environment listing and
no `repr` shows one. The database's URL may hold a password and is therefore a `SecretStr`. A variable that is set to
nothing counts as not set: composed environments can't leave one out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

KEY_BYTES = 32


class ServiceSettings(BaseSettings):
    """What a service needs to come up. Each service's own settings extend it."""

    model_config = SettingsConfigDict(
        env_prefix="WARDMESH_", frozen=True, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    nats_url: str
    """One or several servers, separated by commas."""
    nats_seed_file: Path
    """The seed of the service's nkey user."""
    nats_ca_file: Path | None = None
    """The authority that signed the broker's certificate, if the broker speaks TLS."""
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Copies that the broker keeps of each stream and bucket; 3 in a cluster."""
    database_url: SecretStr
    """PostgreSQL, as the service's own login role."""
    database_password_file: Path | None = None
    """The password, if the URL names a role only."""
    health_host: str = "127.0.0.1"
    """Where `/live` and `/ready` listen."""
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 serves no health page; `nats micro ping` still works."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on the log has a line; no level shows a body."""
    issuer: str = "wardmesh"
    """Who issues access tokens (`iss`); the same for all services of a mesh."""
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Requests that one process has in hand; one more is answered `overloaded`."""
    max_long_polls: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    """Of those that only wait for something to happen; they do not count as in hand."""
    calls_per_second: Annotated[float, Field(gt=0)] = 500.0
    """One principal's share of one process, in the long run."""
    calls_burst: Annotated[int, Field(ge=1)] = 1000
    """The same at once."""
    otlp_endpoint: str | None = None
    """The collector that traces and metrics go to (OTLP over HTTP); none, nowhere."""

    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats_url.split(",") if server.strip()]

    def database(self) -> str:
        """Return the URL to connect with, password and all."""
        url = self.database_url.get_secret_value()
        if self.database_password_file is None:
            return url
        return with_password(url, self.database_password_file.read_text(encoding="utf-8").strip())


def with_password(url: str, password: str) -> str:
    """Return a database's URL with the password put in, in place of any that it had."""
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{account.partition(':')[0]}:{quote(password, safe='')}@{host}"))


def read_seed(path: Path) -> str:
    """Return the nkey seed in a file."""
    return path.read_text(encoding="ascii").strip()


def read_key(path: Path) -> bytes:
    """Return the 32 raw bytes of a key file; raise `ValueError` naming the file if it holds anything else."""
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path}: expected {KEY_BYTES} raw bytes, found {len(key)}; make it with `wardmesh init`")
    return key
