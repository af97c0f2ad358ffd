"""A service that lost its server while a change was under way can't know what became of it, and must not pretend to.

The database's answer to COMMIT is thrown away, and the broker's acknowledgement of a publish, on real servers. The
caller is told `outcome_unknown`; the client sends again what may be done twice, and nothing else.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.faults.doubting import Cutter
from tests.mesh.world import Tenant, sign_up

from wardmesh.client.mesh import Mesh
from wardmesh.contracts.webhooks import NewEvent
from wardmesh.errors import OutcomeUnknown
from wardmesh.ids import Principal
from wardmesh_cli.embedded.mesh import EmbeddedMesh

COMMIT: Final = b"SET CONSTRAINTS ALL IMMEDIATE"
"""What the last round trip of a transaction begins with."""
COMMITTED: Final = b"COMMIT\0"
STORED: Final = b'"stream":"EVENTS"'
SOCKET: Final = ".s.PGSQL.5432"
RECEIVE_SECONDS: Final = 20.0

ANSWERS: Final = pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])


class CutMesh(EmbeddedMesh):
    """A mesh whose vault reaches its database, and whose webhooks service its broker, through a proxy."""

    sockets: Path
    broker_port: int

    def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
        environment = super().environment(service, health_port=health_port)
        if service == "secrets":
            before, _, _ = environment["WARDMESH_DATABASE_URL"].partition("?")
            environment["WARDMESH_DATABASE_URL"] = f"{before}?host={self.sockets}&port=5432"
        elif service == "webhooks":
            environment["WARDMESH_NATS_URL"] = f"nats://127.0.0.1:{self.broker_port}"
        return environment

    async def reach_database(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = parse_qs(urlsplit(self.database_url()).query)
        return await asyncio.open_unix_connection(f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}")

    async def reach_broker(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = urlsplit(self.nats_url)
        return await asyncio.open_connection(where.hostname, where.port)


@dataclass
class World:
    tenant: Tenant
    database: Cutter
    broker: Cutter
    worker: Principal
    api_key: str


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wm-doubt-")))
        services: Sequence[str] = ("auth", "secrets", "webhooks")
        mesh = CutMesh(data_dir=folder / "data", services=services)
        database, broker = Cutter(mesh.reach_database), Cutter(mesh.reach_broker)
        mesh.sockets = folder
        await stack.enter_async_context(database.listening(folder / SOCKET))
        mesh.broker_port = await stack.enter_async_context(broker.listening())
        await stack.enter_async_context(mesh)
        tenant = await sign_up(mesh, "doubt")
        async with await tenant.connect_as_owner() as owner:
            account = await owner.auth.create_service_account(name="worker", level="admin")
            key = await owner.auth.create_key(principal=account.id, name="worker")
            await owner.secrets.put("first", "so that the vault has its keys")
        yield World(tenant, database, broker, account.id, key.api_key)


@pytest.fixture
async def mesh(world: World) -> AsyncIterator[Mesh]:
    async with world.tenant.connect(world.api_key) as mesh:
        await mesh.secrets.put("warm", "up")
        yield mesh


async def versions(mesh: Mesh, path: str) -> int:
    return sum(info.versions for info in (await mesh.secrets.list(prefix=path)).secrets)


@ANSWERS
async def test_a_commit_in_doubt_is_told_and_not_repeated(world: World, mesh: Mesh, done: bool) -> None:
    path = f"doubt/put-{done}"
    cut = world.database.cut(path.encode(), COMMIT, COMMITTED if done else None)
    with pytest.raises(OutcomeUnknown) as told:
        await mesh.secrets.put(path, "once at the most")
    assert cut.done
    assert cut.repeated == 0
    assert told.value.request_id, "to look it up in the audit log"
    assert await versions(mesh, path) == (1 if done else 0)


@ANSWERS
async def test_a_commit_in_doubt_is_repeated_if_twice_amounts_to_once(world: World, mesh: Mesh, done: bool) -> None:
    pattern = f"doubt/grant-{done}/*"
    cut = world.database.cut(pattern.encode(), COMMIT, COMMITTED if done else None)
    granted = await mesh.secrets.grant(pattern=pattern, principal=world.worker)
    assert cut.done
    assert cut.repeated == 1
    assert (await mesh.secrets.list_grants(principal=world.worker)).grants.count(granted) == 1


async def test_what_was_cut_off_before_its_commit_is_not_in_doubt_and_is_sent_again(world: World, mesh: Mesh) -> None:
    path = "doubt/early"
    cut = world.database.cut(path.encode(), path.encode(), None)
    made = await mesh.secrets.put(path, "once")
    assert cut.done
    assert made.version == await versions(mesh, path) == 1


@ANSWERS
async def test_a_publish_in_doubt_is_told_and_not_repeated(world: World, mesh: Mesh, done: bool) -> None:
    mark = f"told-{done}".lower()
    cut = world.broker.cut(mark.encode(), mark.encode(), STORED if done else None)
    with pytest.raises(OutcomeUnknown):
        await mesh.webhooks.publish(events=(NewEvent(type="doubt.told", data=mark),))
    assert cut.done
    assert cut.repeated == 0
    assert await received(mesh, "app.doubt.told", mark, group=mark) == ([mark] if done else [])


@ANSWERS
async def test_a_publish_in_doubt_is_repeated_under_its_own_id(world: World, mesh: Mesh, done: bool) -> None:
    mark = f"again-{done}".lower()
    cut = world.broker.cut(mark.encode(), mark.encode(), STORED if done else None)
    await mesh.events.publish("doubt.again", mark)
    assert cut.done
    assert cut.repeated == 1
    assert await received(mesh, "app.doubt.again", mark, group=mark) == [mark]


async def test_doubt_has_its_code_by_http_too(world: World) -> None:
    token = (await world.tenant.exchange(world.api_key, world.tenant.workspace))["token"]
    cut = world.broker.cut(b"by-http", b"by-http", STORED)
    url = f"/v1/{world.tenant.workspace}/webhooks/publish"
    answer = await world.tenant.post(url, {"events": [{"type": "doubt.http", "data": "by-http"}]}, token)
    assert cut.done
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert "retry-after" not in answer.headers, "who obeys it would send it again unasked"


async def received(mesh: Mesh, pattern: str, mark: str, *, group: str) -> list[object]:
    """Return what of `mark` is in the stream, all of it: what is published last is received last."""
    await mesh.events.publish(pattern.removeprefix("app."), f"end of {group}")
    found: list[object] = []
    async with asyncio.timeout(RECEIVE_SECONDS), mesh.events.subscribe(pattern, group=group) as events:
        async for event in events:
            async with event:
                if event.data == f"end of {group}":
                    break
                found += [event.data] if event.data == mark else []
    return found
