"""A wire that can be cut: a TCP proxy between a client and a server, and the kick that a broker is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import nats

from wardmesh.ids import Principal
from wardmesh.server.broker import inbox_prefix
from wardmesh.server.settings import read_seed
from wardmesh_auth.connections import Connections
from wardmesh_cli.embedded.broker import SYSTEM_USER
from wardmesh_cli.embedded.mesh import EmbeddedMesh

CHUNK = 64 * 1024


class Wire:
    """Connections that go through here end when it is cut, in the middle of whatever they carry."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; return how many there were."""
        cut = len(self._open)
        for writer in self._open:
            writer.transport.abort()
        return cut

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection(*self._to)
        except OSError:  # the server is being killed
            writer.transport.abort()
            return
        self._open |= {writer, there}
        try:
            await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))
        finally:
            self._open -= {writer, there}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    """A wire to the server of a URL, while the block runs."""
    address = urlsplit(url)
    made = Wire(address.hostname or "127.0.0.1", address.port or 0)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def kick(mesh: EmbeddedMesh, principal: Principal) -> int:
    """Have the broker drop what a principal has open; return how many connections that were."""
    seed = read_seed(mesh.layout.identities.seed_file(SYSTEM_USER))
    system = await nats.connect(
        mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=inbox_prefix(SYSTEM_USER), allow_reconnect=False
    )
    try:
        connections = Connections(system)
        # Once each: `drop` goes on until nobody comes back, and everybody does here.
        return sum(await asyncio.gather(*map(connections._kick, await connections.find(principal))))
    finally:
        await system.close()
