"""The way to witnesses, to servers that do what they should not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wardmesh_audit.witness_client import HttpWitnessDoor
from wardmesh_audit.witness_ports import WitnessAnswer, WitnessUnreachable
from wardmesh_cli.embedded.certificates import server_certificate

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
seen: list[bytes] = []


@pytest.fixture
async def door() -> AsyncIterator[HttpWitnessDoor]:
    opened = HttpWitnessDoor()
    yield opened
    await opened.close()


async def served(answer: Answer, door: HttpWitnessDoor) -> WitnessAnswer:
    seen.clear()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head + await reader.readexactly(7))
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await door.add_checkpoint(f"http://127.0.0.1:{port}/prefix/", b"old 0\n\n")


def fixed(data: bytes) -> Answer:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def test_it_posts_what_it_was_given_and_nothing_else(door: HttpWitnessDoor) -> None:
    answer = await served(fixed(b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n7\n"), door)
    assert answer == WitnessAnswer(409, b"7\n")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /prefix/add-checkpoint HTTP/1.1\r\n")
    assert body == b"old 0\n\n"
    assert b"cookie" not in head.lower()
    assert b"authorization" not in head.lower()


async def test_it_follows_nobody(door: HttpWitnessDoor) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    assert (await served(fixed(moved), door)).status == 307
    assert len(seen) == 1


async def test_an_answer_that_does_not_end_is_not_read_to_its_end(door: HttpWitnessDoor) -> None:
    written = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while written < 100_000_000:
            writer.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            written += 0x2000
            await writer.drain()

    with pytest.raises(WitnessUnreachable):
        await served(endless, door)
    assert written < 20_000_000


async def test_a_bomb_is_not_unpacked(door: HttpWitnessDoor) -> None:
    packed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00"
    assert await served(fixed(packed), door) == WitnessAnswer(200, b"\x1f\x8b\x08\x00")


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", b"HTTP/1.1 99999 ?\r\n\r\n"]
)
async def test_what_is_no_answer_is_none(door: HttpWitnessDoor, said: bytes) -> None:
    with pytest.raises(WitnessUnreachable) as failed:
        await served(fixed(said), door)
    assert "short" not in str(failed.value)  # nothing of what the other side sent


async def test_who_is_not_there_is_unreachable(door: HttpWitnessDoor) -> None:
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1", "http://[", "nonsense"):
        with pytest.raises(WitnessUnreachable):
            await door.add_checkpoint(url, b"")


async def test_a_witness_by_https_is_believed_by_its_certificate_alone(door: HttpWitnessDoor, tmp_path: Path) -> None:
    files = server_certificate(tmp_path / "tls", ["127.0.0.1"], now=datetime.now(UTC))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.certificate, files.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\nconnection: close\r\n\r\n7\n")
        await writer.drain()
        writer.close()

    trusting = HttpWitnessDoor(files.authority)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(WitnessUnreachable):
            await door.add_checkpoint(url, b"")
        assert await trusting.add_checkpoint(url, b"") == WitnessAnswer(409, b"7\n")
        await trusting.close()
