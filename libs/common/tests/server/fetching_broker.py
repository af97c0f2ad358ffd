"""A broker that events are fetched from, and a group of readers as their service sees it."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import nats
from nats.aio.client import Client

from wardmesh.ids import ServiceId, WorkspaceId
from wardmesh.server.broker import static_permissions
from wardmesh.server.fetching import (
    Delivery,
    Fetcher,
    FetchLimits,
    consumer_name,
)
from wardmesh.server.nkey import Kind, new_seed, public_key

STREAM = "EVENTS"
ACK_WAIT = timedelta(seconds=1)
LIMITS = FetchLimits(forget_after=timedelta(days=7), ack_wait=ACK_WAIT)
START_SECONDS = 10


class Broker:
    """nats-server with the two users that these tests need: the webhooks service, and one who may do anything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.seed = new_seed(Kind.USER)
        permissions = static_permissions()["webhooks"]
        document = {
            "listen": f"127.0.0.1:{self.port}",
            "jetstream": {"store_dir": str(folder / "js"), "sync_interval": "always"},
            "authorization": {
                "users": [
                    {
                        "nkey": public_key(Kind.USER, self.seed),
                        "permissions": {
                            "publish": {
                                "allow": list(permissions.publish.allow),
                                "deny": list(permissions.publish.deny),
                            },
                            "subscribe": {"allow": list(permissions.subscribe.allow)},
                        },
                    },
                    {"user": "root", "password": "root"},
                ]
            },
        }
        (folder / "nats.conf").write_text(json.dumps(document))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "--config", self._folder / "nats.conf", "--log", self._folder / "nats.log"]
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(START_SECONDS)
            self._process = None

    @asynccontextmanager
    async def as_service(self) -> AsyncIterator[Client]:
        async def quiet(_: Exception) -> None:
            pass

        client = await nats.connect(
            self.url,
            nkeys_seed_str=self.seed,
            inbox_prefix=b"_INBOX.webhooks",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # it sleeps that long; a float does
            error_cb=quiet,
        )
        try:
            yield client
        finally:
            with contextlib.suppress(OSError):  # of the connection before a restart
                await client.close()


class Group:
    """One group as a service sees it, and the events that are for it."""

    def __init__(self, client: Client, limits: FetchLimits = LIMITS, group: str = "billing") -> None:
        self.client = client
        self.fetcher = Fetcher(client, STREAM, limits)
        self.workspace = WorkspaceId.new()
        self.principal = ServiceId.new()
        self.group = group
        self.pattern = "stripe.>"

    @property
    def filter_subject(self) -> str:
        return f"evt.{self.workspace}.{self.pattern}"

    async def publish(self, *bodies: bytes, of_type: str = "stripe.paid") -> None:
        for body in bodies:
            await self.client.jetstream().publish(f"evt.{self.workspace}.{of_type}", body)

    async def fetch(
        self,
        *,
        batch: int = 10,
        wait: float = 0.0,
        acks: list[str] | None = None,
        naks: list[str] | None = None,
        fetcher: Fetcher | None = None,
    ) -> list[Delivery]:
        return await (fetcher or self.fetcher).fetch(
            consumer=consumer_name(self.workspace, self.principal, self.group),
            filter_subject=self.filter_subject,
            batch=batch,
            wait_seconds=wait,
            acks=acks or [],
            naks=naks or [],
        )


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.data for delivery in deliveries]


async def delete_consumers(broker: Broker) -> None:
    """Delete them as an operator would; the service itself may not."""
    root = await nats.connect(broker.url, user="root", password="root")
    jetstream = root.jetstream()
    for consumer in await jetstream.consumers_info(STREAM):
        await jetstream.delete_consumer(STREAM, consumer.name)
    await root.close()
