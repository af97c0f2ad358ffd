"""`mesh.audit`: write to the append-only log, follow it, search it, export it.

What always holds: `emit` returns once the event is durable, and an event that is sent again has the id that it had, so
that the log keeps it once. `tail` neither misses nor repeats an entry, through any disconnection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, runtime_checkable

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from wardmesh.client.batching import Batcher, BatchLimits
from wardmesh.client.caller import Caller, invalid_request
from wardmesh.client.methods import Surface, Timed, method
from wardmesh.client.retry import delay
from wardmesh.contracts import audit
from wardmesh.contracts.operation import Category
from wardmesh.errors import InvalidRequest, UnavailableError, Violation
from wardmesh.ids import EventId, Principal, RequestId

WAIT_SECONDS: Final = 20.0
_HEAD: Final = b'{"version":%d,"events":[' % audit.SCHEMA_VERSION
POLL_DEADLINE: Final = timedelta(seconds=WAIT_SECONDS + 5)


@runtime_checkable
class Auditable(Protocol):
    """Something that knows how to be written to the log."""

    def audit_event(self) -> audit.NewAuditEvent: ...


Emitter = Batcher[EventId]


def emitter(caller: Caller) -> Emitter:
    """Return the batcher that all views of a mesh emit through."""

    async def send(bodies: Sequence[bytes]) -> Sequence[EventId]:
        body = _HEAD + b",".join(bodies) + b"]}"
        # Every event has an id, and the log drops what is already in.
        return (await caller.call(audit.EMIT, body, repeatable=True)).response.ids

    return Batcher(send, BatchLimits(items=audit.MAX_EMIT, bytes=audit.MAX_BODY_BYTES - 64))


class Audit(Surface):
    """The audit service. `emit`, `tail` and `leaves` are made of the methods above them."""

    emit_batch = method(audit.EMIT)
    query = method(audit.QUERY)
    tail_page = method(audit.TAIL)
    checkpoint = method(audit.CHECKPOINT)
    leaves_page = method(audit.LEAVES)
    prove = method(audit.PROVE)
    receipt = method(audit.RECEIPT)
    consistency = method(audit.CONSISTENCY)

    def __init__(self, timed: Timed, emitter: Emitter) -> None:
        super().__init__(timed)
        self._emitter = emitter

    async def emit(self, event: audit.NewAuditEvent | Auditable) -> EventId:
        """Write an event and return its id, once it is durable. Concurrent callers share an envelope."""
        return await self._emitter.add(_encoded(event, datetime.now(UTC)), deadline=self._timed.deadline)

    async def tail(
        self,
        *,
        category: Category | None = None,
        actor: Principal | None = None,
        action: str | None = None,
        outcome: audit.Outcome | None = None,
        target: str | None = None,
        request_id: RequestId | None = None,
        start: int | None = None,
    ) -> AsyncIterator[audit.Entry]:
        """Yield entries as they are sealed, oldest first, for ever; from index `start` on, or from now."""
        try:
            wanted = audit.Filter(
                category=category, actor=actor, action=action, outcome=outcome, target=target, request_id=request_id
            )
            # Where "now" is must be known before the first wait: a wait that is cut off would lose it.
            place = start if start is not None else await self._poll(wanted, None, 0.0)
        except ValidationError as error:
            raise invalid_request(error) from None
        position = place if isinstance(place, int) else place.next_start
        while True:
            page = await self._poll(wanted, position, WAIT_SECONDS)
            for entry in page.entries:
                if entry.index >= position:
                    yield entry
            position = max(position, page.next_start)

    async def leaves(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield leaves as they were hashed, from index `start` up to `end`, or to the last."""
        while end is None or start < end:
            limit = audit.MAX_LEAVES if end is None else min(audit.MAX_LEAVES, end - start)
            page = (await self.leaves_page(start=start, limit=limit)).leaves
            if not page:
                return
            for leaf in page:
                yield leaf
            start += len(page)

    async def _poll(self, wanted: audit.Filter, start: int | None, wait_seconds: float) -> audit.Entries:
        """Ask until there is an answer: a reader of a log has no deadline."""
        request = audit.Tail(filter=wanted, start=start, wait_seconds=wait_seconds)
        failures = 0
        while True:
            try:
                return (await self._timed.caller.call(audit.TAIL, request, deadline=POLL_DEADLINE)).response
            except UnavailableError:
                await asyncio.sleep(delay(failures, random.random()))  # noqa: S311 - jitter
                failures += 1


def _encoded(event: audit.NewAuditEvent | Auditable, now: datetime) -> bytes:
    """Return the event as it is sent, with an id and a time; raise `InvalidRequest` for one that would be refused."""
    try:
        new = event if isinstance(event, audit.NewAuditEvent) else event.audit_event()
        # Again: whoever made it with `model_copy` or `model_construct` was not held to anything.
        new = audit.check_own_fields(audit.NewAuditEvent.model_validate(new.model_dump()))
        occurred_at = new.occurred_at or now
        if (problem := audit.time_problem(occurred_at, now)) is not None:
            raise InvalidRequest(violations=(Violation(pointer="/occurred_at", message=problem),))
        stamped = new.model_copy(update={"id": new.id or EventId.new(), "occurred_at": occurred_at})
        return stamped.model_dump_json().encode()
    except ValidationError as error:
        raise invalid_request(error) from None
    except PydanticCustomError as error:
        raise InvalidRequest(violations=(Violation(pointer="/details", message=error.message()),)) from None
