"""The stream EVENTS, which this service owns: every workspace's domain events."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from wardmesh.contracts.webhooks import MAX_EVENT_BYTES
from wardmesh.server.broker import STREAMS
from wardmesh.server.fetching import MAX_FETCH_BYTES, FetchLimits
from wardmesh_webhooks.domain import MAX_WEBHOOK_BYTES

EVENTS: Final = "EVENTS"
EVENTS_MAX_AGE: Final = timedelta(days=7)
"""A reader that was away for a long week-end finds everything."""
DUPLICATE_WINDOW: Final = timedelta(minutes=2)
"""For a publisher that tries again at once. The broker holds the ids in memory; readers go by the event's id."""
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_MESSAGE_BYTES: Final = max(MAX_WEBHOOK_BYTES, MAX_EVENT_BYTES) + MAX_HEADER_BYTES

if MAX_MESSAGE_BYTES > MAX_FETCH_BYTES:
    raise AssertionError("a message that no fetch can carry would stop its readers")

FETCH_LIMITS: Final = FetchLimits(forget_after=EVENTS_MAX_AGE)
"""A group that was away for as long as events are kept has seen none of those that are there: nothing is repeated."""


def events_stream(max_bytes: int) -> StreamConfig:
    """Return how EVENTS is declared."""
    return StreamConfig(
        name=EVENTS,
        subjects=list(STREAMS[EVENTS]),
        description="Domain events of every workspace, as CloudEvents",
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=EVENTS_MAX_AGE.total_seconds(),
        max_bytes=max_bytes,
        max_msg_size=MAX_MESSAGE_BYTES,
        duplicate_window=DUPLICATE_WINDOW.total_seconds(),
    )
