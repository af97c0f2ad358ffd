"""Somebody else's system: a real HTTPS server that takes batches, and can be made to misbehave."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from wardmesh_cli.embedded.certificates import make_authority, make_server

LOOPBACK = "127.0.0.1"
Answer = Callable[["Taken"], Awaitable[Response]]


@dataclass(frozen=True)
class Taken:
    """A batch as it came."""

    method: str
    path: str
    headers: dict[str, str]
    events: list[dict[str, Any]]

    @property
    def indexes(self) -> list[int]:
        return [each["index"] if "index" in each else each["metadata"]["sequence"] for each in self.events]


async def yes(_taken: Taken) -> Response:
    return Response(status_code=204)


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    async def answer(_taken: Taken) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(body, status_code=status, headers=named)

    return answer


@dataclass
class Siem:
    """What came, and what is answered: `answers` one after another, then `otherwise`."""

    port: int = 0
    ca_file: Path = field(default_factory=Path)
    answers: list[Answer] = field(default_factory=list)
    otherwise: Answer = yes
    requests: list[Taken] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/in", host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    @property
    def indexes(self) -> list[int]:
        return [index for taken in self.requests for index in taken.indexes]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        lines = gzip.decompress(body).splitlines() if body else []
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        taken = Taken(request.method, path, dict(request.headers), [json.loads(line) for line in lines])
        self.requests.append(taken)
        answer = self.answers.pop(0) if self.answers else self.otherwise
        response = await answer(taken)
        await response(scope, receive, send)

    async def until(self, condition: Callable[[Siem], bool], seconds: float = 30.0) -> None:
        """Wait until something has come."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                await asyncio.sleep(0.02)


class _Server(uvicorn.Server):
    """Leaves signals to the tests."""

    def install_signal_handlers(self) -> None:
        pass


@asynccontextmanager
async def siem(
    folder: Path, *, clients: Path | None = None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> AsyncIterator[Siem]:
    """A server at `localhost`, with a certificate of an authority of its own, for `clients` of an authority alone."""
    tls = make_server(make_authority(folder, now=datetime.now(UTC)), folder, ["localhost"], now=datetime.now(UTC))
    found = Siem(ca_file=tls.authority)
    server = _Server(
        uvicorn.Config(
            found, host=LOOPBACK, port=0, ssl_certfile=tls.certificate, ssl_keyfile=tls.key, log_config=None,
            access_log=False, lifespan="off", timeout_graceful_shutdown=1, ssl_version=ssl.PROTOCOL_TLS_SERVER,
            ssl_ca_certs=clients, ssl_cert_reqs=ssl.CERT_NONE if clients is None else ssl.CERT_REQUIRED,
        )
    )  # fmt: skip
    server.config.load()
    assert server.config.ssl is not None
    server.config.ssl.maximum_version = version
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    found.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.should_exit = True
        await asyncio.wait({task})
