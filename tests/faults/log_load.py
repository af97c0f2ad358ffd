"""A log under load, without the rest of the mesh: what was acknowledged to an emitter, and what is then in the log."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import nats.errors
import nats.js.errors
from benchmarks.log_events import make_event, make_people
from benchmarks.log_world import broker_as_audit, log_world, sealers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.js.api import AckPolicy, ConsumerConfig

from wardmesh.audit_export import export_log, verify_export
from wardmesh.contracts.audit import AuditEvent, Checkpoint, Leaves
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tiles import TILE_WIDTH, Tile, decode_tile
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.errors import UnavailableError
from wardmesh.ids import Scope, WorkspaceId
from wardmesh.server.database import Database
from wardmesh.server.messaging import Messaging
from wardmesh.server.publishing import AuditPublisher
from wardmesh.server.streams import AUDIT
from wardmesh_audit.alarm import ForkAlarm
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import Stored, decode_leaf
from wardmesh_audit.proofs import inclusion_tiles, prove_inclusion
from wardmesh_audit.proving import Prover
from wardmesh_audit.signing import BucketMemory, LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_audit.subjects import Subjects
from wardmesh_audit.subscriber import CONSUMER
from wardmesh_audit.wakeups import NatsWakeups
from wardmesh_cli.embedded.errors import ProcessFailed
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.supervisor import Supervisor

SEALERS: Final = 2
ACK_WAIT_SECONDS: Final = 2.0
"""Instead of the 30 s of production: what a killed sealer had in hand comes again within a round."""
SETTLE_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.05
START_ATTEMPTS: Final = 20
START_WAIT_SECONDS: Final = 0.25
"""A database refuses to start while processes of the one that was killed are still on their way out."""
AGAIN: Final = 0.15
"""The share of what was acknowledged that is emitted a second time: emitters whose answer was lost do so."""
PROVEN: Final = 8
"""Entries of a log whose proofs are made and verified after each round."""


@dataclass
class World:
    """The servers, two sealers, and a connection as an emitter and as a reader."""

    mesh: EmbeddedMesh
    sealers: Supervisor
    messaging: Messaging
    database: Database
    signer: LogSigner
    _restarts: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def store(self) -> PostgresStore:
        return PostgresStore(self.database)

    def kill(self, victim: str) -> None:
        """Kill a process as a crash would, and start it again at once: without the pause that grows with each death."""
        runner = self.sealers if victim.startswith("sealer") else self.mesh
        runner.kill(victim)
        self._restarts.append(asyncio.create_task(start_again(runner, victim)))

    async def all_back(self) -> None:
        restarts, self._restarts = self._restarts, []
        await asyncio.gather(*restarts)

    async def settled(self) -> None:
        """Wait until nothing is left to be sealed."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                try:
                    if (await self.messaging.jetstream.stream_info(AUDIT)).state.messages == 0:
                        return
                except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
                    pass  # the broker is on its way back
                await asyncio.sleep(RETRY_SECONDS)


async def start_again(runner: Supervisor | EmbeddedMesh, victim: str) -> None:
    for left in reversed(range(START_ATTEMPTS)):
        try:
            await runner.restart(victim)
        except ProcessFailed:
            if not left:
                raise
            await asyncio.sleep(START_WAIT_SECONDS)
        else:
            return


@asynccontextmanager
async def sealing_world() -> AsyncIterator[World]:
    async with log_world() as mesh, broker_as_audit(mesh) as messaging:
        await make_consumer(messaging)
        database = Database(mesh.database_url("wardmesh_audit"), application="faults")
        async with database, sealers(mesh, SEALERS) as running:
            signer = LogSigner("wardmesh.test", Ed25519PrivateKey.generate())
            yield World(mesh, running, messaging, database, signer)


async def make_consumer(messaging: Messaging) -> None:
    """Make the sealers' consumer before they do; they take the one that is there."""
    config = ConsumerConfig(
        durable_name=CONSUMER, filter_subject="audit.>", ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1, max_ack_pending=-1,
    )  # fmt: skip
    await messaging.jetstream.add_consumer(AUDIT, config)


