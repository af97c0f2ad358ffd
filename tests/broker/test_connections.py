"""Finding and dropping live connections, on one server and across a cluster, without having kept a list."""

from __future__ import annotations

import asyncio
import time

import pytest
from nats.errors import Error
from tests.broker.conftest import WAIT_SECONDS, RunningBroker

from wardmesh.ids import UserId, WorkspaceId
from wardmesh_auth.connections import Connections
from wardmesh_cli.embedded.broker import SYSTEM_USER


async def test_a_principals_connections_are_found_and_dropped_and_nobody_elses(mesh_broker: RunningBroker) -> None:
    connections = Connections(await mesh_broker.static(SYSTEM_USER))
    principal = UserId.new()
    callers = [await mesh_broker.caller(principal=principal) for _ in range(3)]
    bystander = await mesh_broker.caller(callers[0].scope)
    assert len(await connections.find(principal)) == 3

    mesh_broker.denied.add(principal)
    began = time.monotonic()
    dropping = asyncio.create_task(connections.drop(principal))
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(caller.closed.wait() for caller in callers))
    elapsed = time.monotonic() - began
    assert await dropping == 3
    assert elapsed < 1, elapsed
    assert await connections.find(principal) == []
    assert bystander.connection.is_connected
    with pytest.raises(Error, match="Authorization Violation"):
        await mesh_broker.caller(principal=principal)


async def test_who_still_has_a_good_credential_comes_back(mesh_broker: RunningBroker) -> None:
    connections = Connections(await mesh_broker.static(SYSTEM_USER))
    caller = await mesh_broker.caller(attempts=10)
    dropping = asyncio.create_task(connections.drop(caller.principal))
    async with asyncio.timeout(WAIT_SECONDS):
        await caller.reconnected.wait()
    dropping.cancel()


async def test_connections_to_every_server_of_a_cluster_are_found(mesh_cluster: RunningBroker) -> None:
    connections = Connections(await mesh_cluster.static(SYSTEM_USER))
    principal, scope = UserId.new(), WorkspaceId.new()
    callers = [await mesh_cluster.caller(scope, principal, url=config.url) for config in mesh_cluster.configs]
    found = await connections.find(principal)
    assert len({connection.server_id for connection in found}) == 3
    mesh_cluster.denied.add(principal)
    assert await connections.drop(principal) == 3
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(caller.closed.wait() for caller in callers))


async def test_nobody_is_found_where_nobody_is(mesh_broker: RunningBroker) -> None:
    connections = Connections(await mesh_broker.static(SYSTEM_USER))
    assert await connections.find(UserId.new()) == []
    assert await connections.drop(UserId.new()) == 0
