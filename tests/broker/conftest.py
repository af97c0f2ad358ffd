"""A real nats-server with the mesh's own configuration, and an auth callout that knows keys of the form `open …`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from wardmesh.ids import KeyId, Principal, Scope, UserId, WorkspaceId, parse_principal, parse_scope
from wardmesh.server.broker import PROVISIONER, inbox_prefix, static_permissions
from wardmesh.server.provision import provision
from wardmesh.server.streams import Choices
from wardmesh_auth.callout import Callout, ConnectRequest, Decision, Grant, Refusal
from wardmesh_auth.responder import respond
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import CALLOUT_USER, BrokerConfig
from wardmesh_cli.embedded.identities import Identities
from wardmesh_cli.embedded.ports import free_ports
from wardmesh_cli.embedded.supervisor import Supervisor

WAIT_SECONDS = 5.0
SILENCE_SECONDS = 0.3
CONNECT_SECONDS = 1.8
"""Below the 2 s after which the server pings a client that it has not let in yet: nats-py takes that for a welcome."""


def credential(scope: Scope, principal: Principal, *, seconds: float | None = None) -> str:
    """What the callout of these tests accepts."""
    return f"open {scope} {principal} {'' if seconds is None else seconds}".strip()


async def connect(url: str, **options: Any) -> Client:
    """Connect, and close what a refused connect leaves open: nats-py does not."""
    connection = Client()
    try:
        await connection.connect(url, connect_timeout=CONNECT_SECONDS, **options)
    except BaseException:
        await connection.close()
        transport = connection._transport
        if transport is not None:
            transport.close()
        raise
    return connection


@dataclass
class Caller:
    """A client of the mesh, with what went wrong on its connection."""

    scope: Scope
    principal: Principal
    connection: Client
    errors: list[Exception]
    closed: asyncio.Event
    disconnected: asyncio.Event
    reconnected: asyncio.Event


@dataclass
class RunningBroker:
    """Servers, identities and the callout of a test."""

    configs: list[BrokerConfig]
    identities: Identities
    supervisor: Supervisor
    log: Callable[[], str]
    stack: AsyncExitStack
    asked: list[ConnectRequest] = field(default_factory=list)
    denied: set[Principal] = field(default_factory=set)
    callout_errors: list[Exception] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.configs[0].url

    def seed(self, user: str) -> str:
        return self.identities.seed_file(user).read_text().strip()

    async def static(self, user: str, errors: list[Exception] | None = None, **options: Any) -> Client:
        """Connect as one of the mesh's own users."""

        async def on_error(error: Exception) -> None:
            if errors is not None:
                errors.append(error)

        connection = await connect(
            options.pop("url", self.url),
            nkeys_seed_str=self.seed(user),
            inbox_prefix=options.pop("inbox_prefix", inbox_prefix(user)),
            error_cb=on_error,
            max_reconnect_attempts=0,
            **options,
        )
        self.stack.push_async_callback(connection.close)
        return connection

    async def caller(
        self,
        scope: Scope | None = None,
        principal: Principal | None = None,
        *,
        password: str | Callable[[], str] | None = None,
        url: str | None = None,
        attempts: int = 0,
    ) -> Caller:
        """Connect as a client, through the callout."""
        scope = scope or WorkspaceId.new()
        principal = principal or UserId.new()
        errors: list[Exception] = []
        closed, disconnected, reconnected = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def on_error(error: Exception) -> None:
            errors.append(error)

        async def on_closed() -> None:
            closed.set()

        async def on_disconnected() -> None:
            disconnected.set()

        async def on_reconnected() -> None:
            reconnected.set()

        connection = await connect(
            url or self.url,
            user=str(scope),
            password=password or credential(scope, principal),
            inbox_prefix=f"_INBOX.{principal}",
            error_cb=on_error,
            closed_cb=on_closed,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            allow_reconnect=attempts > 0,
            reconnect_time_wait=0,
            max_reconnect_attempts=attempts,
        )
        self.stack.push_async_callback(connection.close)
        return Caller(scope, principal, connection, errors, closed, disconnected, reconnected)

    async def decide(self, request: ConnectRequest) -> Decision:
        self.asked.append(request)
        if request.password == "raise":
            raise RuntimeError("a store that is down")
        opening, _, rest = request.password.partition(" ")
        if opening != "open":
            return Refusal("not a credential")
        scope, principal, *seconds = rest.split()
        if request.user != scope:
            return Refusal("a credential for another scope")
        who = parse_principal(principal)
        if who in self.denied:
            return Refusal("revoked")
        expires_at = datetime.now(UTC) + timedelta(seconds=float(seconds[0])) if seconds else None
        return Grant(parse_scope(scope), who, KeyId.new(), expires_at)


