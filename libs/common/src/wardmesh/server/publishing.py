"""Audit events on their way to the stream: group commit.

While one publish waits for the broker's disk, the events of everybody else gather; then one envelope per scope
carries them all, so that one fsync serves many callers. Events that nobody waits for linger for a moment, to gather
more of their kind.

What always holds: `emit` returns when the events are on the stream's disk. The number of events that wait is
bounded, and so are their bytes: when either is reached, callers wait their turn, and nothing is dropped. On stop, what
was accepted is sent.

On failure: `AuditUnavailable`, to every caller whose envelope was not acknowledged. An envelope may then be in the
stream all the same; the log drops events that it has already, by their ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from wardmesh.contracts.audit import MAX_ENVELOPE_EVENTS, AuditEvent
from wardmesh.errors import AuditUnavailable, UnavailableError
from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import Id, Scope
from wardmesh.server.messages import OutboundMessage
from wardmesh.subjects import AuditSubject

_log = logging.getLogger(__name__)

MAX_WAITING_EVENTS: Final = 10_000
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
MAX_ENVELOPE_BYTES: Final = 512 * 1024
LINGER_SECONDS: Final = 0.01
"""How long events that nobody waits for may gather: a tenth of the envelopes, and nobody the slower for it."""
FLUSHERS: Final = 2
"""Envelopes under way at once: one on the disk while the next is being filled."""


class _EnvelopeId(Id):
    prefix = "env"


class Publisher(Protocol):
    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        """Publish; MUST NOT return before every message is durable."""


@dataclass(slots=True)
class _Batch:
    """Events of one scope that share an envelope, and the callers that wait for it."""

    events: list[bytes] = field(default_factory=list)
    size: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    # One for each caller: a caller that is cancelled must not cancel the others.
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def finish(self, failure: AuditUnavailable | None) -> None:
        for future in self.waiting:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)


class AuditPublisher:
    """Sends audit events of one service. Construct, `start`, `emit`, `stop`."""

    def __init__(self, publisher: Publisher, source: str) -> None:
        self._publisher = publisher
        self._source = source
        self._open: dict[Scope, _Batch] = {}
        self._closed: list[tuple[Scope, _Batch]] = []
        self._some = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        # A semaphore would do, at the cost of two of the gates for every request.
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._room: list[asyncio.Future[None]] = []
        self._flushers: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._flushers = [asyncio.create_task(self._flush(), name=f"audit-flush-{n}") for n in range(FLUSHERS)]

    async def stop(self) -> None:
        """Send what was accepted, then end."""
        self._stopping = True
        self._some.set()
        await asyncio.gather(*self._flushers)
        self._flushers = []

    async def emit(
        self, scope: Scope, events: Iterable[AuditEvent | bytes], *, trace_parent: str | None = None
    ) -> None:
        """Return when `events` are durable in the stream; raise `AuditUnavailable` if they may not be."""
        last: _Batch | None = None
        confirmed: list[asyncio.Future[None]] = []
        for event in events:
            batch = await self._accept(scope, event, trace_parent)
            # Events accepted one after the other mostly share a batch, and one future will do for them.
            if batch is not last:
                last = batch
                confirmed.append(self._loop.create_future())
                batch.waiting.append(confirmed[-1])
        self._some.set()
        if len(confirmed) == 1:
            await confirmed[0]
        else:
            await asyncio.gather(*confirmed)

    async def enqueue(self, scope: Scope, event: AuditEvent | bytes, *, trace_parent: str | None = None) -> None:
        """Return when `event` has a place in the queue. If it is lost after that, the log of the process says so."""
        await self._accept(scope, event, trace_parent)
        if self._linger is None:
            self._linger = self._loop.call_later(LINGER_SECONDS, self._some.set)

    async def _accept(self, scope: Scope, event: AuditEvent | bytes, trace_parent: str | None) -> _Batch:
        while True:
            if self._stopping or not self._flushers:
                raise AuditUnavailable
            if self._waiting_events < MAX_WAITING_EVENTS and self._waiting_bytes < MAX_WAITING_BYTES:
                break
            await self._wait_for_room()
        encoded = event if isinstance(event, bytes) else encode(event)
        self._waiting_events += 1
        self._waiting_bytes += len(encoded) + 1
        batch = self._open.get(scope)
        if batch is None or len(batch.events) >= MAX_ENVELOPE_EVENTS or batch.size + len(encoded) > MAX_ENVELOPE_BYTES:
            if batch is not None:
                self._closed.append((scope, batch))
            batch = self._open[scope] = _Batch()
        batch.events.append(encoded)
        batch.size += len(encoded) + 1
        if trace_parent is not None:
            batch.headers.setdefault(TRACE_PARENT, trace_parent)
        return batch

    async def _wait_for_room(self) -> None:
        self._some.set()  # no time to linger
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(turn)
        await turn

    def _make_room(self, batch: _Batch) -> None:
        self._waiting_events -= len(batch.events)
        self._waiting_bytes -= batch.size
        # All who wait look again, in their order: a turn given to one whose caller has just gone would be lost.
        turns, self._room = self._room, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)

    def _take(self) -> list[tuple[Scope, _Batch]]:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        taken = [*self._closed, *self._open.items()]
        self._closed, self._open = [], {}
        return taken

    async def _flush(self) -> None:
        while True:
            await self._some.wait()
            batches = self._take()
            if not self._stopping:
                self._some.clear()
            if batches:
                await self._send(batches)
            elif self._stopping:
                return

    async def _send(self, batches: list[tuple[Scope, _Batch]]) -> None:
        messages = [
            OutboundMessage(
                AuditSubject(scope, self._source).format(),
                b'{"version":1,"events":[' + b",".join(batch.events) + b"]}",
                batch.headers,
                _EnvelopeId.new(),
            )
            for scope, batch in batches
        ]
        failure: AuditUnavailable | None = None
        try:
            await self._publisher.publish(messages)
        except UnavailableError:
            failure = AuditUnavailable()
            _log.error("%d audit events were not confirmed", sum(len(batch.events) for _, batch in batches))
        except BaseException:
            failure = AuditUnavailable()
            raise
        finally:
            for _, batch in batches:
                self._make_room(batch)
                batch.finish(failure)


def encode(event: AuditEvent) -> bytes:
    """Return an event as it stands in an envelope: JSON, without what says nothing."""
    encoded: bytes = event.__pydantic_serializer__.to_json(event, exclude_defaults=True)
    return encoded
