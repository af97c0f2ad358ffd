"""Puts the log together. Everything that is constructed, is constructed here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime

from wardmesh.contracts.audit import HTTPS, SYSLOG_TCP, SYSLOG_TLS
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.server import pulling, streams
from wardmesh.server.runtime import Runtime
from wardmesh.server.settings import read_key, read_seed
from wardmesh_audit import handlers
from wardmesh_audit.alarm import ForkAlarm
from wardmesh_audit.backlog import StreamBacklog
from wardmesh_audit.cosigning import Cosigning
from wardmesh_audit.dead_letters import DeadLetterService
from wardmesh_audit.erasing import ErasingService
from wardmesh_audit.forward_vault import ForwardVault
from wardmesh_audit.forwarders import ForwarderService
from wardmesh_audit.forwarding import Forwarding, Timing
from wardmesh_audit.letter_box import StreamLetters
from wardmesh_audit.letters import Letters
from wardmesh_audit.outward import Outward
from wardmesh_audit.outward_tls import OutwardTls
from wardmesh_audit.proving import Prover
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.retention import RetentionService
from wardmesh_audit.sealer import Sealer
from wardmesh_audit.sending import HttpSender, Senders
from wardmesh_audit.sending_syslog import SyslogSender
from wardmesh_audit.service import AuditService
from wardmesh_audit.settings import Settings
from wardmesh_audit.signing import BucketMemory, LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_forwarding import PostgresForwarding
from wardmesh_audit.store_people import PostgresPeople
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_audit.store_witness import PostgresCosignatures, PostgresWitnessed
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_audit.subjects import Subjects
from wardmesh_audit.subscriber import sealing_broker
from wardmesh_audit.tiles import TileReader
from wardmesh_audit.wakeups import NatsWakeups
from wardmesh_audit.witness_client import HttpWitnessDoor
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnessed_logs import LogsFile
from wardmesh_audit.witnesses import WitnessList
from wardmesh_audit.witnessing import WitnessService


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
    people = PostgresPeople(runtime.database, runtime.audit_outbox)
    await people.expect_folder(keys.folder_id)
    subjects = Subjects(keys)
    store = PostgresStore(runtime.database)
    wakeups = NatsWakeups(messaging.nats)
    service = AuditService(store, runtime.audit, _now, subjects, people)
    reading = ReadingService(store, PostgresReading(runtime.database), wakeups, subjects, people)
    alarm = ForkAlarm(runtime.audit, _now)
    runtime.health.warn("log", alarm.degraded)
    policy, kept, asking = _policy(settings), PostgresCosignatures(runtime.database), AsyncExitStack()
    cosigning = None
    if policy.witnesses:
        door = HttpWitnessDoor(settings.audit_witness_ca_file)
        asking.push_async_callback(door.close)
        cosigning = Cosigning(policy, store, kept, door, memory, alarm, _now)
        asking.push_async_callback(cosigning.close)
        runtime.health.warn("witnesses", cosigning.degraded)
    prover = Prover(store, wakeups, signer, memory, alarm, subjects, cosigning)
    witness_signer, logs = _witness(settings)
    witness = WitnessService(PostgresWitnessed(runtime.database), witness_signer, logs, memory, runtime.audit, _now)
    handlers.bind_witness(runtime.operations, witness, WitnessList(policy, kept, witness_signer))
    keeping = PostgresRetention(runtime.database, runtime.audit_outbox)
    letters = Letters(keys)
    erasing = ErasingService(people, keys, letters, prover, signer, StreamBacklog(messaging.jetstream), _now)
    retention = RetentionService(keeping, subjects)
    handlers.bind(runtime.operations, service, reading, prover, TileReader(store), retention, erasing)
    handlers.bind_letters(runtime.operations, DeadLetterService(StreamLetters(messaging.jetstream), letters))
    forwarding = asking.enter_context(_forwarding(runtime, settings, reading, subjects))
    runtime.on_stop(reading.end_tails)
    runtime.on_stop(prover.end_waits)

    async def closed() -> None:
        if not stopping:
            runtime.fail("the sealer's connection to the broker is closed")

    stopping = False
    sealer = Sealer(store, messaging, runtime.audit, subjects, letters)
    broker = sealing_broker(
        settings.nats_servers(),
        seed=read_seed(settings.nats_seed_file),
        seal=sealer.take,
        ca_file=settings.nats_ca_file,
        closed=closed,
    )
    pulled = await pulling.start(broker, lost=lambda: runtime.fail("the sealer's consumer does not answer"))
    runtime.background("pruning", Pruner(keeping, _now).run)
    runtime.background("forwarding", forwarding.run)
    try:
        yield
    finally:
        stopping = True
        await forwarding.stop()  # finishes the batches in hand
        await pulled.stop(sealer.finish)  # gives back what is behind the batches in hand
        await asking.aclose()


@contextmanager
def _forwarding(
    runtime: Runtime, settings: Settings, reading: ReadingService, subjects: Subjects
) -> Iterator[Forwarding]:
    """What sends logs on, for as long as the block runs; and its operations."""
    vault, seconds = ForwardVault(read_key(settings.key_file)), settings.audit_forward_seconds
    outward = Outward(settings.forward_networks())
    tls = OutwardTls(settings.audit_forward_ca_file)
    syslog = SyslogSender(outward, tls, seconds=seconds)
    sender = Senders({HTTPS: HttpSender(outward, tls, seconds=seconds), SYSLOG_TLS: syslog, SYSLOG_TCP: syslog})
    store = PostgresForwarding(runtime.database, runtime.audit_outbox)
    handlers.bind_forwarders(runtime.operations, ForwarderService(store, reading, sender, vault, subjects, _now))
    try:
        yield Forwarding(store, reading, sender, vault, _now, timing=Timing(batch=seconds))
    finally:
        syslog.close()
        outward.close()


def _policy(settings: Settings) -> Policy:
    """Return whom our logs are cosigned by; nobody, unless a file says so."""
    path = settings.audit_witness_policy_file
    if path is None:
        return Policy()
    try:
        return Policy.parse(path.read_bytes())
    except CryptoError as error:
        raise ValueError(f"{path}: {error}") from error


def _witness(settings: Settings) -> tuple[WitnessSigner | None, LogsFile | None]:
    """Return what cosigns other people's logs, and which; nothing, unless files say so."""
    path, key = settings.audit_witnessed_logs_file, settings.audit_witness_key_file
    if path is None and key is None:
        return None, None
    if path is None or key is None:
        raise ValueError("a witness needs both a list of logs and a key")
    logs = LogsFile(path)
    return WitnessSigner.from_files(settings.witness_name, key, settings.audit_witness_mldsa_key_file), logs


def _now() -> datetime:
    return datetime.now(UTC)
