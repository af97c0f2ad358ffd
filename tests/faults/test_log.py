"""The log alone, under load: kill -9 of sealers, broker and database; a broker and a database that went back in time.

Every acknowledged event is in the log exactly once, every proof verifies, exports are sound, and no fork is signed.
A round takes a few seconds, so there are `LOG_ROUNDS_EACH` for one of the whole mesh's: 200 in `make faults`.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.faults.log_load import Emitter, Reader, World, check_log, make_consumer, sealing_world

from wardmesh.ids import OrgId
from wardmesh.server.broker import PROVISIONER
from wardmesh.server.publishing import AuditPublisher
from wardmesh.server.settings import read_seed
from wardmesh_audit.alarm import ACTION
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import decode_leaf
from wardmesh_audit.errors import SigningRefused
from wardmesh_cli.embedded.mesh import declare_streams

VICTIMS: Final = ("sealer-0", "sealer-1", "nats", "postgres")
MAX_KILLS: Final = 3
LOGS: Final = 2
TOTALS: Final = dict.fromkeys(("rounds", "kills", "acknowledged", "entries", "emitted twice", "refused"), 0)


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    async with sealing_world() as running:
        yield running
    print("; ".join(f"{count} {what}" for what, count in TOTALS.items()))


@asynccontextmanager
async def emitting(world: World) -> AsyncIterator[AuditPublisher]:
    publisher = AuditPublisher(world.messaging, "audit")
    publisher.start()
    yield publisher
    await publisher.stop()


@pytest.mark.slow
async def test_what_was_acknowledged_is_in_the_log_once(world: World, log_seed: int, tmp_path: Path) -> None:
    rng = random.Random(log_seed)
    emitters = [Emitter(world, random.Random(rng.random())) for _ in range(LOGS)]
    until = asyncio.Event()
    victims = rng.sample(VICTIMS, rng.randint(1, MAX_KILLS))
    async with emitting(world) as publisher, asyncio.TaskGroup() as load:
        for emitter in emitters:
            load.create_task(emitter.run(publisher, until))
        for victim in victims:
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            world.kill(victim)
        await asyncio.sleep(rng.uniform(0.05, 0.6))
        until.set()
        await world.all_back()
    await world.settled()
    for emitter in emitters:
        TOTALS["entries"] += await check_log(world, emitter, tmp_path / "export")
        TOTALS["acknowledged"] += len(emitter.acknowledged)
        TOTALS["emitted twice"] += emitter.repeated
        TOTALS["refused"] += emitter.refused
    TOTALS["rounds"] += 1
    TOTALS["kills"] += len(victims)


@asynccontextmanager
async def without_sealers(world: World) -> AsyncIterator[None]:
    await asyncio.gather(*(world.sealers[name].stop() for name in VICTIMS[:2]))
    yield
    await asyncio.gather(*(world.sealers[name].start() for name in VICTIMS[:2]))


@asynccontextmanager
async def stopped(world: World, server: str) -> AsyncIterator[None]:
    await world.mesh._running[server].stop()
    yield
    await world.mesh._running[server].start()


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def put_back(source: Path, target: Path) -> None:
    shutil.rmtree(target)
    copy(source, target)


async def sequence(world: World) -> int:
    return (await world.messaging.jetstream.stream_info("AUDIT")).state.last_seq


async def test_a_broker_that_went_back_in_time_gives_out_its_numbers_twice(world: World, tmp_path: Path) -> None:
    """An older store: what was sealed comes again, and what is new has the sequence numbers of other events."""
    emitter = Emitter(world, random.Random(1))
    store = world.mesh.layout.jetstream
    async with emitting(world) as publisher:
        async with without_sealers(world):
            await emitter.emit(publisher, 20)  # waits in the stream
            async with stopped(world, "nats"):
                copy(store, tmp_path / "older")
        await emitter.emit(publisher, 30)
        await world.settled()
        await Reader(world, emitter.scope).checkpoint()
        before = await sequence(world)
        async with without_sealers(world):
            async with stopped(world, "nats"):
                put_back(tmp_path / "older", store)
            assert await sequence(world) < before
            for _ in range(5):
                await emitter.emit(publisher, 10)
            assert await sequence(world) >= before
        await world.settled()
    assert await check_log(world, emitter, tmp_path / "export") == 100


async def test_a_broker_that_lost_everything_begins_again_at_one(world: World, tmp_path: Path) -> None:
    emitter = Emitter(world, random.Random(2))
    async with emitting(world) as publisher:
        await emitter.emit(publisher, 30)
        await world.settled()
        await Reader(world, emitter.scope).checkpoint()
        async with without_sealers(world):
            async with stopped(world, "nats"):
                shutil.rmtree(world.mesh.layout.jetstream)
                world.mesh.layout.jetstream.mkdir()
            seed = read_seed(world.mesh.layout.identities.seed_file(PROVISIONER))
            await declare_streams(world.mesh.nats_url, seed, None)
            await make_consumer(world.messaging)
            assert await sequence(world) == 0
            await emitter.emit(publisher, 30)
        await world.settled()
    assert await check_log(world, emitter, tmp_path / "export") == 60


async def test_a_database_that_went_back_in_time_is_not_signed(world: World, tmp_path: Path) -> None:
    """What was sealed after the copy is gone from the log, and from the stream: nothing brings it back by itself.

    So no head of this log is signed any more, however long it becomes, and whoever asks is told so. With the newer
    database back, it goes on where it was.
    """
    emitter = Emitter(world, random.Random(3))
    folder = world.mesh.layout.postgres
    async with emitting(world) as publisher:
        await emitter.emit(publisher, 40)
        await world.settled()
        async with without_sealers(world), stopped(world, "postgres"):
            copy(folder, tmp_path / "older")
        await emitter.emit(publisher, 40)
        await world.settled()
        reader = Reader(world, emitter.scope, publisher)
        assert (await reader.checkpoint()).size == 80
        async with without_sealers(world), stopped(world, "postgres"):
            copy(folder, tmp_path / "newer")
            put_back(tmp_path / "older", folder)
        assert (await world.store.head(the_log(emitter.scope))).size == 40
        with pytest.raises(SigningRefused):
            await reader.checkpoint()
        assert reader.alarm.degraded() is not None
        await world.settled()
        (told,) = await world.store.leaves(the_log(OrgId.nil()), start=0, end=9)  # sealing goes on, also of this
        assert (event := decode_leaf(told).event).action == ACTION
        assert event.targets == (emitter.scope,)

        forked = Emitter(world, random.Random(4), scope=emitter.scope)
        await forked.emit(publisher, 60)
        await world.settled()
        assert (await world.store.head(the_log(emitter.scope))).size == 100
        with pytest.raises(SigningRefused):
            await reader.checkpoint()

        async with without_sealers(world), stopped(world, "postgres"):
            put_back(tmp_path / "newer", folder)
        await emitter.emit(publisher, 10)
        await world.settled()
        assert (await reader.checkpoint()).size == 90
        assert reader.alarm.degraded() is None
    assert await check_log(world, emitter, tmp_path / "export") == 90
