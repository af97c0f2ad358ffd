"""NATS and PostgreSQL in containers: for a mesh, whose services stay processes of ours, or alone.

What always holds: a server is ready when it answers through its published port, not when its log says so. A server of a
mesh has the same port after it was killed. Containers are removed with what they stored.

On failure: `DockerUnusable` if there is no Docker daemon; `ContainerFailed`, with the end of its log, if a container
ends or is not ready in time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
from docker.errors import DockerException  # type: ignore[import-untyped] # it has no types
from testcontainers.core.container import DockerContainer

from wardmesh.server.broker import static_permissions
from wardmesh.tls import trusting
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import BrokerConfig, Tls
from wardmesh_cli.embedded.errors import EmbeddedError
from wardmesh_cli.embedded.ports import free_ports
from wardmesh_cli.embedded.postgres import DATABASE, MAX_CONNECTIONS, SUPERUSER
from wardmesh_cli.embedded.servers import SERVERS, Addresses, Ground, Server

CLIENT_PORT: Final = 4222
WEBSOCKET_PORT: Final = 4223
MONITORING_PORT: Final = 8222
POSTGRES_PORT: Final = 5432
ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - inside a container, whose published ports decide who reaches it
READY_SECONDS: Final = 120.0
"""An image may have to be pulled before; a database is made on the first start."""
STOP_SECONDS: Final = 20

_CONFIG_FILE = "/etc/nats/wardmesh.conf"
_STORE = Path("/data")
_TLS = Tls(
    certificate=Path("/etc/nats/certificate.pem"),
    key=Path("/etc/nats/key.pem"),
    authority=Path("/etc/nats/authority.pem"),
)
_PASSWORD_BYTES = 12
_POLL_SECONDS = 0.05
_PROBE_SECONDS = 2.0
_LOG_TAIL_BYTES = 2_000


class DockerUnusable(EmbeddedError):
    """There is no Docker daemon that answers."""


class ContainerFailed(EmbeddedError):
    """A container ended, or was not ready in time."""


class ContainerServers:
    """The two servers of a mesh, in containers. Implements `wardmesh_cli.embedded.servers.Servers`."""

    def __init__(self, nats_image: str, postgres_image: str) -> None:
        self._nats_image = nats_image
        self._postgres_image = postgres_image
        self._containers: dict[Server, DockerContainer] = {}
        self._probes: dict[Server, Probe] = {}
        self._reviving: dict[Server, asyncio.Task[None]] = {}

    async def start(self, ground: Ground) -> Addresses:
        try:
            return await self._start(ground)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        reviving, self._reviving = list(self._reviving.values()), {}
        for task in reviving:
            task.cancel()
        await asyncio.gather(*reviving, return_exceptions=True)
        containers, self._containers = list(self._containers.values()), {}
        await asyncio.gather(*(asyncio.to_thread(container.stop) for container in containers))

    def kill(self, server: Server) -> None:
        self._containers[server].get_wrapped_container().kill()
        before = self._reviving.get(server)
        self._reviving[server] = asyncio.get_running_loop().create_task(self._revive(server, before))

    async def restart(self, server: Server) -> None:
        await asyncio.to_thread(self._containers[server].get_wrapped_container().restart, timeout=STOP_SECONDS)
        await _until_ready(self._containers[server], self._probes[server])

    async def wait_ready(self, server: Server, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                if (reviving := self._reviving.get(server)) is not None:
                    await asyncio.shield(reviving)
        except TimeoutError:
            raise ContainerFailed(f"{server} was not ready within {timeout_seconds:g} s") from None

    async def _revive(self, server: Server, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        # Docker leaves what it was told to kill dead, whatever the restart policy.
        await asyncio.to_thread(self._containers[server].get_wrapped_container().start)
        await _until_ready(self._containers[server], self._probes[server])

    async def _start(self, ground: Ground) -> Addresses:
        layout, ports = ground.layout, ground.ports
        (postgres_port,) = (ports.postgres,) if ports.postgres else free_ports(1, avoid=ports.taken())
        password = layout.identities.password(SUPERUSER)
        self._containers["nats"] = _nats(self._nats_image, ground)
        self._containers["postgres"] = _postgres(self._postgres_image, password).with_bind_ports(
            POSTGRES_PORT, postgres_port
        )
        await asyncio.gather(*(_begin(container) for container in self._containers.values()))
        nats, postgres = (_address(self._containers["nats"], CLIENT_PORT), self._containers["postgres"])
        websocket = _address(self._containers["nats"], WEBSOCKET_PORT)
        database = _address(postgres, POSTGRES_PORT)

        def database_url(role: str, password: str, *, database_name: str = DATABASE) -> str:
            return _postgres_url(database, role, password, database_name)

        administrative = database_url(SUPERUSER, password, database_name=SUPERUSER)
        ca_file = None if ground.tls is None else ground.tls.authority
        self._probes = {"nats": nats_answers(*nats, ca_file), "postgres": postgres_answers(administrative)}
        await asyncio.gather(*(_until_ready(self._containers[name], self._probes[name]) for name in SERVERS))
        secure = ground.tls is not None
        return Addresses(
            nats_url=f"{'tls' if secure else 'nats'}://{nats[0]}:{nats[1]}",
            nats_websocket_url=f"{'wss' if secure else 'ws'}://{websocket[0]}:{websocket[1]}",
            nats_monitoring_url="",
            database_url=database_url,
        )


@asynccontextmanager
async def nats_server(image: str) -> AsyncIterator[str]:
    """A NATS server with JetStream and without accounts, while the block runs. Yields its URL."""
    container = _container(image).with_command(["--jetstream"]).with_exposed_ports(CLIENT_PORT)
    async with _running(container):
        host, port = _address(container, CLIENT_PORT)
        await _until_ready(container, nats_answers(host, port))
        yield f"nats://{host}:{port}"


@asynccontextmanager
async def postgres(image: str) -> AsyncIterator[str]:
    """A PostgreSQL server, while the block runs. Yields its superuser's URL."""
    password = secrets.token_hex(_PASSWORD_BYTES)
    container = _postgres(image, password).with_exposed_ports(POSTGRES_PORT)
    async with _running(container):
        url = _postgres_url(_address(container, POSTGRES_PORT), SUPERUSER, password, SUPERUSER)
        await _until_ready(container, postgres_answers(url))
        yield url


