"""The broker's protocol by hand: what no client library would let us send, and every word of the answer.

Also a mesh with two users that only listen, to everything: one in the account of the callers, one in that of the
streams. What they have not heard, nobody could have.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.server.broker import ACCOUNT, STREAMS_ACCOUNT
from wardmesh.server.nkey import Kind, new_seed, public_key
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import BrokerConfig
from wardmesh_cli.embedded.mesh import EmbeddedMesh

ANSWER_SECONDS: Final = 10.0
_VIOLATION = re.compile(r"Permissions Violation for (Publish|Subscription|Publish with Reply)(?: to| of) \"([^\"]*)\"")


@dataclass
class Wire:
    """One connection, and what the broker refused on it since it was last asked."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    errors: list[str] = field(default_factory=list)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    _sid: int = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, user: str, password: str) -> AsyncIterator[Self]:
        """Connect as a client does; pedantic or echo-less modes are not asked for."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        wire = cls(reader, writer)
        options = {"user": user, "pass": password, "verbose": False, "headers": True, "no_responders": True}
        writer.write(f"CONNECT {json.dumps(options)}\r\n".encode())
        try:
            await wire.settle()
            yield wire
        finally:
            writer.close()
            await writer.wait_closed()

    def publish(
        self, subject: str, body: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        head = b""
        if headers:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
        sizes = f"{len(head)} {len(head) + len(body)}" if head else f"{len(body)}"
        words = " ".join(word for word in ("HPUB" if head else "PUB", subject, reply, sizes) if word)
        self.writer.write(words.encode() + b"\r\n" + head + body + b"\r\n")

    def subscribe(self, subject: str, queue: str = "") -> None:
        self._sid += 1
        self.writer.write(" ".join(word for word in ("SUB", subject, queue, str(self._sid)) if word).encode() + b"\r\n")

    async def settle(self) -> None:
        """Return when the broker has taken notice of everything that was written."""
        self.writer.write(b"PING\r\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            while (line := await self._read()) != "PONG":
                if line.startswith("-ERR"):
                    self.errors.append(line)
                if line == "":
                    raise ConnectionError(f"the broker hung up: {self.errors}")

    async def refused(self) -> set[tuple[str, str]]:
        """Return what the broker has refused since the last time: what to do, and the subject."""
        await self.settle()
        errors, self.errors = self.errors, []
        # What is no subject at all is said to be none, and then refused like any other.
        found = {error: _VIOLATION.search(error) for error in errors if error != "-ERR 'Invalid Publish Subject'"}
        unread = [error for error, match in found.items() if match is None]
        assert unread == [], unread[:3]
        return {(match[1], match[2]) for match in found.values() if match}

    async def until(self, count: int) -> list[tuple[str, bytes]]:
        """Return the messages that came, once there are `count` or `ANSWER_SECONDS` are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(self.messages) < count:
                    line = await self._read()
                    if line.startswith("-ERR"):
                        self.errors.append(line)
        messages, self.messages = self.messages, []
        return messages

    async def _read(self) -> str:
        """Read one line; take a message off the wire if it is one, and answer the broker's pings."""
        line = (await self.reader.readline()).decode().strip()
        if line == "PING":
            self.writer.write(b"PONG\r\n")
        elif line.startswith(("MSG ", "HMSG ")):
            words = line.split(" ")
            payload = await self.reader.readexactly(int(words[-1]) + 2)
            head = int(words[-2]) if words[0] == "HMSG" else 0
            self.messages.append((words[1], payload[head:-2]))
        return line


@dataclass
class Observer:
    """Hears everything in one account. Sees what was published, wherever it lands."""

    client: Client
    heard: list[Msg] = field(default_factory=list)

    async def settled(self) -> list[Msg]:
        """Return what was heard by now."""
        await self.client.flush()
        await asyncio.sleep(0.3)
        return list(self.heard)


@dataclass
class Watched:
    """A mesh with observers."""

    mesh: EmbeddedMesh
    callers: Observer
    streams: Observer

    def forget(self) -> None:
        self.callers.heard.clear()
        self.streams.heard.clear()


@asynccontextmanager
async def watched_mesh(folder: Path) -> AsyncIterator[Watched]:
    """A whole mesh as it is, but for the two observers in its broker's configuration."""
    seeds = {account: new_seed(Kind.USER) for account in (ACCOUNT, STREAMS_ACCOUNT)}
    rendered = broker.render

    def with_observers(config: BrokerConfig) -> str:
        document = json.loads(rendered(config))
        for account, seed in seeds.items():
            key = public_key(Kind.USER, seed)
            only_listens = {"publish": {"deny": [">"]}, "subscribe": {"allow": [">"]}}
            document["accounts"][account]["users"].append({"nkey": key, "permissions": only_listens})
            document["authorization"]["auth_callout"]["auth_users"].append(key)
        return json.dumps(document)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "render", with_observers)
        mesh = EmbeddedMesh(data_dir=folder)
        await mesh.start()
    try:
        observers = {account: await _observer(mesh, seed) for account, seed in seeds.items()}
        yield Watched(mesh, observers[ACCOUNT], observers[STREAMS_ACCOUNT])
        for observer in observers.values():
            await observer.client.close()
    finally:
        await mesh.stop()


async def _observer(mesh: EmbeddedMesh, seed: str) -> Observer:
    observer = Observer(await nats.connect(mesh.nats_url, nkeys_seed_str=seed, allow_reconnect=False))

    async def hear(message: Msg) -> None:
        observer.heard.append(message)

    await observer.client.subscribe(">", cb=hear)
    await observer.client.flush()
    return observer