async def run_broker(
    folder: Path,
    *,
    servers: int = 1,
    with_callout: bool = True,
    streams: Choices | None = None,
    render: Callable[[BrokerConfig], str] = broker.render,
) -> AsyncIterator[RunningBroker]:
    """Run one server, or a cluster, and the callout; declare the mesh's streams if they are to be there."""
    identities = Identities(folder / "identities")
    identities.make()
    names = [f"n{number}" for number in range(servers)]
    routes = free_ports(servers)
    configs = [
        _config(folder, identities, name, extra=_cluster(route, routes) if servers > 1 else {})
        for name, route in zip(names, routes, strict=True)
    ]

    def log() -> str:
        return "".join((folder / f"{name}.log").read_text() for name in names)

    async with Supervisor(folder / "processes.json") as supervisor, AsyncExitStack() as stack:
        specs = []
        for name, config in zip(names, configs, strict=True):
            config_file = folder / f"{name}.conf"
            config_file.write_text(render(config))
            spec = broker.process(config, config_file=config_file, log_file=folder / f"{name}.log")
            specs.append(replace(spec, name=name))
        await supervisor.start(*specs)
        running = RunningBroker(configs, identities, supervisor, log, stack)
        callout = Callout(
            running.decide,
            issuer_seed=identities.issuer_seed_file.read_text().strip(),
            xkey_seed=identities.xkey_seed_file.read_text().strip(),
            clock=lambda: datetime.now(UTC),
            on_error=running.callout_errors.append,
        )
        if streams is not None:
            await provision([config.url for config in configs], running.seed(PROVISIONER), streams)
        if with_callout:
            await respond(await running.static(CALLOUT_USER), callout, on_error=running.callout_errors.append)
        yield running


def _config(folder: Path, identities: Identities, name: str, *, extra: dict[str, Any]) -> BrokerConfig:
    port, monitoring_port, websocket_port = free_ports(3)
    return BrokerConfig(
        keys=identities.public_keys(),
        permissions=static_permissions(),
        store_dir=folder / name,
        port=port,
        monitoring_port=monitoring_port,
        websocket_port=websocket_port,
        server_name=name,
        extra=extra,
    )


def _cluster(route: int, routes: list[int]) -> dict[str, Any]:
    peers = [f"nats://127.0.0.1:{peer}" for peer in routes]
    return {"cluster": {"name": "mesh", "listen": f"127.0.0.1:{route}", "routes": peers}}


@pytest.fixture(scope="session")
async def one_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBroker]:
    async for running in run_broker(tmp_path_factory.mktemp("broker"), streams=Choices()):
        yield running


@pytest.fixture(scope="session")
async def three_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBroker]:
    async for running in run_broker(tmp_path_factory.mktemp("cluster"), servers=3):
        yield running


@pytest.fixture
async def mesh_broker(one_server: RunningBroker) -> AsyncIterator[RunningBroker]:
    """One server for the session; connections end with each test."""
    async with AsyncExitStack() as stack:
        yield replace(one_server, stack=stack)


@pytest.fixture
async def mesh_cluster(three_servers: RunningBroker) -> AsyncIterator[RunningBroker]:
    """Three servers for the session; connections end with each test."""
    async with AsyncExitStack() as stack:
        yield replace(three_servers, stack=stack)
