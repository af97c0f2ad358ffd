"""A proxy between a service and a server, which cuts a connection at the moment that is the hardest to tell apart.

What always holds: until it is told to cut, it passes on every byte, both ways. Then it looks for one request. It lets
it through, waits until the server has said that it is done, throws that answer away and closes both sides; or it throws
the request away and closes both sides. The service can't know which.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

CHUNK_BYTES: Final = 64 * 1024
ANSWER_SECONDS: Final = 10.0
"""How long the server may take to do it; on a busy machine, a long time."""

Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass
class Cut:
    """The first request that has `last` in it, on a connection that has sent `mark` before or in it."""

    mark: bytes
    last: bytes
    answer: bytes | None
    """What the server says when it has done it; None keeps the request from the server."""
    done: bool = False
    repeated: int = 0
    """Such requests that came after, and passed."""


class Cutter:
    """The proxy. `cut` says where, from now on."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._cut: Cut | None = None
        self._links: set[asyncio.Task[None]] = set()

    def cut(self, mark: bytes, last: bytes, answer: bytes | None) -> Cut:
        self._cut = Cut(mark, last, answer)
        return self._cut

    @asynccontextmanager
    async def listening(self, socket: Path | None = None) -> AsyncIterator[int]:
        """Listen there, or on a port of the loopback address, which is yielded."""
        if socket is None:
            server = await asyncio.start_server(self._accept, "127.0.0.1")
        else:
            server = await asyncio.start_unix_server(self._accept, socket)
        try:
            yield 0 if socket is not None else server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._serve(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:  # the server is not there, and so the proxy is not
            writer.transport.abort()
            return
        answers = asyncio.create_task(_pass_on(server_reader, writer))
        try:
            with contextlib.suppress(OSError):
                await self._requests(reader, server_reader, server_writer, answers)
        finally:
            await _ended(answers)
            writer.transport.abort()
            server_writer.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        answers: asyncio.Task[None],
    ) -> None:
        sent = b""
        while chunk := await reader.read(CHUNK_BYTES):
            cut = self._cut
            sent = b"" if cut is None else sent + chunk
            found = cut is not None and cut.mark in sent and cut.last in sent[sent.index(cut.mark) :]
            if cut is not None and found and not cut.done:
                cut.done = True
                if cut.answer is not None:
                    await _ended(answers)
                    server_writer.write(chunk)
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await server_reader.readuntil(cut.answer)
                return
            if cut is not None and found:
                cut.repeated += 1
                sent = b""
            server_writer.write(chunk)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
    writer.transport.abort()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
