"""What a leaf is, and how an envelope becomes leaves. Pure.

A leaf is JSON in one spelling (keys sorted, no white space, UTF-8, what has its default left out) of

    {"event": …, "received_at": …, "scope": …, "source": …, "version": 1}

What identifies a person is not in it: then it has version 2, and commitments beside the event, by path:

    {"committed": {"/actor": …}, "event": …, "received_at": …, "scope": …, "source": …, "version": 2}

Scope and source come from the message's subject, which the broker vouches for; the time of receipt is the broker's.
The leaf's bytes are kept and hashed as they are. Nobody ever has to spell an event again to verify one.

What always holds: what `decode_envelope` returns can be stored and proven: it fits a tlog-tiles entry, contains no
newline, and every event id occurs once.

On failure: `MalformedEnvelope` for a message, `LogDamaged` for stored bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from wardmesh.audit_openings import EVENT
from wardmesh.contracts.audit import (
    MAX_PERSONAL,
    SEALING_MARGIN,
    AuditEnvelope,
    AuditEvent,
    Details,
    Entry,
    NewAuditEvent,
    Outcome,
    Path,
    Personal,
    conceal,
    is_too_deep,
    personal_values,
    time_problem,
)
from wardmesh.contracts.fields import Time, Token
from wardmesh.contracts.operation import Category, Message
from wardmesh.crypto.commitment import SALT_BYTES, commit
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES
from wardmesh.errors import MAX_VIOLATIONS, InvalidRequest, Violation
from wardmesh.ids import EventId, OrgId, Principal, RequestId, Scope, ScopeField, ServiceId
from wardmesh.subjects import AuditSubject, InvalidSubjectError
from wardmesh_audit.errors import LogDamaged, MalformedEnvelope

VERSION: Final = 1
COMMITTING: Final = 2
"""The version of a leaf that commits to something instead of saying it."""
Random = Callable[[int], bytes]
REJECTED: Final = "audit.envelope_rejected"
_SHOWN_SUBJECT_CHARACTERS: Final = 200


class Leaf(Message):
    """An entry as it is hashed; its index is its place, so it is not in it."""

    version: Literal[1, 2] = VERSION
    committed: dict[Path, str] = Field(default_factory=dict, max_length=MAX_PERSONAL)
    scope: ScopeField
    source: Token
    received_at: Time
    event: AuditEvent


class Committed(NamedTuple):
    """A value that a leaf commits to, and the salt that it does so with."""

    personal: Personal
    salt: bytes


class Names(NamedTuple):
    """What an entry is searched by: the ids of who acted, for whom, and on what; of users, their pseudonyms."""

    actor: str
    acting_for: str | None
    targets: Sequence[str]


class Candidate(NamedTuple):  # made for every event, at a quarter of what a frozen dataclass costs
    """An event that waits for its place in the log.

    Where its leaf commits to something, it MUST NOT be stored before it has `openings` (sealed) and `names` for it
    (`subjects.Subjects.protect`).
    """

    event: AuditEvent
    source: str
    received_at: datetime
    leaf: bytes
    leaf_hash: bytes
    committed: tuple[Committed, ...] = ()
    openings: bytes | None = None
    names: Names | None = None

    def stored_names(self) -> Names:
        """Return what is stored to search by; raise `RuntimeError` if that would name a person."""
        if self.names is not None:
            return self.names
        if self.committed:
            raise RuntimeError("an event that names a person is not protected yet")
        return Names(self.event.actor, self.event.acting_for, self.event.targets)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message of stream AUDIT, understood."""

    scope: Scope
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A leaf in its place."""

    index: int
    leaf: bytes
    openings: bytes | None = None
    """What it commits to, sealed by the keys of those whom it is about."""

    @property
    def size(self) -> int:
        """How many bytes of an answer it may take."""
        return len(self.leaf) + len(self.openings or b"")


def decode_envelope(subject: str, data: bytes, received_at: datetime, *, random: Random) -> Envelope:
    """Return what a message carries; raise `MalformedEnvelope` if it can never be sealed. `random` makes the salts."""
    try:
        parsed = AuditSubject.parse(subject)
    except InvalidSubjectError as error:
        raise MalformedEnvelope("forged_subject") from error
    try:
        envelope = AuditEnvelope.model_validate_json(data)
    except ValidationError as error:
        raise MalformedEnvelope(_what_is_wrong(error), parsed.scope) from error
    events: dict[EventId, AuditEvent] = {}
    for event in envelope.events:
        events.setdefault(event.id, event)
    spelling = _Spelling(parsed.scope, parsed.source, received_at)
    made = (_candidate(parsed, spelling, event, received_at, random) for event in events.values())
    return Envelope(parsed.scope, tuple(made))


def _what_is_wrong(error: ValidationError) -> str:
    """Return a word for why an envelope cannot be read: one of another version or category may be a newer mesh's."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # pydantic counts the events that are left: none, where the only one is wrong.
    fields = {item["loc"][-1] for item in found if item["loc"] and item["type"] != "too_short"}
    if "version" in fields:
        return "unknown_version"
    return "unknown_category" if fields == {"category"} else "malformed_envelope"


