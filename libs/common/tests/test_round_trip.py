"""What the broker has heard when `heard` returns, on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.round_trip import heard
from wardmesh.testing.bare import nats_server


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with nats_server(tmp_path) as url:
        connection = await nats.connect(url)
        yield connection
        await connection.close()


@pytest.fixture
def written(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The verbs that go to the socket, in their order."""
    verbs: list[bytes] = []
    transport = client._transport
    assert transport is not None
    write, write_lines = transport.write, transport.writelines

    def noting(data: bytes) -> None:
        verbs.append(data.split()[0])
        write(data)

    def noting_lines(lines: Iterable[bytes]) -> None:
        kept = list(lines)
        verbs.extend(line.split()[0] for line in kept)
        write_lines(kept)

    monkeypatch.setattr(transport, "write", noting)
    monkeypatch.setattr(transport, "writelines", noting_lines)
    return verbs


async def ignore(_message: Msg) -> None: ...


async def test_a_flush_overtakes_what_was_put_down_before_it(client: Client, written: list[bytes]) -> None:
    """Once nats-py mends this, `heard` is a flush."""
    await client.subscribe("a.b", cb=ignore)
    await client.flush()
    assert written == [b"PING", b"SUB"]


async def test_what_was_sent_is_asked_about_after_it_is_written(client: Client, written: list[bytes]) -> None:
    await client.subscribe("a.b", cb=ignore)
    await heard(client)
    assert written[-2:] == [b"SUB", b"PING"]
