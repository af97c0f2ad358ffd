"""Use cases of callers with a token: sources are made, listed and removed; events are published and fetched.

What always holds: the workspace is the verified token's; a request can name none. What is published is durable when
it is answered. What is fetched lies in the caller's workspace, whatever the pattern.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Final

from wardmesh.contracts.operation import Empty
from wardmesh.contracts.webhooks import (
    BACKEND_SOURCE,
    MAX_EVENT_BYTES,
    CreateSource,
    DeleteSource,
    DeliveredEvent,
    Fetch,
    Fetched,
    NewEvent,
    Publish,
    Published,
    Source,
    Sources,
)
from wardmesh.envelope import Event, InvalidEventError
from wardmesh.errors import BodyTooLarge, Conflict, InvalidRequest, RateLimited, ScopeMismatch
from wardmesh.ids import EventId, WorkspaceId
from wardmesh.server import telemetry
from wardmesh.server.context import Call
from wardmesh.server.fetching import Delivery, consumer_name
from wardmesh.server.messages import OutboundMessage
from wardmesh.subjects import EventSubject, InvalidSubjectError
from wardmesh_webhooks.domain import MAX_SOURCES, StoredSource, check_source_name, filter_subject, message_id
from wardmesh_webhooks.ports import EventReader, Publisher, Store
from wardmesh_webhooks.vault import SecretVault

MAX_POLLS_OF_PRINCIPAL: Final = 64
"""Under way at once in one process: a poll holds a place among all callers' requests for as long as it waits."""
ANSWER_MARGIN_SECONDS: Final = 1.5
"""A poll ends so much before the caller's deadline, or what it took would be delivered to nobody."""

_log = logging.getLogger(__name__)


class WebhookService:
    """Constructed by `app`."""

    def __init__(
        self,
        store: Store,
        vault: SecretVault,
        publisher: Publisher,
        reader: EventReader,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._vault = vault
        self._publisher = publisher
        self._reader = reader
        self._clock = clock
        self._polls: Counter[str] = Counter()

    async def create_source(self, call: Call, request: CreateSource) -> Source:
        check_source_name(request.name)
        sealed = self._vault.seal(_workspace(call), request.name, request.scheme, request.signing_secret)
        async with self._store.transaction(call) as sources:
            if len(await sources.list()) >= MAX_SOURCES:
                raise Conflict(f"A workspace has {MAX_SOURCES} sources at the most. Delete one first.")
            added = await sources.add(request.name, request.scheme, sealed)
        return _shown(added)

    async def list_sources(self, call: Call, _request: Empty) -> Sources:
        async with self._store.transaction(call, read_only=True) as sources:
            return Sources(sources=tuple(_shown(source) for source in await sources.list()))

    async def delete_source(self, call: Call, request: DeleteSource) -> Empty:
        async with self._store.transaction(call) as sources:
            call.note(existed=await sources.remove(request.name))
        return Empty()

    async def publish(self, call: Call, request: Publish) -> Published:
        workspace = _workspace(call)
        now = self._clock()
        trace_parent = telemetry.trace_parent()
        events = [_event(workspace, new, number, now, trace_parent) for number, new in enumerate(request.events)]
        call.note(targets=(event.id for event in events), count=len(events))
        await self._publisher.publish(
            [
                OutboundMessage(
                    event.subject.format(),
                    event.data,
                    event.headers(),
                    message_id(workspace, BACKEND_SOURCE, event.id),
                )
                for event in events
            ]
        )
        return Published(ids=tuple(event.id for event in events))

    async def fetch(self, call: Call, request: Fetch) -> Fetched:
        workspace = _workspace(call)
        principal = call.caller.principal
        consumer = consumer_name(workspace, principal, request.group)
        subjects = filter_subject(workspace, request.pattern)
        with self._poll(principal):
            deliveries = await self._reader.fetch(
                consumer=consumer,
                filter_subject=subjects,
                batch=request.batch,
                wait_seconds=max(0.0, min(request.wait_seconds, call.seconds_left() - ANSWER_MARGIN_SECONDS)),
                acks=request.acks,
                naks=request.naks,
            )
        events = []
        for delivery in deliveries:
            try:
                events.append(_delivered(delivery))
            except (InvalidEventError, InvalidSubjectError):
                # Only this service writes to the stream, so it is a defect of ours; it must not come for ever.
                _log.error("an event in the stream cannot be read and is put away")
                await self._reader.terminate(consumer=consumer, filter_subject=subjects, token=delivery.ack)
        if events:
            taken = [event.ack for event in events]
            call.hand_back = partial(self._reader.hand_back, consumer=consumer, filter_subject=subjects, tokens=taken)
        return Fetched(events=tuple(events))

    @contextmanager
    def _poll(self, principal: str) -> Iterator[None]:
        if self._polls[principal] >= MAX_POLLS_OF_PRINCIPAL:
            raise RateLimited("Too many fetches are waiting for this principal.", retry_after_seconds=1.0)
        self._polls[principal] += 1
        try:
            yield
        finally:
            self._polls[principal] -= 1
            if not self._polls[principal]:
                del self._polls[principal]


def _workspace(call: Call) -> WorkspaceId:
    workspace = call.caller.workspace
    if workspace is None:  # the gates have seen to it: these contracts take workspaces only
        raise ScopeMismatch
    return workspace


def _shown(source: StoredSource) -> Source:
    return Source(
        name=source.name,
        scheme=source.scheme,
        path=f"/hooks/{source.workspace}/{source.name}",
        created_at=source.created_at,
    )


def _event(workspace: WorkspaceId, new: NewEvent, number: int, now: datetime, trace_parent: str | None) -> Event:
    try:
        data = json.dumps(new.data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"Event {number}: the data is not JSON that everybody reads (no NaN, no Infinity)."
        ) from None
    if len(data) > MAX_EVENT_BYTES:
        raise BodyTooLarge(f"Event {number}: the data of one event has {MAX_EVENT_BYTES} bytes at the most.")
    return Event(
        id=new.id or EventId.new(),
        subject=EventSubject(workspace, BACKEND_SOURCE, new.type),
        time=new.time or now,
        data=data,
        trace_parent=trace_parent,
    )


def _delivered(delivery: Delivery) -> DeliveredEvent:
    event = Event.read(EventSubject.parse(delivery.subject), delivery.headers, delivery.data)
    return DeliveredEvent(
        id=event.id,
        source=event.source,
        type=event.type,
        time=event.time,
        content_type=event.content_type,
        data=event.data,
        delivery=delivery.delivered,
        ack=delivery.ack,
        trace_parent=event.trace_parent,
    )