def _candidate(
    subject: AuditSubject, spelling: _Spelling, event: AuditEvent, received_at: datetime, random: Random
) -> Candidate:
    if event.details and is_too_deep(event.details):
        raise MalformedEnvelope("details_too_deep", subject.scope)
    if time_problem(event.occurred_at, received_at, margin=SEALING_MARGIN) is not None:
        raise MalformedEnvelope("clock_far_off", subject.scope)
    committed: tuple[Committed, ...] = ()
    try:
        if personal := personal_values(event):
            leaf, committed = spelling.committing_leaf(event, personal, random)
        else:
            leaf = spelling.leaf(event)
    except (ValueError, RecursionError) as error:  # a number that JSON has no spelling for, a lone surrogate
        raise MalformedEnvelope("unspeakable_event", subject.scope) from error
    if len(leaf) > MAX_ENTRY_BYTES:
        raise MalformedEnvelope("event_too_large", subject.scope)
    return Candidate(event, subject.source, received_at, leaf, leaf_hash(leaf), committed)


def encode_leaf(scope: Scope, source: str, received_at: datetime, event: AuditEvent) -> bytes:
    """Return the bytes that are hashed of an event that is about no person; raise `ValueError` for what is no JSON."""
    return _Spelling(scope, source, received_at).leaf(event)


class _Spelling:
    """How the leaves of one envelope are spelled: what they share is spelled once.

    The encoder is given the event's own fields, in their order, not a copy that is made of them first: spelling was the
    largest part of what an event costs a sealer (docs/adr/0020).
    """

    def __init__(self, scope: Scope, source: str, received_at: datetime) -> None:
        received = received_at.astimezone(UTC).isoformat(timespec="microseconds")
        self._shared = b"," + to_json({"received_at": received, "scope": scope, "source": source})[1:-1]
        self._rest = self._shared + _LEAF_END

    def leaf(self, event: AuditEvent) -> bytes:
        """Return the bytes that are hashed."""
        return b'{"event":' + self._event(event.__dict__) + self._rest

    def committing_leaf(
        self, event: AuditEvent, values: Sequence[Personal], random: Random
    ) -> tuple[bytes, tuple[Committed, ...]]:
        """Return the bytes that are hashed, with commitments to `values` in their place, and what opens those."""
        salts = random(SALT_BYTES * len(values))
        committed = tuple(
            Committed(value, salts[SALT_BYTES * place : SALT_BYTES * (place + 1)]) for place, value in enumerate(values)
        )
        said = {value.path: commit(value.path, salt, value.value).hex() for value, salt in committed}
        head = b'{"committed":' + to_json(dict(sorted(said.items())) if len(said) > 1 else said) + b',"event":'
        return head + self._event(conceal(event, values)) + self._shared + _COMMITTING_END, committed

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        said = {name: fields[name] for name, default in _FIELDS if fields[name] != default}
        if "details" in said:
            said["details"] = _ordered(said["details"])
        return _SPELLED.serializer.to_json(said)


def _ordered(value: Any) -> Any:
    """Return JSON with its keys sorted; raise `ValueError` for a number that JSON has no spelling for."""
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_ordered(each) for each in value]
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("not a number of JSON's")
    return value


_LEAF_END: Final = b',"version":%d}' % VERSION
_COMMITTING_END: Final = b',"version":%d}' % COMMITTING
_NEVER: Final = object()
_FIELDS: Final = tuple(
    (name, _NEVER if field.is_required() else field.get_default(call_default_factory=True))
    for name, field in sorted(AuditEvent.model_fields.items())
)
"""An event's fields in the order in which they are spelled, and what says nothing in each, and is left out."""
_NO_TEXT: Final = {"details": Details, "occurred_at": Time, "targets": tuple[str, ...]}
"""What spells these fields. All others are texts, ids and enumerations too, so the encoder asks Python nothing."""
_SPELLED: Final[TypeAdapter[dict[str, Any]]] = TypeAdapter(
    TypedDict("_Spelled", {name: _NO_TEXT.get(name, str) for name, _ in _FIELDS}, total=False)  # type: ignore[operator]  # the fields are the model's
)


