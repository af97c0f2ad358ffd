"""A real broker that can be killed, a wire to it that can be cut, and a stand-in that speaks as the services do."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

import wardmesh
from wardmesh.contracts import auth
from wardmesh.contracts.operation import Message
from wardmesh.crypto.apikey import ApiKey
from wardmesh.errors import CODE_HEADER, ERROR_HEADER, UnknownOperation, WardmeshError
from wardmesh.ids import AgentId, KeyId, OrgId, Principal, RequestId, Scope, WorkspaceId
from wardmesh.subjects import RpcSubject

START_SECONDS = 10


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Broker:
    """nats-server on a port of its own."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        beside = Path(sys.executable).with_name("nats-server")
        program = str(beside) if beside.exists() else shutil.which("nats-server")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-a", "127.0.0.1", "-p", str(self.port), *self._arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            assert time.monotonic() < deadline, "nats-server does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(START_SECONDS)
            self._process = None


class Wire:
    """A TCP proxy before a broker, for what a broker does not do on demand."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._server: asyncio.Server | None = None
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.refusing = 0
        """How many connections it hangs up on, from the next one on."""

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def say_and_cut(self, line: bytes) -> None:
        """Tell every client something in the broker's name, then hang up."""
        for client in self._clients:
            client.write(line)
            await client.drain()
            client.close()
        self._clients.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            self.refusing -= 1
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._broker.port)
        except OSError:
            writer.close()
            return
        self._clients.append(writer)
        pumps = [asyncio.create_task(_pump(reader, upstream)), asyncio.create_task(_pump(upstream_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            upstream.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@dataclass
class Request:
    """What the stand-in was asked."""

    subject: RpcSubject
    body: dict[str, Any]
    headers: dict[str, str]
    reply: str
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> RequestId:
        return RequestId.parse(self.headers["Request-Id"])


Outcome = Message | WardmeshError | bytes | None
"""An answer, a problem, raw bytes, or silence."""
Handler = Callable[[Request], Outcome]


class StandIn:
    """Answers operations as the test says; it outlives restarts of the broker."""

    def __init__(self, broker: Broker, token_seconds: int = 600) -> None:
        self._broker = broker
        self._client = Client()
        self.token_seconds = token_seconds
        self.requests: list[Request] = []
        self.holder_keys: list[bytes] = []
        self.delay_seconds = 0.0
        self._handlers: dict[str, Handler] = {"auth.exchange_key": self._exchange_key}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, key: str, handler: Handler | Outcome) -> None:
        """Answer `service.operation` by `handler`, or always with the same."""
        self._handlers[key] = handler if callable(handler) else lambda _: handler

    def asked(self, key: str) -> list[Request]:
        return [request for request in self.requests if f"{request.subject.service}.{request.subject.operation}" == key]

    async def start(self) -> None:
        async def quiet(_error: Exception) -> None: ...

        await self._client.connect(
            self._broker.url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]
            error_cb=quiet,
            connect_timeout=1,
        )
        await self._client.subscribe("rpc.>", cb=self._receive)
        await self._client.flush()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError, nats.errors.Error, OSError):  # there may be no broker any more
            await asyncio.wait_for(self._client.drain(), 2)  # when it is over, the broker knows that nobody answers
        with suppress(TimeoutError):
            await asyncio.wait_for(self._client.close(), 2)

    async def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self._client.publish(subject, body, headers=headers)

    def token(self, principal: Principal, scope: Scope, seconds: int | None = None) -> str:
        now = int(time.time())
        claims = {"sub": principal, "org": OrgId.nil(), "iat": now, "exp": now + (seconds or self.token_seconds)}
        claims |= {"ws": scope} if isinstance(scope, WorkspaceId) else {"org": scope}
        payload = base64.urlsafe_b64encode(json.dumps(claims | {"jti": os.urandom(4).hex()}).encode()).rstrip(b"=")
        return f"e30.{payload.decode()}.e30"

    async def _receive(self, message: Msg) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg) -> None:
        subject = RpcSubject.parse(message.subject)
        request = Request(subject, json.loads(message.data), dict(message.headers or {}), message.reply)
        self.requests.append(request)
        if self.delay_seconds and subject.service != "auth":
            await asyncio.sleep(self.delay_seconds)
        handler = self._handlers.get(f"{subject.service}.{subject.operation}")
        outcome = handler(request) if handler is not None else UnknownOperation()
        if isinstance(outcome, WardmeshError):
            problem = outcome.to_problem(request.id).model_dump_json().encode()
            headers = {CODE_HEADER: str(outcome.status), ERROR_HEADER: outcome.code}
            await self.publish(message.reply, problem, headers)
        elif outcome is not None:
            await self.publish(
                message.reply, outcome if isinstance(outcome, bytes) else outcome.model_dump_json().encode()
            )

    def _exchange_key(self, request: Request) -> Outcome:
        self.holder_keys.append(base64.urlsafe_b64decode(request.body["holder_key"]))
        return auth.AccessToken(
            token=self.token(request.subject.principal, request.subject.scope),
            expires_at=datetime.now(UTC) + timedelta(seconds=self.token_seconds),
            principal=request.subject.principal,
            scope=request.subject.scope,
        )


@dataclass(frozen=True)
class Identity:
    organization: OrgId
    workspace: WorkspaceId
    agent: AgentId
    api_key: str


@pytest.fixture
def broker() -> Iterator[Broker]:
    started = Broker()
    started.start()
    yield started
    started.kill()


@pytest.fixture
async def wire(broker: Broker) -> AsyncIterator[Wire]:
    opened = Wire(broker)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def services(broker: Broker) -> AsyncIterator[StandIn]:
    stand_in = StandIn(broker)
    await stand_in.start()
    yield stand_in
    await stand_in.stop()


@pytest.fixture
def identity() -> Identity:
    organization, workspace, agent = OrgId.new(), WorkspaceId.new(), AgentId.new()
    key = ApiKey(organization=organization, scope=workspace, principal=agent, id=KeyId.new(), secret=os.urandom(32))
    return Identity(organization, workspace, agent, key.encode())


Connect = Callable[..., AbstractAsyncContextManager[wardmesh.Mesh]]


@pytest.fixture
def connect(broker: Broker, identity: Identity) -> Connect:
    def opened(url: str | None = None, **options: Any) -> AbstractAsyncContextManager[wardmesh.Mesh]:
        return wardmesh.connect(url or broker.url, identity.api_key, **options)

    return opened


@pytest.fixture
async def mesh(services: StandIn, connect: Connect) -> AsyncIterator[wardmesh.Mesh]:
    async with connect() as opened:
        yield opened


@pytest.fixture
async def raw(broker: Broker) -> AsyncIterator[Client]:
    client = await nats.connect(broker.url)
    yield client
    await client.close()
