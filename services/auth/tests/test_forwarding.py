"""The gateway's side of the broker, with a connection that does what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wardmesh.errors import ConnectionLost
from wardmesh.ids import AgentId, WorkspaceId
from wardmesh.subjects import RpcSubject
from wardmesh_auth.gateway import Gateway


class FakeConnection:
    """Takes what is published. Stands in for `Messaging` and for its client at once."""

    is_connected = True

    def __init__(self) -> None:
        self.published: list[str] = []
        self.cut: list[Callable[[], None]] = []

    @property
    def nats(self) -> FakeConnection:
        return self

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self.cut.append(callback)

    async def subscribe(self, _subject: str, cb: Callable[[Any], Awaitable[None]]) -> None:
        del cb

    async def flush(self, timeout: int = 10) -> None:
        pass

    async def publish(self, subject: str, _body: bytes, **_options: object) -> None:
        self.published.append(subject)


async def test_whoever_waits_when_the_broker_is_lost_hears_of_it_at_once() -> None:
    connection = FakeConnection()
    gateway = Gateway(connection, "instance")  # type: ignore[arg-type]  # it is as much of one as the gateway uses
    await gateway.start()
    subject = RpcSubject("secrets", "list", WorkspaceId.new(), AgentId.new())
    waiting = [asyncio.create_task(gateway.forward(subject, b"{}", {}, seconds=30)) for _ in range(2)]
    while len(connection.published) < len(waiting):
        await asyncio.sleep(0)
    for cut in connection.cut:
        cut()
    async with asyncio.timeout(5):
        for forwarding in waiting:
            with pytest.raises(ConnectionLost):
                await forwarding
