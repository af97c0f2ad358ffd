"""Sealing: from messages of stream AUDIT to entries of the log. The use case; `subscriber` brings the messages.

    decode → seal what identifies people by their keys → one transaction a scope → publish what is sealed → acknowledge

A batch is taken while the last one is still at the database, so that neither waits for the other.

What always holds:
- A message is acknowledged only when its events are committed to the log, or when all of it is in stream DEAD and the
  log will tell of it. A crash anywhere leaves it unacknowledged: it is delivered again, to any sealer, and events
  that are in the log already are dropped by their ids.
- What is sealed is published before the acknowledgement, from where publishing stopped the last time. So a crash after
  the commit is repaired when the message comes again, without anybody having to look through all tenants' logs.
- Nothing is sealed by the key of somebody who was erased meanwhile: it is sealed anew, by the next one.
- One tenant's trouble is that tenant's: a scope that cannot be sealed now is asked to come back later, alone.
- A message that can never be sealed does not hold up those behind it.

On failure: nothing is raised; the messages come again after a while (`RETRY_SECONDS`, `DAMAGED_RETRY_SECONDS`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, Protocol

from opentelemetry import metrics

from wardmesh.errors import WardmeshError
from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import OrgId, Scope
from wardmesh.server import telemetry
from wardmesh.server.database_errors import DatabaseDefect
from wardmesh.server.messages import OutboundMessage
from wardmesh.subjects import AuditSubject, InvalidSubjectError, SealedSubject
from wardmesh_audit import domain
from wardmesh_audit.domain import Candidate, Envelope, News, Random, Stored
from wardmesh_audit.errors import KeyRetired, LogDamaged, MalformedEnvelope
from wardmesh_audit.letters import Letters
from wardmesh_audit.ports import Emitter, LogStore, Publisher, Sealed
from wardmesh_audit.subjects import Subjects
from wardmesh_audit.under_way import UnderWay

RETRY_SECONDS: Final = 1.0
DAMAGED_RETRY_SECONDS: Final = 30.0
"""Somebody has to repair something first."""
ATTEMPTS: Final = 3
"""To seal by keys that are in use: with each that fails, somebody was erased meanwhile."""
PARALLEL_TRANSACTIONS: Final = 6
PARALLEL_EVENTS: Final = 2_048
"""In the transactions at once: small ones wait for the disk, and may do so together; large ones would wait for each
other, at the end of the same tables. The pool has more connections, which answer calls meanwhile."""
TRANSACTION_EVENTS: Final = 4_096
TRANSACTION_BYTES: Final = 4 * 1024 * 1024
"""Of one scope's transaction; it must stay well within the database's time limits, or it would never succeed."""
UNBROKEN_BYTES: Final = 32 * 1024
"""Understood at a stretch: a millisecond, for which answers of the database wait."""
PUBLISH_ENTRIES: Final = 256
PUBLISH_BYTES: Final = 512 * 1024
"""Of one message; it must stay below what the broker takes (1 MiB) and whoever is woken by it wants to have at once."""

_VALUE_ERRORS: Final = frozenset({"22001", "22003", "22007", "22008", "22021", "22P02", "22P05", "23514"})
"""SQLSTATEs that say that a value fits no column; any other is about the statement, which is ours."""
_meter = metrics.get_meter("wardmesh")
_sealed = _meter.create_counter("wardmesh.audit.sealed", unit="{entry}", description="Entries appended to logs")
_known = _meter.create_counter(
    "wardmesh.audit.known", unit="{event}", description="Events that were in the log already"
)
_dead = _meter.create_counter("wardmesh.audit.dead", unit="{message}", description="Messages that could not be sealed")
_log = logging.getLogger(__name__)


class Incoming(Protocol):
    """A message of stream AUDIT, as it was delivered."""

    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def received_at(self) -> datetime:
        """When the broker had it; the same at every delivery."""

    @property
    def sequence(self) -> int: ...
    async def acknowledge(self) -> None:
        """It is done with. MUST NOT raise: if this is lost, the message comes again."""

    async def retry(self, seconds: float) -> None:
        """Deliver it again after that time. MUST NOT raise."""


_NONE: Final = Sealed(0, (), 0)


class _Sealable(NamedTuple):
    message: Incoming
    envelope: Envelope


class Sealer:
    """Seals batches; any number may run, in any number of processes."""

    def __init__(
        self,
        store: LogStore,
        publisher: Publisher,
        emitter: Emitter,
        subjects: Subjects,
        letters: Letters,
        *,
        random: Random = os.urandom,
    ) -> None:
        self._random = random
        self._subjects = subjects
        self._letters = letters
        self._store = store
        self._publisher = publisher
        self._emitter = emitter
        self._under_way = UnderWay(pieces=PARALLEL_TRANSACTIONS, weight=PARALLEL_EVENTS)
        self._taking = asyncio.Lock()
        self._finishing = False
        self._last: dict[Scope, asyncio.Task[None]] = {}
        """Of each scope that is being sealed, what was begun last."""

    async def take(self, messages: Sequence[Incoming]) -> None:
        """Begin to seal a batch; return when all of it is under way, and `finish` when it has ended.

        So what comes next is fetched and understood while the database is at what came before.
        """
        async with self._taking:
            for scope, group in _by_scope(messages).items():
                async for part in self._understood(group):
                    before = self._last.get(scope)
                    events = sum(len(item.envelope.candidates) for item in part)
                    self._last[scope] = task = await self._under_way.begin(events, self._seal_part, scope, part, before)
                    task.add_done_callback(partial(self._forget, scope))
            if self._finishing:
                await self._under_way.settled()

    async def finish(self) -> None:
        """Return when all that was taken is acknowledged or asked to come again; `take` does no less from now on."""
        self._finishing = True
        async with self._taking:
            await self._under_way.settled()

    def _forget(self, scope: Scope, task: asyncio.Task[None]) -> None:
        if self._last.get(scope) is task:
            del self._last[scope]

    async def _understood(self, messages: Sequence[Incoming]) -> AsyncIterator[list[_Sealable]]:
        """Yield messages of one scope, as many as a transaction takes, but at least one; bury what is none."""
        part: list[_Sealable] = []
        events = size = unbroken = 0
        for message in messages:
            if unbroken > UNBROKEN_BYTES:
                await asyncio.sleep(0)  # whoever has an answer of the database goes on with it
                unbroken = 0
            unbroken += len(message.data)
            try:
                envelope = domain.decode_envelope(
                    message.subject, message.data, message.received_at, random=self._random
                )
            except MalformedEnvelope as problem:
                await self._under_way.begin(1, self._bury, message, problem)
                continue
            events += len(envelope.candidates)
            size += len(message.data)
            if part and (events > TRANSACTION_EVENTS or size > TRANSACTION_BYTES):
                yield part
                part, events, size = [], len(envelope.candidates), len(message.data)
            part.append(_Sealable(message, envelope))
        if part:
            yield part

    async def _seal_part(self, scope: Scope, part: Sequence[_Sealable], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])  # a scope's entries are in the order of its messages
        with ExitStack() as spans:
            for trace_parent in {item.message.headers.get(TRACE_PARENT) for item in part}:
                headers = {} if trace_parent is None else {TRACE_PARENT: trace_parent}
                span = spans.enter_context(telemetry.consumer_span("audit.seal", headers))
                span.set_attribute("wardmesh.scope", scope)
            await self._seal_group(scope, part)

    async def _seal_group(self, scope: Scope, group: Sequence[_Sealable]) -> None:
        try:
            sealed = await self._append(scope, [candidate for item in group for candidate in item.envelope.candidates])
            await self.publish_sealed(scope, sealed)
        except LogDamaged as error:
            _log.critical("the log of %s is not sealed: %s", scope, error.detail)
            await _retry(group, DAMAGED_RETRY_SECONDS)
        except DatabaseDefect as error:
            await self._unstorable(scope, group, error)
        except WardmeshError as error:
            _log.warning("sealing is put off: %s", error.code)
            await _retry(group, RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - a defect in one scope must not end the others
            _log.exception("a defect while sealing")
            await _retry(group, DAMAGED_RETRY_SECONDS)
        else:
            for item in group:
                await item.message.acknowledge()

    async def _append(self, scope: Scope, candidates: Sequence[Candidate]) -> Sealed:
        sealed = await self._sealed(scope, candidates)
        _sealed.add(len(sealed.added))
        if sealed.known:
            _known.add(sealed.known)
        return sealed

    async def _sealed(self, scope: Scope, candidates: Sequence[Candidate]) -> Sealed:
        for _ in range(ATTEMPTS):
            protected = await self._subjects.protect(scope, candidates)
            try:
                return await self._store.seal(scope, protected.candidates, protected.check)
            except KeyRetired:
                continue
        raise KeyRetired

    async def _unstorable(self, scope: Scope, group: Sequence[_Sealable], error: DatabaseDefect) -> None:
        """Find the message that the database has no room for; a defect of another kind is nobody's message's fault."""
        if not _is_about_a_value(error):
            _log.error("sealing is put off: the database refuses the statement (SQLSTATE %s)", error.sqlstate)
            await _retry(group, DAMAGED_RETRY_SECONDS)
        elif len(group) == 1:
            await self._bury(group[0].message, MalformedEnvelope("unstorable_event", scope))
        else:
            for item in group:
                await self._seal_group(scope, [item])

    async def _bury(self, message: Incoming, problem: MalformedEnvelope) -> None:
        """Put a message that can never be sealed into stream DEAD, and tell of it in the log."""
        event = domain.rejection(problem, message.subject, message.data, message.received_at, message.sequence)
        try:
            letter = await self._letters.seal(
                domain.log_of(problem), event.id, problem.reason, message.subject, message.received_at, message.data
            )
            await self._publisher.publish([letter])
            if not _is_rejection(message):
                await self._emitter.emit(domain.log_of(problem), [event])
        except WardmeshError as error:
            _log.warning("a dead letter is put off: %s", error.code)
            await message.retry(RETRY_SECONDS)
            return
        except Exception:  # noqa: BLE001 - nor may a defect here
            _log.exception("a defect with a dead letter")
            await message.retry(DAMAGED_RETRY_SECONDS)
            return
        _dead.add(1, {"reason": problem.reason})
        _log.error("a message could not be sealed and is in stream DEAD: %s %s", problem.reason, event.id)
        await message.acknowledge()

    async def publish_sealed(self, scope: Scope, sealed: Sealed = _NONE) -> None:
        """Publish what is in the log of `scope` and has not been published; `sealed` need not be read again."""
        at_hand = range(sealed.first, sealed.first + len(sealed.added))
        more = True
        while more:
            async with self._store.publication(scope, limit=PUBLISH_ENTRIES, at_hand=at_hand) as publication:
                start = publication.published_size
                if start in at_hand:
                    told = list(
                        map(domain.news_of, at_hand[start - at_hand.start :], sealed.added[start - at_hand.start :])
                    )
                    upto = at_hand.stop
                elif publication.entries:
                    told = [news for stored in publication.entries if (news := _readable(stored)) is not None]
                    upto = publication.entries[-1].index + 1
                else:
                    return
                await self._publisher.publish(messages_of(scope, told))
                publication.upto = upto
                more = upto < publication.size


def _by_scope(messages: Sequence[Incoming]) -> dict[Scope, list[Incoming]]:
    """Return messages by whose they are; those that are nobody's, and will be buried, count as the mesh's own."""
    scopes: dict[Scope, list[Incoming]] = {}
    for message in messages:
        try:
            scope = AuditSubject.parse(message.subject).scope
        except InvalidSubjectError:
            scope = OrgId.nil()
        scopes.setdefault(scope, []).append(message)
    return scopes


def messages_of(scope: Scope, told: Sequence[News]) -> list[OutboundMessage]:
    """Return the messages that tell of sealed entries, in their order, as `SealedEntries`."""
    return [
        OutboundMessage(
            SealedSubject(scope).format(),
            b'{"entries":[%b]}' % b",".join(news.entry for news in bundle),
            {},
            f"{scope}:{bundle[0].index}-{bundle[-1].index}",
        )
        for bundle in domain.bundles(told, entries=PUBLISH_ENTRIES, size=PUBLISH_BYTES)
    ]


def _readable(stored: Stored) -> News | None:
    try:
        return domain.news_of_stored(stored)
    except LogDamaged as error:
        _log.critical("not published: %s", error.detail)
        return None


def _is_about_a_value(error: DatabaseDefect) -> bool:
    if error.sqlstate is None:
        return error.reason == "a parameter does not fit its type"
    return error.sqlstate in _VALUE_ERRORS


def _is_rejection(message: Incoming) -> bool:
    """Tell whether a message is itself about a rejected one: telling of it again would never end."""
    return f'"action":"{domain.REJECTED}"'.encode() in message.data and message.subject.endswith(".audit")


async def _retry(group: Sequence[_Sealable], seconds: float) -> None:
    for item in group:
        await item.message.retry(seconds)
