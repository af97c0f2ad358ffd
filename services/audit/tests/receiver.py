"""A syslog receiver: TLS or TCP, octet counting, and ways to misbehave."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import SHUT_RDWR, SHUT_WR, SO_LINGER, SOL_SOCKET, create_server, socket
from typing import Any

from wardmesh_cli.embedded.certificates import make_authority, make_server

MESSAGE = re.compile(
    rb"<(?P<priority>\d{1,3})>1 (?P<time>\S+) (?P<host>\S{1,255}) (?P<app>\S{1,48}) (?P<process>\S{1,128}) "
    rb"(?P<id>\S{1,32}) (?P<data>\[(?:[^\]\\]|\\.)*\]) (?P<text>.*)",
    re.DOTALL,
)
"""RFC 5424, as far as ours goes; written from the RFC and not from our code."""


@dataclass
class Receiver:
    """`manner` is of the next connections: `ends`, `resets`, `stays`, `reads slowly`, `cuts off`, `talks`."""

    port: int = 0
    ca_file: Path = field(default_factory=Path)
    manner: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0
    context: ssl.SSLContext | None = None
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def parsed(self) -> list[dict[str, bytes]]:
        found = []
        for message in self.messages:
            match = MESSAGE.fullmatch(message)
            assert match is not None, message
            found.append(match.groupdict())
        return found

    @property
    def indexes(self) -> list[int]:
        return [json.loads(each["text"])["metadata"]["sequence"] for each in self.parsed]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        manner = self.manner.pop(0) if self.manner else "ends"
        try:
            if manner == "cuts off":
                await reader.readexactly(100)
                self._reset(writer)
                return
            if manner == "reads slowly":
                while await reader.read(1):
                    await asyncio.sleep(0.2)
                return
            while length := await self._length(reader):
                self.messages.append(await reader.readexactly(length))
                if manner == "talks":
                    writer.write(b"who asked me?\n" * 500)
            if manner == "resets":
                self._reset(writer)
            elif manner == "stays":
                await self.release.wait()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _length(self, reader: asyncio.StreamReader) -> int:
        digits = b""
        while (byte := await reader.read(1)) not in (b" ", b""):
            digits += byte
        assert digits.isdigit() or not digits
        return int(digits or 0)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@asynccontextmanager
async def receiver(folder: Path | None) -> AsyncIterator[Receiver]:
    """A receiver at `localhost`, by TLS if there is a folder for its certificate."""
    found = Receiver()
    options: dict[str, Any] = {"limit": 4096}
    if folder is not None:
        now = datetime.now(UTC)
        tls = make_server(make_authority(folder, now=now), folder, ["localhost"], now=now)
        found.ca_file = tls.authority
        options["ssl"] = found.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.context.load_cert_chain(tls.certificate, tls.key)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, **options)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        found.release.set()
        server.close()


def end_rudely(listening: socket, context: ssl.SSLContext) -> None:
    """Take one connection, read something, and end it as TCP does, without a word of TLS; in a thread."""
    taken, _ = listening.accept()
    secured = context.wrap_socket(taken, server_side=True)
    secured.recv(1)
    with socket(fileno=secured.detach()) as plain:
        plain.shutdown(SHUT_WR)
        while plain.recv(4096):
            pass


@dataclass
class Strict:
    """What a receiver that asks who comes has taken, and from whom."""

    context: ssl.SSLContext
    port: int = 0
    taken: list[tuple[str, bytes]] = field(default_factory=list)

    def serve(self, listening: socket) -> None:
        """Take one connection after the other; in a thread. Unlike asyncio's, its refusals say why (alerts)."""
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            plain.settimeout(5.0)
            with suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as secured:
                content = b""
                while piece := secured.recv(65536):
                    content += piece
                who = secured.getpeercert()
                assert who is not None
                ((_, name),) = who["subject"][0]
                self.taken.append((name, content))
                secured.unwrap()


@asynccontextmanager
async def strict_receiver(folder: Path, authority: str, version: ssl.TLSVersion) -> AsyncIterator[tuple[Strict, Path]]:
    """A receiver at `localhost` for clients of an authority alone; yield it, and whom its own certificate is by."""
    now = datetime.now(UTC)
    tls = make_server(make_authority(folder, now=now), folder, ["localhost"], now=now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority)
    context.maximum_version = version
    found = Strict(context)
    with create_server(("127.0.0.1", 0)) as listening:
        found.port = listening.getsockname()[1]
        serving = asyncio.create_task(asyncio.to_thread(found.serve, listening))
        try:
            yield found, tls.authority
        finally:
            listening.shutdown(SHUT_RDWR)
            await serving


def end_early(listening: socket, context: ssl.SSLContext | None) -> None:
    """Take one connection, end it in order before anything of it was understood, and take the rest; in a thread."""
    plain, _ = listening.accept()
    if context is None:
        plain.shutdown(SHUT_WR)
    else:
        secured = context.wrap_socket(plain, server_side=True)
        secured.settimeout(0)
        with suppress(ssl.SSLError):  # what was said to us meanwhile
            secured.unwrap()
        plain = socket(fileno=secured.detach())
    with plain:
        plain.settimeout(5.0)
        while plain.recv(65536):
            pass
