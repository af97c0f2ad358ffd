"""What the log needs from outside: a store, a memory for what was signed, a way to publish, and to be woken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeAlias

from wardmesh.audit_pruning import Announcement
from wardmesh.contracts.audit import AuditEvent, Erasure, Filter, Hold, KeptRun, Position, Pruning, Retention
from wardmesh.contracts.operation import Category
from wardmesh.crypto.tiles import Tile
from wardmesh.ids import EventId, Scope, UserId
from wardmesh.server.context import Call
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.domain import Candidate, Stored
from wardmesh_audit.openings import SubjectKey
from wardmesh_audit.proofs import Head, SignedHead

NOTHING: Final = range(0)
NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})
Check: TypeAlias = Callable[[], Awaitable[None]]
"""What must still be true; raises if it is not."""


class Place(NamedTuple):
    """What the log remembers of an entry for ever, apart from its bytes and from the tree."""

    event_id: str
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing did: the first index it gave out, to whom in order, and how many it had already."""

    first: int
    added: Sequence[Candidate]
    known: int


@dataclass(frozen=True, slots=True)
class Located:
    """Where an event is in the log; its leaf is gone where it was pruned."""

    index: int
    leaf_hash: bytes
    leaf: bytes | None
    openings: bytes | None = None


@dataclass
class Publication:
    """Sealed entries that nobody has published yet, in order; `upto` is set to how far they have been."""

    entries: Sequence[Stored]
    published_size: int
    size: int
    """Of the log: whether there is more to publish."""
    upto: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """To when entries are kept that are not kept for ever, in order, and to when the log is pruned."""

    runs: Sequence[KeptRun]
    pruned_to: date

    def pruned(self) -> set[int]:
        """Return the indexes whose entries are gone, as they should be."""
        return {index for run in self.runs if run.kept_to <= self.pruned_to for index in range(run.first, run.last + 1)}


class LogStore(Protocol):
    """The logs. What is read on behalf of a tenant is that tenant's scope only."""

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        """Append what is not in the log yet, in order.

        `check` MUST be awaited when nobody else appends to this log before the commit; if it raises, nothing is
        appended.

        MUST be one transaction, serialized with every other of this scope. MUST NOT return before it is durably
        committed. An event id that the log has, from whenever, MUST NOT enter it again. Each entry is kept as long as
        the scope's policy of this moment says, and MUST NOT come into a month that is closed.
        """

    def publication(
        self, scope: Scope, *, limit: int, at_hand: range = NOTHING
    ) -> AbstractAsyncContextManager[Publication]:
        """Hold back other publishers of the scope, and show what is to be published next.

        Entries are not read if the next one's index is among those that the caller has `at_hand`. What `upto` was set
        to by the end of the block is remembered, and never goes back; a crash of the database soon after may forget it,
        and then it is published again. If the block raises, nothing is remembered.
        """

    async def head(self, tenant: TenantContext) -> Head:
        """Return the committed head; an empty one if nothing was ever sealed."""

    async def leaves(self, tenant: TenantContext, *, start: int, end: int) -> Sequence[Stored]:
        """Return the leaves of [start, end), at most a page's bytes, but at least one if there is one."""

    async def places(self, tenant: TenantContext, *, start: int, end: int) -> Mapping[int, Place]:
        """Return which event is remembered to be at each index of [start, end); of one that is not, nothing."""

    async def locate(self, tenant: TenantContext, event_id: EventId) -> Located | None:
        """Return where an event is, or None if the log does not have it."""

    async def kept(self, tenant: TenantContext, *, start: int, end: int) -> Kept:
        """Return to when the entries of [start, end) are kept; at most as many as a page or a tail's window has."""

    async def tiles(self, tenant: TenantContext, tiles: Iterable[Tile]) -> Mapping[Tile, bytes]:
        """Return the contents of tiles of committed entries; shorter ones where rows are missing."""

    async def signed(self, scope: Scope) -> SignedHead | None:
        """Return what was signed last, as the database remembers it."""

    async def remember_signed(self, scope: Scope, signed: SignedHead) -> None:
        """Remember what is about to be given out. MUST NOT return before it is durable; MUST NOT go back."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one look found, in the order that was asked for, and how far it got.

    Every entry between where it began and `reached` has been looked at: up to it, or newest first, down to it.
    """

    entries: Sequence[Stored]
    reached: int


