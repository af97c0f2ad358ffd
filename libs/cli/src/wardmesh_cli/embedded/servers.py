"""The two servers that a mesh stands on, wherever they run.

`Servers` is what a mesh needs of them; `EmbeddedServers` runs those of the wheels as processes of ours. The test plugin
(`wardmesh.testing`) has one that runs them in containers. The services are processes of ours either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from wardmesh.durable_files import write_private
from wardmesh.server.broker import static_permissions
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import BrokerConfig, Tls
from wardmesh_cli.embedded.layout import Layout, Ports
from wardmesh_cli.embedded.postgres import SUPERUSER, Postgres
from wardmesh_cli.embedded.processes import to_the_end
from wardmesh_cli.embedded.supervisor import Supervisor

Server: TypeAlias = Literal["nats", "postgres"]
SERVERS: Final[tuple[Server, ...]] = ("nats", "postgres")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a mesh lends its servers: folders and identities, ports that are settled, certificates, a supervisor."""

    layout: Layout
    ports: Ports
    tls: Tls | None
    supervisor: Supervisor


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where running servers answer."""

    nats_url: str
    nats_websocket_url: str
    nats_monitoring_url: str
    """Empty if it can't be reached from here."""
    database_url: Callable[[str, str], str]
    """From a role and its password to the URL of the database."""


class Servers(Protocol):
    """A broker and a database for one mesh at a time."""

    async def start(self, ground: Ground) -> Addresses:
        """Start both; MUST NOT return before both answer, and MUST leave neither running if it raises."""
        ...

    async def stop(self) -> None:
        """Stop both, waiting until they are gone. Data that the ground holds MUST stay; harmless if nothing runs."""
        ...

    def kill(self, server: Server) -> None:
        """Kill one as a crash would. It MUST come back by itself, at its address and with what it acknowledged."""
        ...

    async def restart(self, server: Server) -> None:
        """Stop one in good order and start it again; MUST NOT return before it answers."""
        ...

    async def wait_ready(self, server: Server, timeout_seconds: float) -> None:
        """Wait until one that was killed is back; raise an `EmbeddedError` if it isn't in time."""
        ...


class EmbeddedServers:
    """NATS and PostgreSQL from wheels, under the mesh's own supervisor. Implements `Servers`."""

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None
        self._postgres: Postgres | None = None

    async def start(self, ground: Ground) -> Addresses:
        layout, ports = ground.layout, ground.ports
        postgres = Postgres.at(layout.postgres, layout.run, ports.postgres)
        config = BrokerConfig(
            keys=layout.identities.public_keys(),
            permissions=static_permissions(),
            store_dir=layout.jetstream,
            port=ports.nats,
            websocket_port=ports.nats_websocket,
            monitoring_port=ports.nats_monitoring,
            tls=ground.tls,
        )
        write_private(layout.broker_config, broker.render(config).encode())
        password = layout.identities.password(SUPERUSER)
        self._postgres = postgres
        await to_the_end(lambda: postgres.make(password))
        await ground.supervisor.start(
            postgres.process(layout.log("postgres")),
            broker.process(config, config_file=layout.broker_config, log_file=layout.log("nats")),
        )
        self._supervisor = ground.supervisor
        return Addresses(
            nats_url=config.url,
            nats_websocket_url=config.websocket_url or "",
            nats_monitoring_url=config.monitoring_url,
            database_url=postgres.url,
        )

    async def stop(self) -> None:
        # The supervisor stops its processes, the last that were started first.
        self._supervisor = None
        postgres, self._postgres = self._postgres, None
        if postgres is not None:
            postgres.forget_socket_folder()

    def kill(self, server: Server) -> None:
        self._running.kill(server)

    async def restart(self, server: Server) -> None:
        await self._running.restart(server)

    async def wait_ready(self, server: Server, timeout_seconds: float) -> None:
        await self._running[server].wait_ready(timeout_seconds)

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("the servers are not running")
        return self._supervisor