Probe = Callable[[], Awaitable[bool]]


def nats_answers(host: str, port: int, ca_file: Path | None = None) -> Probe:
    """Return a probe that wants a NATS server's greeting: a proxy of Docker's accepts before there is a server."""
    secure = None if ca_file is None else trusting(ca_file)

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                reader, writer = await asyncio.open_connection(host, port, ssl=secure)
                try:
                    return (await reader.readline()).startswith(b"INFO ")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    return probe


def postgres_answers(url: str) -> Probe:
    """Return a probe that wants to log in."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await (await asyncpg.connect(url)).close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    return probe


def _nats(image: str, ground: Ground) -> DockerContainer:
    container = _container(image).with_command(["--config", _CONFIG_FILE])
    container.with_bind_ports(CLIENT_PORT, ground.ports.nats)
    container.with_bind_ports(WEBSOCKET_PORT, ground.ports.nats_websocket)
    config = BrokerConfig(
        keys=ground.layout.identities.public_keys(),
        permissions=static_permissions(),
        store_dir=_STORE,
        host=ANYWHERE,
        port=CLIENT_PORT,
        websocket_port=WEBSOCKET_PORT,
        monitoring_port=MONITORING_PORT,
        tls=None if ground.tls is None else _TLS,
    )
    container.with_copy_into_container(broker.render(config).encode(), _CONFIG_FILE)
    if ground.tls is not None:
        for file, place in (
            (ground.tls.certificate, _TLS.certificate),
            (ground.tls.key, _TLS.key),
            (ground.tls.authority, _TLS.authority),
        ):
            container.with_copy_into_container(file.read_bytes(), str(place))
    return container


def _postgres(image: str, password: str) -> DockerContainer:
    return (
        _container(image)
        .with_env("POSTGRES_PASSWORD", password)
        .with_command(["postgres", "-c", f"max_connections={MAX_CONNECTIONS}"])
    )


def _container(image: str) -> DockerContainer:
    try:
        return DockerContainer(image)
    except DockerException as error:
        raise DockerUnusable(
            f"the backend `containers` needs a Docker daemon, and none answers ({error}): start one, or use the "
            "backend `embedded`, which needs none"
        ) from error


def _address(container: DockerContainer, port: int) -> tuple[str, int]:
    return container.get_container_host_ip(), container.get_exposed_port(port)


def _postgres_url(address: tuple[str, int], role: str, password: str, database: str) -> str:
    host, port = address
    # dbmate's driver insists on TLS unless it is told otherwise.
    return f"postgresql://{quote(role)}:{quote(password)}@{host}:{port}/{quote(database)}?sslmode=disable"


@asynccontextmanager
async def _running(container: DockerContainer) -> AsyncIterator[None]:
    try:
        await _begin(container)
        yield
    finally:
        await asyncio.to_thread(container.stop)


async def _begin(container: DockerContainer) -> None:
    try:
        await asyncio.to_thread(container.start)
    except DockerException as error:
        raise ContainerFailed(f"the image {container.image} could not be started: {error}") from error


async def _until_ready(container: DockerContainer, probe: Probe) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while not await probe():
        await asyncio.to_thread(container.reload)
        if container.status in {"exited", "dead"} or time.monotonic() > give_up:
            output = container.get_wrapped_container().logs()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
            raise ContainerFailed(f"a container of {container.image} is not ready; its log ends:\n{output}")
        await asyncio.sleep(_POLL_SECONDS)