class ReadingStore(Protocol):
    """The logs, for readers: each sees its own scope, and its own positions."""

    async def scan(
        self,
        tenant: TenantContext,
        query: Filter,
        *,
        start: int,
        end: int,
        limit: int,
        newest_first: bool,
        names: Mapping[str, str] = NO_NAMES,
    ) -> Scanned:
        """Go through entries of [start, end), and return at most `limit` that match, and at most a page's bytes.

        `names` are the pseudonyms of users whom the filter names: entries are found by either.

        MUST look at a bounded number of entries, MUST get further than where it began, and MUST NOT pass over one that
        matches.
        """

    async def received(self, tenant: TenantContext, moment: datetime, *, end: int) -> int:
        """Return the index of the first entry that was received at that time or later; `end` if none below it was."""

    async def sealed_before(self, tenant: TenantContext, moment: datetime) -> int:
        """Return an index below which every entry was received before that time; the log's beginning will do."""

    async def positions(self, tenant: TenantContext) -> Sequence[Position]:
        """Return the caller's positions, by name."""

    async def save_position(self, tenant: TenantContext, name: str, next_start: int) -> Position:
        """Save one; raise `TooManyPositions` instead of keeping more than `MAX_POSITIONS`."""

    async def delete_position(self, tenant: TenantContext, name: str) -> None:
        """Forget one, if it is there."""


class RetentionStore(Protocol):
    """Policies and legal holds. What changes one MUST commit together with the call's audit event, or not at all."""

    async def policy(self, call: Call) -> Retention:
        """Return what is in force for what is sealed next."""

    async def set_days(self, call: Call, category: Category, days: int | None) -> Retention:
        """Keep what is sealed later of that category for so many days, or for ever. MUST NOT touch what is sealed."""

    async def place_hold(self, call: Call, reason: str) -> Hold:
        """Place a hold under the next number; raise `TooManyHolds` instead of one more than `MAX_HOLDS` in force.

        When it returns, nothing of the scope is pruned any more.
        """

    async def lift_hold(self, call: Call, number: int, reason: str) -> Hold:
        """Lift one, or leave it lifted as it was; raise `NoSuchHold` if it was never placed."""

    async def holds(self, call: Call, limit: int) -> Sequence[Hold]:
        """Return those in force, then the others, the latest first."""

    async def prunings(self, call: Call, limit: int) -> Sequence[Pruning]:
        """Return what was announced to end, the latest day first."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An entry whose time is over: its place, its hash in the tree, and whether its bytes still make that hash."""

    index: int
    leaf_hash: bytes
    sound: bool


class PruningStore(Protocol):
    """What pruning does to the logs, step by step. Each step MUST be durable on return, and harmless if repeated."""

    async def prunable(self, now: datetime, limit: int) -> Sequence[tuple[Scope, date]]:
        """Return scopes that have entries whose day has come and that no hold keeps, each with its earliest such day.

        MUST go by the store's own clock too, and raise if `now` is far from it.
        """

    async def is_announced(self, scope: Scope, kept_to: date) -> bool | None:
        """Tell whether the announcement is in the log, or None if there was none."""

    async def close(self, scope: Scope, kept_to: date) -> int | None:
        """Let nothing more be sealed that is kept to that day or a day before it, and return the log's size.

        Return None as long as there are sealed entries that nobody was told of. MUST refuse a day that has not come.
        """

    async def ending(self, scope: Scope, kept_to: date, *, start: int, end: int) -> Sequence[Ending]:
        """Return the entries of [start, end) that are kept to that day, also those whose rows are not there."""

    async def announce(self, scope: Scope, announcement: Announcement, event: AuditEvent) -> None:
        """Remember what is to end, and put the event into the outbox, both or neither; nothing if it was announced."""

    async def prune(self, scope: Scope, kept_to: date) -> None:
        """Hide the entries that are kept to that day, from everybody.

        MUST refuse while a hold is in force, while the announcement is not in the log, and out of order.
        """

    async def drop(self, now: datetime, event: AuditEvent) -> date | None:
        """Drop what lies in the first month that is pruned for all, and put the event, naming it, into the outbox.

        Return None if there is no such month. MUST NOT drop what somebody can still read.
        """


class SignedMemory(Protocol):
    """What was signed last, remembered outside of the database, so that a restored backup does not fork the log.

    A log of ours goes by its scope, one of others that we cosign by `witnessing.remembered_as`.
    """

    async def last(self, log: str) -> tuple[SignedHead | None, int]:
        """Return what was signed last, and a revision for `remember`; raise `ServiceUnavailable` if it is not known."""

    async def remember(self, log: str, signed: SignedHead, revision: int) -> None:
        """Remember, if nobody has since `revision`; raise `SignedMeanwhile` otherwise. MUST be durable on return."""


class SignedMeanwhile(Exception):
    """Another process has signed a head of this log in the meantime."""


