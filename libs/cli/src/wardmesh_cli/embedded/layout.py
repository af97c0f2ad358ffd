"""Where things lie in a data folder, what listens where, and what environment each service gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final

from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.broker import CALLOUT_USER, SYSTEM_USER
from wardmesh_cli.embedded.errors import EmbeddedError, PortInUse
from wardmesh_cli.embedded.identities import Identities
from wardmesh_cli.embedded.ports import LOOPBACK, free_ports, is_free

FREE: Final = 0
"""As a port: whichever is free."""

_MEANT_FOR: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nats": "NATS",
        "nats_websocket": "NATS over WebSocket",
        "nats_monitoring": "NATS's monitoring",
        "http": "the gateway",
        "ingest": "webhooks",
        "postgres": "PostgreSQL",
    }
)

# What a process needs of ours to run at all. Not the rest: a WARDMESH_API_KEY of the person who types `wardmesh up` is
# nothing that the services should see.
_INHERITED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
)
_INHERITED_PREFIXES: Final = ("OTEL_", "COVERAGE_", "WARDMESH_AUDIT_FORWARD_")


@dataclass(frozen=True, slots=True)
class Ports:
    """What listens where on the loopback address; 0 takes whichever port is free. `None` in `postgres`: socket only."""

    nats: int = FREE
    nats_websocket: int = FREE
    nats_monitoring: int = FREE
    http: int = FREE
    ingest: int = FREE
    postgres: int | None = None

    def settled(self) -> Ports:
        """Return the same with real ports in place of zeros."""
        wanted = {each.name: getattr(self, each.name) for each in fields(self)}
        unsettled = [name for name, port in wanted.items() if port == FREE and port is not None]
        free = free_ports(len(unsettled), avoid=self.taken())
        return Ports(**wanted | dict(zip(unsettled, free, strict=True)))

    def check(self) -> None:
        """Raise `PortInUse` if somebody listens on one of them already, in place of a server's own words later."""
        meant: dict[int, str] = {}
        for name, what in _MEANT_FOR.items():
            port = getattr(self, name)
            if not port:
                continue
            if port in meant:
                raise EmbeddedError(f"port {port} is meant for both {meant[port]} and {what}: choose another for one")
            if not is_free(port):
                raise PortInUse(port, what)
            meant[port] = what

    def taken(self) -> frozenset[int]:
        """Return the ports that are named here."""
        return frozenset(port for each in fields(self) if (port := getattr(self, each.name)))


@dataclass(frozen=True, slots=True)
class Layout:
    """A data folder."""

    folder: Path

    @property
    def identities(self) -> Identities:
        return Identities(self.folder / "identities")

    @property
    def jetstream(self) -> Path:
        return self.folder / "jetstream"

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def subject_keys(self) -> Path:
        """The keys of people that the audit log names: no copy of the database has them."""
        return self.folder / "subject-keys"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def run(self) -> Path:
        """What matters only while the mesh runs."""
        return self.folder / "run"

    def has_data(self) -> bool:
        """Tell whether something lies here that was written with the folder's identities."""
        return self.postgres.exists() or (self.jetstream.exists() and any(self.jetstream.iterdir()))

    @property
    def broker_config(self) -> Path:
        return self.run / "nats.conf"

    @property
    def pid_file(self) -> Path:
        return self.run / "processes.json"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"


def service_environment(
    service: str,
    layout: Layout,
    *,
    nats_url: str,
    nats_ca_file: Path | None,
    database_url: str,
    ports: Ports,
    health_port: int,
    log_level: str,
    inherited: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return all that a service process learns from its environment."""
    if service not in SERVICES:
        raise ValueError(f"no service is called {service}")
    identities = layout.identities
    environment = {
        name: value for name, value in inherited.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    environment |= {
        "WARDMESH_NATS_URL": nats_url,
        "WARDMESH_NATS_SEED_FILE": str(identities.seed_file(service)),
        "WARDMESH_DATABASE_URL": database_url,
        "WARDMESH_HEALTH_PORT": str(health_port),
        "WARDMESH_LOG_LEVEL": log_level,
        "WARDMESH_KEY_FILE": str(identities.kek_file(service)),
    }
    if nats_ca_file is not None:
        environment["WARDMESH_NATS_CA_FILE"] = str(nats_ca_file)
    if service == "auth":
        environment |= {
            "WARDMESH_AUTH_SIGNING_KEY_FILE": str(identities.token_signing_key_file),
            "WARDMESH_AUTH_CALLOUT_SEED_FILE": str(identities.seed_file(CALLOUT_USER)),
            "WARDMESH_AUTH_CALLOUT_ISSUER_SEED_FILE": str(identities.issuer_seed_file),
            "WARDMESH_AUTH_CALLOUT_XKEY_SEED_FILE": str(identities.xkey_seed_file),
            "WARDMESH_AUTH_SYS_SEED_FILE": str(identities.seed_file(SYSTEM_USER)),
            "WARDMESH_AUTH_GATEWAY_SEED_FILE": str(identities.seed_file("gateway")),
            "WARDMESH_AUTH_HTTP_HOST": LOOPBACK,
            "WARDMESH_AUTH_HTTP_PORT": str(ports.http),
        }
    elif service == "audit":
        environment["WARDMESH_AUDIT_LOG_KEY_FILE"] = str(identities.log_signing_key_file)
        environment["WARDMESH_AUDIT_LOG_MLDSA_KEY_FILE"] = str(identities.log_mldsa_key_file)
        environment["WARDMESH_AUDIT_SUBJECT_KEYS_DIR"] = str(layout.subject_keys)
    elif service == "webhooks":
        environment |= {"WARDMESH_WEBHOOKS_HTTP_HOST": LOOPBACK, "WARDMESH_WEBHOOKS_HTTP_PORT": str(ports.ingest)}
    return environment
