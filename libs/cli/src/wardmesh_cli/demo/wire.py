"""A client without the client library: a bare NATS connection, to try what the library never would.

What always holds: it connects with nothing but a key, as anybody could. What the server says of a violation is kept in
its own words, and that it said nothing is known only after a round trip through the server.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.crypto.apikey import ApiKey
from wardmesh.ids import Principal
from wardmesh.round_trip import heard
from wardmesh.tls import connect_options
from wardmesh_cli.demo.tour import NotShown

VIOLATION_SECONDS = 2.0


@dataclass
class Bare:
    """A connection, with what the server complained of and when it ended it."""

    client: Client
    principal: Principal
    complaints: list[str] = field(default_factory=list)
    complained: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = 0.0
    """On the clock of `time.monotonic`."""

    async def refused_publish(self, subject: str, *, reply: str = "") -> str:
        """Publish, and return the server's complaint."""
        return await self._complaint(self.client.publish(subject, b"{}", reply=reply), f"publish to {subject}")

    async def refused_subscribe(self, subject: str) -> str:
        """Subscribe, and return the server's complaint."""
        return await self._complaint(self.client.subscribe(subject), f"subscribe to {subject}")

    async def hear(self, subject: str, landed: list[Msg]) -> None:
        """Put what arrives on a subject of one's own into `landed`."""

        async def take(message: Msg) -> None:
            landed.append(message)

        await self.client.subscribe(subject, cb=take)
        await heard(self.client)

    async def _complaint(self, action: object, what: str) -> str:
        self.complaints.clear()
        self.complained.clear()
        await action  # type: ignore[misc]  # a coroutine of nats-py's, whose value does not matter
        await self.client.flush()
        try:
            async with asyncio.timeout(VIOLATION_SECONDS):
                await self.complained.wait()
        except TimeoutError:
            raise NotShown(f"the broker let it {what}") from None
        return self.complaints[-1]


@asynccontextmanager
async def bare(
    url: str, api_key: str, *, user: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Bare]:
    """A bare connection with an API key, while the block runs. `user` asks for another scope than the key's own."""
    key = ApiKey.parse(api_key)
    connection = Bare(Client(), key.principal)

    async def on_error(error: Exception) -> None:
        connection.complaints.append(str(error).removeprefix("nats: "))
        connection.complained.set()

    async def on_end() -> None:
        connection.ended_at = connection.ended_at or time.monotonic()
        connection.ended.set()

    await connection.client.connect(
        url,
        **connect_options(tls, required=tls is not None),
        user=user or str(key.scope),
        password=api_key,
        inbox_prefix=f"_INBOX.{key.principal}",
        name="a bare NATS client",
        allow_reconnect=False,
        error_cb=on_error,
        disconnected_cb=on_end,
        closed_cb=on_end,
        connect_timeout=3,
    )
    try:
        yield connection
    finally:
        await connection.client.close()


async def refused_connect(url: str, api_key: str, *, user: str | None = None, tls: ssl.SSLContext | None = None) -> str:
    """Connect, and return the words in which the broker refuses it."""
    try:
        async with bare(url, api_key, user=user, tls=tls):
            raise NotShown(f"the broker let it connect as {user or 'itself'}")
    except (nats.errors.Error, OSError) as error:
        words = str(error).removeprefix("nats: ")
        if "authorization" not in words.lower():
            raise NotShown(f"the broker did not refuse it, but: {words}") from error
        return words.strip("'")
