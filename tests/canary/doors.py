"""The two doors, asked in ways that the client library would not: any body, any header, any subject, any path.

What the mesh says to what it refuses is kept in a file: it goes into other people's logs. What it says to what it
grants is not, because that carries credentials by design.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
import nats
from nats.aio.client import Client

from wardmesh.contracts.operation import AnyContract
from wardmesh.errors import CODE_HEADER
from wardmesh.headers import AUTHORIZATION, REQUEST_ID
from wardmesh.ids import Principal, RequestId, Scope
from wardmesh_cli.embedded.mesh import EmbeddedMesh

ANSWER_SECONDS: Final = 20.0
RAW_SECONDS: Final = 3.0
_READ_BYTES = 65_536


class Answers:
    """What was said to what was refused."""

    def __init__(self, file: Path) -> None:
        self._handle = file.open("ab", buffering=0)

    def keep(self, headers: Mapping[str, str] | None, body: bytes) -> None:
        self._handle.write(repr(dict(headers or {})).encode() + b"\n" + body + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()


class NatsDoor:
    """A client of our own making, as one principal in one scope."""

    def __init__(self, client: Client, principal: Principal, scope: Scope, token: str, answers: Answers) -> None:
        self.client, self.principal, self.scope = client, principal, scope
        self._token, self._answers = token, answers

    def headers(self, **changes: str) -> dict[str, str]:
        return {AUTHORIZATION: f"Bearer {self._token}", REQUEST_ID: str(RequestId.new()), **changes}

    async def ask(self, contract: AnyContract, body: bytes, headers: dict[str, str] | None = None) -> bool:
        """Return whether the request was granted."""
        answer = await self.client.request(
            contract.subject(self.scope, self.principal),
            body,
            timeout=ANSWER_SECONDS,
            headers=self.headers() if headers is None else headers,
        )
        if answer.headers is None or CODE_HEADER not in answer.headers:
            return True
        self._answers.keep(answer.headers, answer.data)
        return False

    async def publish(self, subject: str, body: bytes = b"{}", reply: str = "") -> None:
        """Send something that may well be refused by the broker, which ends nothing."""
        await self.client.publish(subject, body, reply=reply, headers=self.headers())
        await self.client.flush()


class HttpDoor:
    """The gateway or the ingest."""

    def __init__(self, http: httpx2.AsyncClient, answers: Answers) -> None:
        self.http = http
        self._answers = answers

    async def ask(
        self,
        contract: AnyContract,
        scope: Scope,
        body: bytes,
        token: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        path = f"/v1/{scope}/{contract.service}/{contract.name}"
        wanted = {} if token is None else {AUTHORIZATION: f"Bearer {token}"}
        return await self.send("POST", path, {**wanted, "Content-Type": "application/json", **(headers or {})}, body)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> httpx2.Response:
        answer = await self.http.request(method, path, content=body, headers=dict(headers or {}))
        if answer.status_code >= 400:
            self._answers.keep(answer.headers, answer.content)
        return answer

    async def send_bytes(self, sent: bytes) -> None:
        """Write to the socket what no HTTP library would write, and close it."""
        parts = urlsplit(str(self.http.base_url))
        self._answers.keep(None, await exchange(parts.hostname or "", parts.port or 80, sent))


@asynccontextmanager
async def nats_door(
    mesh: EmbeddedMesh, *, scope: Scope, principal: Principal, token: str, answers: Answers
) -> AsyncIterator[NatsDoor]:
    async def said(error: Exception) -> None:
        answers.keep(None, f"{type(error).__name__}".encode())  # its text is what nats-py makes of ours

    client = await nats.connect(
        mesh.nats_url,
        user=scope,
        password=token,
        inbox_prefix=f"_INBOX.{principal}",
        allow_reconnect=False,
        error_cb=said,
    )
    try:
        yield NatsDoor(client, principal, scope, token, answers)
    finally:
        await client.close()


async def exchange(host: str, port: int, sent: bytes) -> bytes:
    """Write bytes to a socket and return what comes back until it closes or falls silent."""
    reader, writer = await asyncio.open_connection(host, port)
    received = b""
    try:
        writer.write(sent)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(RAW_SECONDS):
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                while more := await reader.read(_READ_BYTES):
                    received += more
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return received


async def connect_to_broker(mesh: EmbeddedMesh, answers: Answers, **options: Any) -> None:
    """Send a CONNECT of our own making, and keep what the broker says to it."""
    parts = urlsplit(mesh.nats_url)
    line = json.dumps({"verbose": False, "pedantic": False, "lang": "test", "version": "1", "protocol": 1, **options})
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        await reader.readline()  # INFO
        writer.write(f"CONNECT {line}\r\nPING\r\n".encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            said = await reader.read(_READ_BYTES)
        assert b"-ERR" in said, "the broker let a made-up credential in"
        answers.keep(None, said)
    finally:
        writer.close()
