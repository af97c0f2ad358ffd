"""`mesh.webhooks` and `mesh.events`: the door for events, and the friendly way through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from wardmesh.client.batching import Batcher, BatchLimits
from wardmesh.client.caller import Caller, invalid_request
from wardmesh.client.methods import Surface, Timed, method
from wardmesh.client.subscription import DEFAULT_PREFETCH, Delivery, Settle, Subscription
from wardmesh.contracts import webhooks
from wardmesh.ids import EventId


class Webhooks(Surface):
    """The webhooks service."""

    create_source = method(webhooks.CREATE_SOURCE)
    list_sources = method(webhooks.LIST_SOURCES)
    delete_source = method(webhooks.DELETE_SOURCE)
    publish = method(webhooks.PUBLISH)
    fetch = method(webhooks.FETCH)


class ReceivedEvent(Delivery):
    """An event, as an `async with`: acknowledged if the block succeeds, else delivered again."""

    def __init__(self, delivered: webhooks.DeliveredEvent, settle: Settle) -> None:
        super().__init__(delivered.ack, settle)
        self.id = delivered.id
        self.source = delivered.source
        self.type = delivered.type
        self.time = delivered.time
        self.content_type = delivered.content_type
        self.body = delivered.data
        self.delivery = delivered.delivery
        self.trace_parent = delivered.trace_parent

    @property
    def data(self) -> Any:
        """The body as JSON; raises `ValueError` if it is something else (see `content_type` and `body`)."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"ReceivedEvent({self.source}.{self.type} {self.id}, delivery {self.delivery})"


Publisher = Batcher[str]


def publisher(caller: Caller) -> Publisher:
    """Return the batcher that all views of a mesh publish through."""

    async def send(bodies: Sequence[bytes], deadline: timedelta | None) -> Sequence[str]:
        body = b'{"events":[' + b",".join(bodies) + b"]}"
        # Every event has an id, so publishing it again changes nothing.
        return (await caller.call(webhooks.PUBLISH, body, deadline=deadline, repeatable=True)).response.ids

    return Batcher(send, BatchLimits(items=webhooks.MAX_PUBLISH, bytes=webhooks.MAX_BODY_BYTES - 64))


Subscribed = Subscription[webhooks.DeliveredEvent, ReceivedEvent]


class Events:
    """Publish and receive domain events."""

    def __init__(
        self, timed: Timed, publisher: Publisher, on_open: Callable[[Subscription[Any, Any]], None] | None = None
    ) -> None:
        self._timed = timed
        self._publisher = publisher
        self._on_open = on_open

    async def publish(self, type: str, data: Any, *, id: str | None = None, time: datetime | None = None) -> str:  # noqa: A002
        """Publish an event and return its id, once it is on disk. Concurrent callers share a call.

        With an `id` of yours, publishing it again changes nothing.
        """
        try:
            event = webhooks.NewEvent(type=type, data=data, id=id or EventId.new(), time=time or datetime.now(UTC))
        except ValidationError as error:
            raise invalid_request(error) from None
        return await self._publisher.add(event.model_dump_json().encode(), deadline=self._timed.deadline)

    def subscribe(self, pattern: str, *, group: str, prefetch: int = DEFAULT_PREFETCH) -> Subscribed:
        """Return an endless `async for` of events whose source and type match `pattern`.

        Readers of one `group` share its events; each group gets all. At most twice `prefetch` are out at once.
        """
        try:
            webhooks.Fetch(pattern=pattern, group=group, batch=prefetch)
        except ValidationError as error:
            raise invalid_request(error) from None
        caller = self._timed.caller

        async def fetch(
            *, batch: int, wait_seconds: float, acks: tuple[str, ...], naks: tuple[str, ...], deadline: timedelta
        ) -> Sequence[webhooks.DeliveredEvent]:
            request = webhooks.Fetch(
                pattern=pattern, group=group, batch=batch, wait_seconds=wait_seconds, acks=acks, naks=naks
            )
            return (await caller.call(webhooks.FETCH, request, deadline=deadline)).response.events

        async def admit(delivered: webhooks.DeliveredEvent, settle: Settle) -> ReceivedEvent:
            return ReceivedEvent(delivered, settle)

        return Subscription(fetch, admit, prefetch=max(prefetch, 1), on_open=self._on_open)
