"""The door for other people's events, without HTTP: an address is looked up, a body verified, and what it says kept.

What always holds:
- Nothing reads a body before its signature is verified.
- A webhook is answered as accepted once it is committed, with its event and its audit event, and not before.
- An unknown workspace, an unknown source and an address that could be neither are refused in the same words.
- Every acceptance and every refusal leaves an audit event. What strangers can cause at will is bounded, so that
  nobody fills a tenant's log: refusals above the rate are counted, and the next that is recorded says how many. A
  refusal at an address without a source is recorded in the mesh's own log, never in one that a stranger names.

On failure: a `WardmeshError`, recorded as refused or as failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.fields import Json
from wardmesh.contracts.operation import Category
from wardmesh.envelope import Event
from wardmesh.errors import AuditUnavailable, RateLimited, RequestError, WardmeshError
from wardmesh.ids import EventId, InvalidIdError, OrgId, RequestId, Scope, ServiceId, WorkspaceId
from wardmesh.server import telemetry
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.subjects import EventSubject, InvalidSubjectError, word
from wardmesh_webhooks import domain
from wardmesh_webhooks.domain import StoredSource
from wardmesh_webhooks.errors import SourceUnknown, Unverified
from wardmesh_webhooks.ports import Acceptance, AuditQueue, Store
from wardmesh_webhooks.scheme import verify
from wardmesh_webhooks.schemes import SCHEMES
from wardmesh_webhooks.vault import SecretVault

ACTION: Final = "webhook.receive"
REFUSALS: Final = Rate(per_second=0.2, burst=50)
"""What is recorded of one source's refusals: enough to see an attack begin, and that it goes on."""
UNKNOWN_REFUSALS: Final = Rate(per_second=1.0, burst=100)
"""The same for all addresses together that have no source."""
RECORD_SECONDS: Final = 2.0
MAX_USER_AGENT_CHARACTERS: Final = 256
MAX_COUNTED_SOURCES: Final = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: the socket's address, never what a header claims."""

    request_id: RequestId
    address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    event_id: str
    duplicate: bool


class Door:
    """Use cases of senders without a token. Constructed by `app`."""

    def __init__(
        self,
        store: Store,
        vault: SecretVault,
        audit: AuditQueue,
        clock: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        refusals: Rate = REFUSALS,
        unknown_refusals: Rate = UNKNOWN_REFUSALS,
    ) -> None:
        self._store = store
        self._vault = vault
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._refusals = RateLimiter(refusals, max_buckets=MAX_COUNTED_SOURCES)
        self._unknown_refusals = RateLimiter(unknown_refusals, max_buckets=1)
        self._suppressed: Counter[str] = Counter()

    async def find(self, workspace: str, name: str) -> StoredSource:
        """Return the source at an address; raise `SourceUnknown` for any that has none."""
        try:
            source = await self._store.find(WorkspaceId.parse(workspace), word("source", name))
        except (InvalidIdError, InvalidSubjectError):
            source = None
        if source is None:
            raise SourceUnknown
        return source

    async def receive(
        self, source: StoredSource, headers: Sequence[tuple[str, str]], body: bytes, content_type: str, origin: Origin
    ) -> Answer:
        """Verify, read and keep one webhook."""
        now = self._clock()
        verified = verify(SCHEMES[source.scheme], self._vault.open(source), headers, body, now)
        received = domain.read(source.scheme, verified, headers, body, content_type, now)
        event = Event(
            id=received.event_id,
            subject=EventSubject(source.workspace, source.name, received.type),
            time=received.time,
            data=received.body,
            content_type=received.content_type,
            trace_parent=telemetry.trace_parent(),
        )
        details: dict[str, Json] = {"event": event.id, "trigger": event.type, "provider": source.scheme.value}
        audit = self._audit_event(source, Outcome.SUCCESS, None, origin, details | {"processed": True})
        acceptance = await self._store.accept(source, received, event, audit)
        if acceptance is Acceptance.SOURCE_GONE:
            raise SourceUnknown
        if acceptance is Acceptance.DUPLICATE:
            # Nothing changes; that it came again is worth a line, and bounded like what strangers cause.
            await self._record(source, Outcome.SUCCESS, "duplicate", origin, details | {"processed": False})
        return Answer(event.id, duplicate=acceptance is Acceptance.DUPLICATE)

    async def refused(self, source: StoredSource | None, error: WardmeshError, origin: Origin) -> None:
        """Record what was refused or failed. Never raises: the sender is answered in any case."""
        outcome = Outcome.REFUSED if isinstance(error, RequestError) else Outcome.FAILED
        reason = error.reason.value if isinstance(error, Unverified) else error.code
        details: dict[str, Json] = {} if source is None else {"provider": source.scheme.value, "processed": False}
        await self._record(source, outcome, reason, origin, details)

    async def _record(
        self,
        source: StoredSource | None,
        outcome: Outcome,
        reason: str,
        origin: Origin,
        details: dict[str, Json],
    ) -> None:
        key = "" if source is None else f"{source.workspace}/{source.name}"
        limiter = self._unknown_refusals if source is None else self._refusals
        try:
            limiter.take(key, self._monotonic())
        except RateLimited:
            if key in self._suppressed or len(self._suppressed) < MAX_COUNTED_SOURCES:
                self._suppressed[key] += 1
            return
        if suppressed := self._suppressed.pop(key, 0):
            details = details | {"not_recorded": suppressed}
        scope: Scope = OrgId.nil() if source is None else source.workspace
        event = self._audit_event(source, outcome, reason, origin, details)
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await self._audit.enqueue(scope, event, trace_parent=telemetry.trace_parent())
        except (AuditUnavailable, TimeoutError):
            _log.error("what was refused could not be recorded: %s", reason)

    def _audit_event(
        self,
        source: StoredSource | None,
        outcome: Outcome,
        reason: str | None,
        origin: Origin,
        details: dict[str, Json],
    ) -> AuditEvent:
        trace_parent = telemetry.trace_parent()
        return AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.WEBHOOK,
            action=ACTION,
            outcome=outcome,
            actor=ServiceId.nil(),  # whoever sent it has no identity here
            targets=() if source is None else (source.name,),
            reason=reason,
            request_id=origin.request_id,
            trace_id=None if trace_parent is None else trace_parent.split("-")[1],
            source_address=origin.address,
            user_agent=None if origin.user_agent is None else origin.user_agent[:MAX_USER_AGENT_CHARACTERS],
            details=details,
        )
