"""The stream EVENTS, which this service reads: every workspace's domain events.

It is declared in `wardmesh.server.streams`.
"""

from __future__ import annotations

from typing import Final

from wardmesh.contracts.webhooks import MAX_EVENT_BYTES
from wardmesh.server.fetching import MAX_FETCH_BYTES, FetchLimits
from wardmesh.server.streams import EVENT_MAX_BYTES, EVENTS, EVENTS_MAX_AGE
from wardmesh_webhooks.domain import MAX_WEBHOOK_BYTES

__all__ = ["EVENTS", "FETCH_LIMITS"]

MAX_HEADER_BYTES: Final = 16 * 1024

if max(MAX_WEBHOOK_BYTES, MAX_EVENT_BYTES) + MAX_HEADER_BYTES > EVENT_MAX_BYTES:
    raise AssertionError("an event that its stream does not take would never leave the outbox")
if EVENT_MAX_BYTES > MAX_FETCH_BYTES:
    raise AssertionError("a message that no fetch can carry would stop its readers")

FETCH_LIMITS: Final = FetchLimits(forget_after=EVENTS_MAX_AGE)
"""A group that was away for as long as events are kept has seen none of those that are there: nothing is repeated."""
