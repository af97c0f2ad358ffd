"""Puts the log together. Everything that is constructed, is constructed here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from wardmesh.server import pulling, streams
from wardmesh.server.runtime import OutboxAudit, Runtime
from wardmesh.server.settings import read_seed
from wardmesh_audit import handlers
from wardmesh_audit.alarm import ForkAlarm
from wardmesh_audit.erasing import ErasingService
from wardmesh_audit.proving import Prover
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.retention import RetentionService
from wardmesh_audit.sealer import Sealer
from wardmesh_audit.service import AuditService
from wardmesh_audit.settings import Settings
from wardmesh_audit.signing import BucketMemory, LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_people import PostgresPeople
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_audit.subjects import Subjects
from wardmesh_audit.subscriber import sealing_broker
from wardmesh_audit.tiles import TileReader
from wardmesh_audit.wakeups import NatsWakeups


@asynccontextmanager
async def build(runtime: Runtime, settings: Settings) -> AsyncIterator[None]:
    """The service, for as long as the block runs."""
    messaging = runtime.messaging
    signer = LogSigner.from_files(settings.log_name, settings.audit_log_key_file, settings.audit_log_mldsa_key_file)
    for stream in (streams.AUDIT, streams.SEALED, streams.DEAD):
        await messaging.expect_stream(stream, replicas=settings.stream_replicas)
    await messaging.expect_bucket(streams.CHECKPOINTS, replicas=settings.stream_replicas)
    memory = await BucketMemory.open(messaging.jetstream)
    keys = await asyncio.to_thread(KeyFolder.open, settings.audit_subject_keys_dir)
    people = PostgresPeople(runtime.database, OutboxAudit(runtime.outbox))
    await people.expect_folder(keys.folder_id)
    subjects = Subjects(keys)
    store = PostgresStore(runtime.database)
    wakeups = NatsWakeups(messaging.nats)
    service = AuditService(store, runtime.audit, _now, subjects)
    reading = ReadingService(store, PostgresReading(runtime.database), wakeups, subjects, people)
    alarm = ForkAlarm(runtime.audit, _now)
    runtime.health.warn("log", alarm.degraded)
    prover = Prover(store, wakeups, signer, memory, alarm, subjects)
    keeping = PostgresRetention(runtime.database, OutboxAudit(runtime.outbox))
    erasing = ErasingService(people, keys, prover, signer, _now)
    retention = RetentionService(keeping, subjects)
    handlers.bind(runtime.operations, service, reading, prover, TileReader(store), retention, erasing)
    runtime.on_stop(reading.end_tails)
    runtime.on_stop(prover.end_waits)

    async def closed() -> None:
        if not stopping:
            runtime.fail("the sealer's connection to the broker is closed")

    stopping = False
    broker = sealing_broker(
        settings.nats_servers(),
        seed=read_seed(settings.nats_seed_file),
        seal=Sealer(store, messaging, runtime.audit, subjects).seal,
        ca_file=settings.nats_ca_file,
        closed=closed,
    )
    await pulling.start(broker, lost=lambda: runtime.fail("the sealer's consumer does not answer"))
    runtime.background("pruning", Pruner(keeping, _now).run)
    try:
        yield
    finally:
        stopping = True
        await broker.stop()  # finishes the batch in hand


def _now() -> datetime:
    return datetime.now(UTC)
