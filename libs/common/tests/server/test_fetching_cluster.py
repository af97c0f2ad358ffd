"""Long polls on a replicated stream, which keep other times than those on a single server."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from wardmesh.ids import ServiceId, WorkspaceId
from wardmesh.server.fetching import Fetcher, FetchLimits, consumer_name

STREAM = "EVENTS"
NODES = 3
START_SECONDS = 30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    assert program is not None
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2 * NODES)]
        ports = [each.getsockname()[1] for each in sockets]
    clients, routes = ports[:NODES], ports[NODES:]
    running = []
    for number in range(NODES):
        folder = tmp_path_factory.mktemp(f"node-{number}")
        (folder / "nats.conf").write_text(
            json.dumps(
                {
                    "server_name": f"node-{number}",
                    "listen": f"127.0.0.1:{clients[number]}",
                    "jetstream": {"store_dir": str(folder / "js"), "sync_interval": "always"},
                    "cluster": {
                        "name": "test",
                        "listen": f"127.0.0.1:{routes[number]}",
                        "routes": [f"nats://127.0.0.1:{port}" for port in routes],
                    },
                }
            )
        )
        command = [program, "--config", folder / "nats.conf", "--log", folder / "nats.log"]
        running.append(subprocess.Popen(command))
    yield [f"nats://127.0.0.1:{port}" for port in clients]
    for process in running:
        process.terminate()
    for process in running:
        process.wait(START_SECONDS)


@pytest.fixture
async def client(cluster: list[str]) -> AsyncIterator[Client]:
    async def quiet(_: Exception) -> None:
        pass

    client = await nats.connect(cluster, max_reconnect_attempts=-1, error_cb=quiet)
    async with asyncio.timeout(START_SECONDS):
        while True:  # until there is a leader
            with suppress(nats.errors.Error, nats.js.errors.Error):
                await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=["evt.>"], num_replicas=NODES))
                break
            await asyncio.sleep(0.1)
    yield client
    await client.close()


@pytest.mark.parametrize("batch", [1, 3])
async def test_a_full_batch_is_waited_for_though_its_end_is_said_first(client: Client, batch: int) -> None:
    """A message waits until a second node has noted its delivery; "batch completed" overtakes it."""
    workspace, polls = WorkspaceId.new(), 10
    bodies = [str(number).encode() for number in range(batch * polls)]
    for body in bodies:
        await client.jetstream().publish(f"evt.{workspace}.stripe.paid", body)
    fetcher = Fetcher(client, STREAM, FetchLimits(forget_after=timedelta(days=7)))
    received: list[bytes] = []
    acks: list[str] = []
    for _ in range(polls):
        deliveries = await fetcher.fetch(
            consumer=consumer_name(workspace, ServiceId.nil(), "billing"),
            filter_subject=f"evt.{workspace}.stripe.>",
            batch=batch,
            wait_seconds=5,
            acks=acks,
        )
        assert len(deliveries) == batch
        received += [delivery.data for delivery in deliveries]
        acks = [delivery.ack for delivery in deliveries]
    assert received == bodies
