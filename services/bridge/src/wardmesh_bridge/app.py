"""Puts the bridge together. Everything that is constructed, is constructed here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from wardmesh.server import pulling, streams
from wardmesh.server.fetching import Fetcher, FetchLimits
from wardmesh.server.kek import LocalKey
from wardmesh.server.runtime import Runtime
from wardmesh.server.settings import read_key, read_seed
from wardmesh_bridge import handlers
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.delivery import Deliverer
from wardmesh_bridge.service import BridgeService
from wardmesh_bridge.settings import Settings
from wardmesh_bridge.store import PostgresStore
from wardmesh_bridge.subscriber import verifying_broker


@asynccontextmanager
async def build(runtime: Runtime, settings: Settings) -> AsyncIterator[None]:
    """The service, for as long as the block runs."""
    for stream in (streams.BRIDGE, streams.INBOX):
        await runtime.messaging.expect_stream(stream, replicas=settings.stream_replicas)
    keys = AgreementKeys(LocalKey(read_key(settings.key_file)))
    store = PostgresStore(runtime.database, runtime.outbox, runtime.audit_outbox)
    inbox = Fetcher(runtime.messaging.nats, streams.INBOX, FetchLimits(forget_after=streams.INBOX_MAX_AGE))
    handlers.bind(runtime.operations, BridgeService(store, keys, inbox, _now))

    stopping = False

    def closed() -> None:
        if not stopping:
            runtime.fail("the verifier's connection to the broker is closed")

    broker = verifying_broker(
        settings.nats_servers(),
        seed=read_seed(settings.nats_seed_file),
        deliver=Deliverer(store, keys, _now).deliver,
        closed=closed,
        ca_file=settings.nats_ca_file,
    )
    pulled = await pulling.start(broker, lost=lambda: runtime.fail("the verifier's consumer does not answer"))
    runtime.on_stop(inbox.close)
    try:
        yield
    finally:
        stopping = True
        await pulled.stop()  # gives back what is behind the messages in hand


def _now() -> datetime:
    return datetime.now(UTC)