def decode_leaf(stored: Stored) -> Entry:
    """Return the entry that a stored leaf says by itself; raise `LogDamaged` if it says none."""
    try:
        leaf = Leaf.model_validate_json(stored.leaf)
    except ValidationError as error:
        raise LogDamaged(f"Entry {stored.index} of the log cannot be read.") from error
    return Entry(
        index=stored.index,
        scope=leaf.scope,
        source=leaf.source,
        event=leaf.event,
        received_at=leaf.received_at,
        withheld=tuple(leaf.committed),
    )


def is_of(leaf: bytes, event_id: str) -> bool:
    """Tell whether a leaf, one that the tree vouches for, is that of the event."""
    return f'"id":"{event_id}"'.encode() in leaf


def searchable(text: str) -> str:
    """Return `text` as a column can hold it: PostgreSQL's text has no NUL. The leaf has it all the same."""
    return text.replace("\x00", "\ufffd")


def check_times(events: Iterable[NewAuditEvent], now: datetime) -> None:
    """Raise `InvalidRequest` if an event says that it happened when it can't have: a clock is far off."""
    found = [
        Violation(pointer=f"/events/{place}/occurred_at", message=problem)
        for place, event in enumerate(events)
        if event.occurred_at is not None and (problem := time_problem(event.occurred_at, now)) is not None
    ]
    if found:
        raise InvalidRequest(violations=tuple(found[:MAX_VIOLATIONS]))


def complete(
    new: NewAuditEvent,
    *,
    actor: Principal,
    acting_for: Principal | None,
    request_id: RequestId,
    trace_id: str | None,
    now: datetime,
) -> AuditEvent:
    """Return what an emitter said, with what the mesh knows."""
    return AuditEvent(
        id=new.id or EventId.new(),
        occurred_at=new.occurred_at or now,
        category=new.category,
        action=new.action,
        outcome=new.outcome,
        actor=actor,
        acting_for=acting_for,
        targets=new.targets,
        reason=new.reason,
        request_id=request_id,
        trace_id=trace_id,
        details=new.details,
    )


def rejection(
    problem: MalformedEnvelope, subject: str, data: bytes, received_at: datetime, sequence: int
) -> AuditEvent:
    """Return what the log says of a message that could not be sealed.

    The same message leaves the same event, however often it is delivered, so the log has it once. A subject that
    names no scope is told of in the mesh's own log, that of the nil organization.
    """
    digest = sha256(data).hexdigest()
    identity = sha256(f"{sequence}\n{received_at.isoformat()}\n{subject}\n{digest}".encode()).digest()
    return AuditEvent(
        id=EventId.from_uuid(UUID(bytes=identity[:16])),
        occurred_at=received_at,
        category=Category.ADMINISTRATION,
        action=REJECTED,
        outcome=Outcome.FAILED,
        actor=ServiceId.nil(),
        reason=problem.reason,
        details={"bytes": len(data), "sha256": digest, "subject": subject[:_SHOWN_SUBJECT_CHARACTERS]},
    )


def log_of(problem: MalformedEnvelope) -> Scope:
    """Return whose log tells of a rejected message."""
    return OrgId.nil() if problem.scope is None else problem.scope


@dataclass(frozen=True, slots=True)
class News:
    """An entry as it is told of: an `Entry` in JSON."""

    index: int
    entry: bytes


def news_of(index: int, candidate: Candidate) -> News:
    """Return what is told of an event that has just got its place; its leaf says everything else already."""
    leaf = candidate.leaf
    if candidate.committed:
        withheld = to_json(sorted(value.path for value, _ in candidate.committed))
        said = leaf[leaf.index(EVENT) + 1 : -len(_COMMITTING_END)]
        entry = b'{"index":%d,%b,"withheld":%b}' % (index, said, withheld)
    else:
        entry = b'{"index":%d,%b}' % (index, leaf[1 : -len(_LEAF_END)])
    return News(index, entry)


def news_of_stored(stored: Stored) -> News:
    """Return what is told of a leaf that was read; raise `LogDamaged` if it says nothing."""
    entry = decode_leaf(stored)
    return News(entry.index, entry.model_dump_json(exclude_defaults=True).encode())


def bundles(news: Iterable[News], *, entries: int, size: int) -> list[list[News]]:
    """Return news in their order, in bundles of so many entries and bytes, or of one."""
    found: list[list[News]] = []
    used = 0
    for each in news:
        if not found or len(found[-1]) == entries or used + len(each.entry) > size:
            found.append([])
            used = 0
        found[-1].append(each)
        used += len(each.entry) + 1
    return found
