"""`mesh.audit`: write to the append-only log, follow it, search it, export it.

What always holds: `emit` returns once the event is durable, and an event that is sent again has the id that it had, so
that the log keeps it once. `tail` neither misses nor repeats an entry, through any disconnection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, runtime_checkable

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from wardmesh.client.batching import Batcher, BatchLimits
from wardmesh.client.caller import Caller, invalid_request
from wardmesh.client.methods import Surface, Timed, method
from wardmesh.client.spool import Spool
from wardmesh.client.spool_files import SpoolFolder
from wardmesh.client.tailing import LogTail
from wardmesh.contracts import audit
from wardmesh.contracts.fields import MAX_PAGE
from wardmesh.contracts.operation import Category
from wardmesh.errors import InvalidRequest, Violation
from wardmesh.ids import AgentId, EventId, Principal, RequestId

_EVERYTHING: Final = audit.Filter()
_HEAD: Final = b'{"version":%d,"events":[' % audit.SCHEMA_VERSION


@runtime_checkable
class Auditable(Protocol):
    """Something that knows how to be written to the log."""

    def audit_event(self) -> audit.NewAuditEvent: ...


class Emitter(Protocol):
    """What all views of a mesh emit through."""

    async def add(self, body: bytes, *, deadline: timedelta | None = None) -> EventId:
        """MUST NOT return before the event is durable: in the mesh, or in the spool that was asked for."""

    async def close(self, patience_seconds: float) -> None:
        """Take no more; send what was taken, for as long as that."""


def emitter(caller: Caller, spool: SpoolFolder | None = None) -> Emitter:
    """Return the way of events to the log: directly, or by a spool on disk."""

    async def send(bodies: Sequence[bytes], deadline: timedelta | None) -> Sequence[EventId]:
        body = _HEAD + b",".join(bodies) + b"]}"
        # Every event has an id, and the log drops what is already in.
        return (await caller.call(audit.EMIT, body, deadline=deadline, repeatable=True)).response.ids

    limits = BatchLimits(items=audit.MAX_EMIT, bytes=audit.MAX_BODY_BYTES - 64)
    if spool is None:
        return Batcher(send, limits)
    spooling = Spool(spool, send, limits)
    spooling.start()
    return spooling


class Audit(Surface):
    """The audit service. `emit`, `tail`, `search` and `leaves` are made of the methods above them."""

    emit_batch = method(audit.EMIT)
    query = method(audit.QUERY)
    tail_page = method(audit.TAIL)
    checkpoint = method(audit.CHECKPOINT)
    leaves_page = method(audit.LEAVES)
    retention = method(audit.RETENTION)
    set_retention = method(audit.SET_RETENTION)
    prunings = method(audit.PRUNINGS)
    place_hold = method(audit.PLACE_HOLD)
    lift_hold = method(audit.LIFT_HOLD)
    holds = method(audit.HOLDS)
    select = method(audit.SELECT)
    nodes = method(audit.NODES)
    prove = method(audit.PROVE)
    receipt = method(audit.RECEIPT)
    consistency = method(audit.CONSISTENCY)
    witnesses = method(audit.WITNESSES)
    add_checkpoint = method(audit.ADD_CHECKPOINT)
    save_position = method(audit.SAVE_POSITION)
    list_positions = method(audit.LIST_POSITIONS)
    delete_position = method(audit.DELETE_POSITION)
    tile = method(audit.TILE)
    bundle_part = method(audit.BUNDLE)
    kept_page = method(audit.KEPT)
    mine = method(audit.MINE)
    erase = method(audit.ERASE)
    erasures = method(audit.ERASURES)
    dead_letters = method(audit.letters.DEAD_LETTERS)
    dead_letter_part = method(audit.letters.DEAD_LETTER)
    add_forwarder = method(audit.ADD_FORWARDER)
    list_forwarders = method(audit.LIST_FORWARDERS)
    edit_forwarder = method(audit.EDIT_FORWARDER)
    remove_forwarder = method(audit.REMOVE_FORWARDER)
    pause_forwarder = method(audit.PAUSE_FORWARDER)
    resume_forwarder = method(audit.RESUME_FORWARDER)
    probe_forwarder = method(audit.PROBE_FORWARDER)

    def __init__(self, timed: Timed, emitter: Emitter) -> None:
        super().__init__(timed)
        self._emitter = emitter

    async def emit(self, event: audit.NewAuditEvent | Auditable) -> EventId:
        """Write an event and return its id, once it is durable: in the mesh, or in the spool if there is one.

        Concurrent callers share an envelope. `InvalidRequest` names the field that the log would not take.
        """
        return await self._emitter.add(_encoded(event, datetime.now(UTC)), deadline=self._timed.deadline)

    def tail(
        self,
        *,
        category: Category | None = None,
        actor: Principal | None = None,
        agent: AgentId | None = None,
        action: str | None = None,
        outcome: audit.Outcome | None = None,
        target: str | None = None,
        request_id: RequestId | None = None,
        trace_id: str | None = None,
        text: str | None = None,
        start: int | None = None,
        start_time: datetime | None = None,
        resume: str | None = None,
    ) -> LogTail:
        """Return an endless `async for` of entries as they are sealed, oldest first.

        From index `start` on, else from the first entry that was received at `start_time` or later, else from now.
        `resume` is a name under which the mesh remembers how far you got: it goes on there, or at `start` if that is
        further.
        """
        try:
            wanted = audit.Filter(
                category=category,
                actor=actor,
                agent=agent,
                action=action,
                outcome=outcome,
                target=target,
                request_id=request_id,
                trace_id=trace_id,
                text=text,
            )
            request = audit.Tail(filter=wanted, start=start, start_time=start_time)
            if resume is not None:
                audit.SavePosition(name=resume, next_start=0)
        except ValidationError as error:
            raise invalid_request(error) from None
        return LogTail(self._timed.caller, request, resume=resume)

    async def search(
        self, wanted: audit.Filter = _EVERYTHING, *, limit: int | None = None
    ) -> AsyncIterator[audit.Entry]:
        """Yield entries that match, newest first, up to `limit` of them."""
        before: int | None = None
        while limit is None or limit > 0:
            size = MAX_PAGE if limit is None else min(MAX_PAGE, limit)
            page = await self.query(filter=wanted, before=before, limit=size)
            for entry in page.entries:
                yield entry
            if page.next_before is None:
                return
            before = page.next_before
            limit = None if limit is None else limit - len(page.entries)

    async def dead_letter(self, number: int) -> bytes:
        """Return what could not be sealed, as it came; `NotFound` if there is none of that number, or not any more."""
        content, kept = b"", 1
        while len(content) < kept:
            part = await self.dead_letter_part(number=number, offset=len(content))
            content, kept = content + part.content, part.kept if part.content else 0
        return content

    async def leaves(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield leaves as they were hashed, from index `start` up to `end` or to the last; what was pruned is empty."""
        while end is None or start < end:
            limit = audit.MAX_LEAVES if end is None else min(audit.MAX_LEAVES, end - start)
            page = (await self.leaves_page(start=start, limit=limit)).leaves
            if not page:
                return
            for leaf in page:
                yield leaf
            start += len(page)


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