@dataclass
class Emitter:
    """Emits into one log as several callers do, and remembers what it was told."""

    world: World
    rng: random.Random
    scope: WorkspaceId = field(default_factory=WorkspaceId.new)
    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    repeated: int = 0
    refused: int = 0

    async def run(self, publisher: AuditPublisher, until: asyncio.Event, callers: int = 4) -> None:
        await asyncio.gather(*(self._call(publisher, until) for _ in range(callers)))

    async def emit(self, publisher: AuditPublisher, count: int) -> list[AuditEvent]:
        """Emit events until they are acknowledged, again and again if need be."""
        people = make_people()
        events = [make_event(self.rng, people) for _ in range(count)]
        self.tried.update(event.id for event in events)
        while True:
            try:
                await publisher.emit(self.scope, events)
            except UnavailableError:
                self.refused += 1
                await asyncio.sleep(RETRY_SECONDS)
                self.rng.shuffle(events)  # in another order, and part of it may be in the stream already
            else:
                self.acknowledged.update(event.id for event in events)
                return events

    async def _call(self, publisher: AuditPublisher, until: asyncio.Event) -> None:
        while not until.is_set():
            events = await self.emit(publisher, self.rng.randint(1, 20))
            if self.rng.random() < AGAIN:
                self.repeated += 1
                try:
                    await publisher.emit(self.scope, reversed(events))
                except UnavailableError:
                    self.refused += 1
            await asyncio.sleep(self.rng.random() / 100)


async def check_log(world: World, emitter: Emitter, folder: Path) -> int:
    """Return how many entries the log has; every acknowledged event is in it once, and every proof verifies."""
    scope, store = emitter.scope, world.store
    reader = Reader(world, scope)
    size = (await store.head(the_log(scope))).size
    leaves = await reader.all(size)
    ids = Counter(decode_leaf(Stored(index, leaf)).event.id for index, leaf in enumerate(leaves))
    assert not [event for event, count in ids.items() if count > 1]
    assert not emitter.acknowledged - ids.keys(), "acknowledged, and not in the log"
    assert not ids.keys() - emitter.tried, "in the log, and never emitted"

    head = await store.head(the_log(scope))
    assert head.size == size
    async with store.publication(scope, limit=1) as publication:
        assert publication.published_size == size
    for index in emitter.rng.sample(range(size), min(PROVEN, size)):
        tiles = await store.tiles(the_log(scope), inclusion_tiles(index, size))
        verify_inclusion(index, size, leaf_hash(leaves[index]), prove_inclusion(index, size, tiles), head.root)
    try:
        await export_log(reader, folder)
        report = verify_export(folder, world.signer.verifier_key(scope))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert report.is_sound, str(report)
    assert report.size == size
    return size


class Reader:
    """A log as an export reads it; its checkpoints are signed as the service signs them."""

    def __init__(self, world: World, scope: Scope, publisher: AuditPublisher | None = None) -> None:
        self._world = world
        self._store = world.store
        self._scope = scope
        self.alarm = ForkAlarm(publisher or AuditPublisher(world.messaging, "audit"), lambda: datetime.now(UTC))

    async def checkpoint(self) -> Checkpoint:
        """Sign the head; raise `SigningRefused` if that would fork the log."""
        messaging = self._world.messaging
        memory = await BucketMemory.open(messaging.jetstream)
        subjects = Subjects(KeyFolder.open(self._world.mesh.layout.subject_keys))
        prover = Prover(self._store, NatsWakeups(messaging.nats), self._world.signer, memory, self.alarm, subjects)
        signed = await prover._signed(self._scope, the_log(self._scope))
        key = self._world.signer.verifier_key(self._scope)
        return Checkpoint(note=signed.note.decode(), verifier_key=key, size=signed.size)

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        found = await self._store.leaves(the_log(self._scope), start=start, end=start + limit)
        size = (await self._store.head(the_log(self._scope))).size
        first, last = start // TILE_WIDTH, (start + len(found) - 1) // TILE_WIDTH
        tiles = [Tile.at(0, index, size) for index in range(first, last + 1)]
        contents = await self._store.tiles(the_log(self._scope), tiles)
        hashes = [value for tile in tiles for value in decode_tile(contents[tile], width=tile.width)]
        begin = start - first * TILE_WIDTH
        return Leaves(leaves=tuple(one.leaf for one in found), hashes=tuple(hashes[begin : begin + len(found)]))

    async def all(self, size: int) -> list[bytes]:
        leaves: list[bytes] = []
        while len(leaves) < size:
            page = await self._store.leaves(the_log(self._scope), start=len(leaves), end=size)
            assert page, f"entry {len(leaves)} of {size} is missing"
            leaves += [stored.leaf for stored in page]
        return leaves
