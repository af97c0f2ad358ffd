"""Puts the webhooks service together. Everything that is constructed, is constructed here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from wardmesh.server.fetching import Fetcher
from wardmesh.server.http import serving
from wardmesh.server.runtime import Runtime
from wardmesh.server.settings import read_key
from wardmesh_webhooks import handlers, ingest
from wardmesh_webhooks.door import Door
from wardmesh_webhooks.service import WebhookService
from wardmesh_webhooks.settings import Settings
from wardmesh_webhooks.store import PostgresStore
from wardmesh_webhooks.stream import EVENTS, FETCH_LIMITS
from wardmesh_webhooks.vault import SecretVault


@asynccontextmanager
async def build(runtime: Runtime, settings: Settings) -> AsyncIterator[None]:
    """The service, for as long as the block runs."""
    await runtime.messaging.expect_stream(EVENTS, replicas=settings.stream_replicas)
    store = PostgresStore(runtime.database, runtime.outbox, runtime.audit_outbox)
    vault = SecretVault(read_key(settings.key_file))
    fetcher = Fetcher(runtime.messaging.nats, EVENTS, FETCH_LIMITS)
    handlers.bind(runtime.operations, WebhookService(store, vault, runtime.messaging, fetcher, _now))
    door = ingest.application(Door(store, vault, runtime.audit, _now))
    runtime.on_stop(fetcher.close)
    async with serving(door, settings.webhooks_http_host, settings.webhooks_http_port):
        yield


def _now() -> datetime:
    return datetime.now(UTC)