@dataclass(frozen=True, slots=True)
class PendingErasure:
    """An erasure that has been begun: its id, and how many entries it is about."""

    erasure_id: EventId
    entries: int
    mark: str = ""
    """Of the key that is destroyed next."""
    gone: int = 0
    """Those of the entries that were under keys which had been destroyed before."""


class SubjectKeys(Protocol):
    """The keys of people, each of one person in one scope. They MUST be kept where no copy of the database has them."""

    async def get_or_make(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        """Return a key for each, and the same one to whoever asks. MUST NOT return one that is not durable."""

    async def to_seal(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        """Return a key for each, as `get_or_make` does, but perhaps one that has been retired meanwhile.

        Whoever stores what is sealed by them MUST ask `in_use` first; a key that was not is not returned again.
        """

    async def in_use(self, scope: Scope, keys: Collection[SubjectKey]) -> bool:
        """Tell whether none of these is retired. MUST look at what any process has done before this call."""

    async def find(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        """Return the keys that there are."""

    async def named(self, scope: Scope, pseudonyms: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        """Return the keys that there are, by their pseudonyms."""

    async def retire(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        """Take a person's key out of use, and return it: whoever comes next has another. What it sealed still opens.

        MUST be durable on return. One that is retired already is returned instead, and the one in use left alone.
        """

    async def retired(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        """Return a key that was retired and is not destroyed."""

    async def destroy(self, scope: Scope, key: SubjectKey) -> None:
        """Destroy this key, if it is there. When it returns, nobody gets it any more, in this process or another."""

    async def begun(self, scope: Scope, subject: UserId) -> PendingErasure | None:
        """Return the erasure of that person that was begun and not ended."""

    async def begin(self, scope: Scope, subject: UserId, erasure: PendingErasure) -> None:
        """Remember that an erasure has begun. MUST be durable on return."""

    async def end(self, scope: Scope, subject: UserId) -> None:
        """Forget that there was one. MUST be durable on return."""


class ErasureRows(Protocol):
    """What the database knows of a scope's erasures, within a transaction that no hold is placed in."""

    async def find(self, erasure_id: EventId) -> Erasure | None:
        """Return an erasure that was committed."""

    async def add(self, erasure: Erasure, told: AuditEvent) -> None:
        """Remember one, and put the event that tells of it into the outbox: with the transaction, or not at all."""


class PeopleStore(Protocol):
    """Erasures, and what belongs to a person."""

    def erasing(self, call: Call) -> AbstractAsyncContextManager[ErasureRows]:
        """Open a transaction to erase in; raise `UnderHold` if a hold is in force. Whoever places one MUST wait."""

    async def acts(self, scope: Scope, pseudonym: UserId) -> int:
        """Return how many entries have that actor, or were done for that principal.

        MUST wait for who was appending when it was called, and count that too; who comes later MUST NOT wait for long.
        """

    async def erasures(self, tenant: TenantContext, limit: int) -> Sequence[Erasure]:
        """Return erasures, newest first."""

    async def count_erasures(self, tenant: TenantContext) -> int:
        """Return how many erasures there have been."""

    async def own(self, tenant: TenantContext, *, before: int | None, limit: int) -> Scanned:
        """Return entries that the tenant's principal acted in, or was acted for in, newest first, and how far it got.

        MUST return nobody else's, whatever the tenant may read besides.
        """


class Backlog(Protocol):
    """What is durable and not sealed yet."""

    async def settled(self, seconds: float) -> bool:
        """Wait until what is in the stream now is sealed; tell whether it was within that time. MUST NOT raise."""


class Alarm(Protocol):
    """Whoever has to hear that a log would fork."""

    async def refused(self, scope: Scope) -> None:
        """Tell that the head of a log is not signed. MUST NOT raise, MUST end within seconds."""

    def signed(self, scope: Scope) -> None:
        """Take it back: a head of that log was signed."""


class Publisher(Protocol):
    """The broker, for streams."""

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        """Publish in order. MUST NOT return before every message is durable; MUST raise if one may not be."""


class Emitter(Protocol):
    """The way of audit events into stream AUDIT."""

    async def emit(self, scope: Scope, events: Iterable[AuditEvent], *, trace_parent: str | None = None) -> None:
        """MUST NOT return before the events are durable."""


class Listener(Protocol):
    """Somebody who waits for a scope's log to grow."""

    async def wait(self, seconds: float) -> None:
        """Return when the log may have grown since the last call, or after `seconds`."""


class Wakeups(Protocol):
    """News of sealed entries."""

    def listen(self, scope: Scope) -> AbstractAsyncContextManager[Listener]:
        """Hear of what is sealed from now on, while the block runs."""
