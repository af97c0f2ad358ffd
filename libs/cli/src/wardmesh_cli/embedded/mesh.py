"""A whole mesh under one data folder: what `wardmesh up`, `wardmesh demo` and the pytest plugin start.

What always holds: one mesh a folder at a time; everything listens on the loopback address only; when `start` has
returned, every process has said that it is ready; when `stop` has returned, none is left. The folder alone is the
mesh: started again, it has its data and its identities.

On failure: an `EmbeddedError`, and nothing is left running.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from wardmesh.durable_files import PRIVATE_FOLDER
from wardmesh.server.broker import PROVISIONER
from wardmesh.server.migrate import MigrationError, migrate, migrations_of
from wardmesh.server.provision import ProvisionError, provision
from wardmesh.server.settings import read_seed
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.broker import Tls
from wardmesh_cli.embedded.errors import MigrationFailed, StreamsUnusable
from wardmesh_cli.embedded.files import FolderLock
from wardmesh_cli.embedded.identities import database_role
from wardmesh_cli.embedded.layout import Layout, Ports, service_environment
from wardmesh_cli.embedded.ports import LOOPBACK, free_ports
from wardmesh_cli.embedded.postgres import SUPERUSER
from wardmesh_cli.embedded.processes import Launch, ProcessSpec, http_ready, to_the_end
from wardmesh_cli.embedded.servers import SERVERS, Addresses, EmbeddedServers, Ground, Servers
from wardmesh_cli.embedded.supervisor import Supervisor

READY_AGAIN_SECONDS: Final = 60.0


def service_command(service: str) -> Sequence[str]:
    """Return how a service is run: by this interpreter, and not out of the current folder (`-P`)."""
    return (sys.executable, "-P", "-m", f"wardmesh_{service}")


async def migrate_all(database_url: str, passwords: Mapping[str, str]) -> None:
    """Bring the database to the present schema."""
    try:
        await migrate(database_url, {service: migrations_of(service) for service in SERVICES}, passwords)
    except MigrationError as error:
        raise MigrationFailed(str(error)) from error


async def declare_streams(nats_url: str, seed: str, ca_file: Path | None) -> None:
    """Declare the streams and buckets that services wait for."""
    try:
        await provision([nats_url], seed, ca_file=ca_file)
    except ProvisionError as error:
        raise StreamsUnusable(str(error)) from error


@dataclass(kw_only=True)
class EmbeddedMesh:
    """NATS, PostgreSQL and the five services, as processes of ours. An async context manager."""

    data_dir: Path
    ports: Ports = field(default_factory=Ports)
    progress: Callable[[str], None] = lambda _line: None
    """Called with one line for each step, and when a process dies or is back."""
    log_level: str = "info"
    tls: Tls | None = None
    services: Sequence[str] = SERVICES
    command: Callable[[str], Sequence[str]] = service_command
    migrations: Callable[[str, Mapping[str, str]], Awaitable[None]] = migrate_all
    streams: Callable[[str, str, Path | None], Awaitable[None]] = declare_streams
    """Given the broker's URL, the provisioner's seed and the authority of the broker's certificate, if it has one."""
    servers: Servers = field(default_factory=EmbeddedServers)
    """NATS and PostgreSQL; the wheels' unless others are given."""

    def __post_init__(self) -> None:
        self.data_dir = self.data_dir.absolute()
        self._layout = Layout(self.data_dir)
        self._lock: FolderLock | None = None
        self._supervisor: Supervisor | None = None
        self._addresses: Addresses | None = None

    @property
    def nats_url(self) -> str:
        return self._reachable.nats_url

    @property
    def nats_websocket_url(self) -> str:
        return self._reachable.nats_websocket_url

    @property
    def nats_monitoring_url(self) -> str:
        return self._reachable.nats_monitoring_url

    @property
    def http_url(self) -> str:
        """The gateway."""
        return f"http://{LOOPBACK}:{self.ports.http}"

    @property
    def ingest_url(self) -> str:
        """The door for other people's events."""
        return f"http://{LOOPBACK}:{self.ports.ingest}"

    @property
    def layout(self) -> Layout:
        """Where logs and identities are."""
        return self._layout

    @property
    def processes(self) -> Mapping[str, int]:
        """The pids of what runs here: the services, and `nats` and `postgres` if they are processes of ours."""
        return self._running.pids

    def database_url(self, role: str = SUPERUSER) -> str:
        """Return what a role connects to the database with: the superuser's, or `wardmesh_{service}`."""
        return self._reachable.database_url(role, self._layout.identities.password(role))

    async def start(self) -> None:
        """Bring everything up; return when all of it is ready."""
        if self._lock is not None:
            raise RuntimeError("the mesh has been started already")
        self.data_dir.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = FolderLock(self.data_dir)
        lock.acquire()
        self._lock = lock
        self._supervisor = Supervisor(self._layout.pid_file, self.progress)
        try:
            await self._start(self._supervisor)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything, services first. Harmless if nothing runs."""
        supervisor, self._supervisor = self._supervisor, None
        try:
            if supervisor is not None:
                try:
                    await supervisor.stop()
                finally:
                    await self.servers.stop()
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def kill(self, process: str) -> None:
        """Kill a service, `nats` or `postgres` as a crash would (SIGKILL); it comes back by itself."""
        if process in SERVERS:
            self.servers.kill(process)
        else:
            self._running.kill(process)

    async def restart(self, process: str) -> None:
        """Stop a process in good order and start it again; return when it is ready."""
        if process in SERVERS:
            await self.servers.restart(process)
        else:
            await self._running.restart(process)

    async def wait_ready(self, process: str, timeout_seconds: float = READY_AGAIN_SECONDS) -> None:
        """Wait until a process that was killed is back and ready."""
        if process in SERVERS:
            await self.servers.wait_ready(process, timeout_seconds)
        else:
            await self._running[process].wait_ready(timeout_seconds)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self, supervisor: Supervisor) -> None:
        layout = self._layout
        for folder in (layout.logs, layout.run, layout.jetstream):
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        if ended := await to_the_end(supervisor.end_leftovers):
            self.progress(f"ended {len(ended)} processes that an earlier mesh left")
        layout.identities.make(anew=not layout.has_data())
        self.ports = self.ports.settled()
        self.ports.check()
        self.progress("starting PostgreSQL and NATS")
        self._addresses = await self.servers.start(Ground(layout, self.ports, self.tls, supervisor))
        self.progress(f"PostgreSQL is ready; NATS is ready at {self.nats_url}")

        passwords = {service: layout.identities.password(database_role(service)) for service in SERVICES}
        seed = read_seed(layout.identities.seed_file(PROVISIONER))
        # Both to their end, so that nothing is left running if one fails.
        for outcome in await asyncio.gather(
            self.migrations(self.database_url(), passwords),
            self.streams(self.nats_url, seed, self._nats_ca_file),
            return_exceptions=True,
        ):
            if outcome is not None:
                raise outcome
        self.progress("the database is at the present schema, and the streams are declared")

        await supervisor.start(*self._service_processes())
        self.progress(f"{len(self.services)} services are ready: {', '.join(self.services)}")

    def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
        """Return the environment that a service of this mesh runs with: to run one in a debugger, or in a test."""
        return service_environment(
            service,
            self._layout,
            nats_url=self.nats_url,
            nats_ca_file=self._nats_ca_file,
            database_url=self.database_url(database_role(service)),
            ports=self.ports,
            health_port=health_port,
            log_level=self.log_level,
        )

    @property
    def _nats_ca_file(self) -> Path | None:
        return None if self.tls is None else self.tls.authority

    def _service_processes(self) -> list[ProcessSpec]:
        health_ports = dict(zip(self.services, free_ports(len(self.services), avoid=self.ports.taken()), strict=True))
        return [
            ProcessSpec(
                name=service,
                launch=Launch(
                    command=tuple(self.command(service)),
                    environment=self.environment(service, health_port=port),
                    folder=self.data_dir,
                ),
                log_file=self._layout.log(service),
                ready=http_ready(f"http://{LOOPBACK}:{port}/ready"),
            )
            for service, port in health_ports.items()
        ]

    @property
    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("the mesh is not running")
        return self._supervisor

    @property
    def _reachable(self) -> Addresses:
        if self._addresses is None:
            raise RuntimeError("the mesh is not running")
        return self._addresses
