"""Contracts of the audit service, the append-only log, and the form of what goes into it.

An `AuditEvent` is what happened. Services put several into an `AuditEnvelope` and publish it to
`audit.{scope}.{source}`; the service seals each as an `Entry`: the event with its scope and source, taken from the
subject and never from the body, as one leaf of the scope's Merkle log. The leaf's bytes are kept verbatim, and they
are what the tree hashes; everything else about an entry is derived from them.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import to_json

from wardmesh.contracts.fields import Json, Limit, Time, Token, WaitSeconds
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    MAX_DEADLINE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import EventId, PrincipalField, RequestId, ScopeField

MAX_EMIT: Final = 256
MAX_BODY_BYTES: Final = 512 * 1024
MAX_ENVELOPE_EVENTS: Final = 512
MAX_TARGETS: Final = 16
MAX_DETAILS_BYTES: Final = 8 * 1024
MAX_LEAVES: Final = 256
"""Leaves of one page: one C2SP entry bundle."""
MAX_PAGE_BYTES: Final = 512 * 1024
"""Leaves' bytes of one page: base64 makes a third more of them, and a message has 1 MiB at the most."""


def _small(details: dict[str, Json]) -> dict[str, Json]:
    if len(to_json(details)) > MAX_DETAILS_BYTES:
        raise ValueError(f"details are at most {MAX_DETAILS_BYTES} bytes of JSON")
    return details


Action = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+){1,3}$", max_length=128)]
Target = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Details = Annotated[dict[str, Json], Field(max_length=64)]


class Outcome(enum.StrEnum):
    SUCCESS = "success"
    REFUSED = "refused"
    """The gates or the rules said no."""
    FAILED = "failed"
    """It was allowed, and did not succeed."""


class NewAuditEvent(Message):
    """What an emitter says. Who it was and where, the mesh knows from the subject."""

    category: Category
    action: Action
    outcome: Outcome = Outcome.SUCCESS
    targets: Annotated[tuple[Target, ...], Field(max_length=MAX_TARGETS)] = ()
    reason: Reason | None = None
    details: Annotated[Details, AfterValidator(_small)] = Field(default_factory=dict)
    occurred_at: Time | None = None
    id: EventId | None = None


class AuditEvent(Message):
    """What happened, complete."""

    id: EventId
    occurred_at: Time
    category: Category
    action: Action
    outcome: Outcome
    actor: PrincipalField
    acting_for: PrincipalField | None = None
    targets: Annotated[tuple[Target, ...], Field(max_length=MAX_TARGETS)] = ()
    reason: Reason | None = None
    request_id: RequestId | None = None
    trace_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    source_address: Annotated[str, StringConstraints(max_length=64)] | None = None
    user_agent: Annotated[str, StringConstraints(max_length=256)] | None = None
    details: Details = Field(default_factory=dict)


class AuditEnvelope(Message):
    """What travels on `audit.{scope}.{source}`."""

    version: Literal[1] = 1
    events: Annotated[tuple[AuditEvent, ...], Field(min_length=1, max_length=MAX_ENVELOPE_EVENTS)]


class Emit(Message):
    events: Annotated[tuple[NewAuditEvent, ...], Field(min_length=1, max_length=MAX_EMIT)]


class Emitted(Message):
    """The events' ids, in order; every one of them is on disk."""

    ids: tuple[EventId, ...]


class Entry(Message):
    """An event in the log. `index` is its place; places have no gaps."""

    index: int
    scope: ScopeField
    source: Token
    event: AuditEvent
    received_at: Time


class Filter(Message):
    """Entries that match every field that is given."""

    category: Category | None = None
    actor: PrincipalField | None = None
    action: Action | None = None
    outcome: Outcome | None = None
    target: Target | None = None
    request_id: RequestId | None = None
    since: Time | None = None
    until: Time | None = None


class Query(Message):
    """A page of entries, newest first; `before` is the smallest index of the page before this one.

    A page may be shorter than `limit` (`MAX_PAGE_BYTES`); the last page is the empty one.
    """

    filter: Filter = Filter()
    before: int | None = Field(default=None, ge=0)
    limit: Limit = 100


class Tail(Message):
    """A long poll: entries from index `start` on, oldest first. Without `start`, from now."""

    filter: Filter = Filter()
    start: int | None = Field(default=None, ge=0)
    limit: Limit = 100
    wait_seconds: WaitSeconds = 20.0


class Entries(Message):
    """`next_start` is where the next tail goes on, also when no entry matched."""

    entries: tuple[Entry, ...]
    next_start: int


class SealedEntries(Message):
    """What travels on `sealed.{scope}.{category}`: entries that are in the log, by index. At least once."""

    entries: tuple[Entry, ...]


class Checkpoint(Message):
    """A C2SP signed checkpoint of the scope's log, and the verifier key of who signed it."""

    note: str
    verifier_key: str
    size: int


class ReadLeaves(Message):
    """Leaves as they were hashed, from index `start` on."""

    start: int = Field(ge=0)
    limit: Annotated[int, Field(ge=1, le=MAX_LEAVES)] = MAX_LEAVES


class Leaves(Message):
    """`leaves` begin at the index asked for and may be fewer than `limit`; there are none beyond the log's end.

    `hashes` are what the tree holds for them, stored apart: where the hash of a leaf is another, that leaf was changed.
    """

    leaves: tuple[bytes, ...]
    hashes: tuple[bytes, ...]


class Prove(Message):
    """The inclusion of entry `index` in the tree of `size` entries."""

    index: int = Field(ge=0)
    size: int = Field(ge=1)


class InclusionProof(Message):
    index: int
    size: int
    hashes: tuple[bytes, ...]


def _read(action: str) -> AuditRule:
    return AuditRule(Category.ADMINISTRATION, action, Durability.QUEUED)


_READ = Permission("audit.read", Level.OPERATOR)

EMIT = operation(
    "audit",
    "emit",
    Emit,
    Emitted,
    summary="Write audit events, durably",
    access=Permission("audit.write", Level.MEMBER),
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.emit", Durability.REFUSALS_ONLY),
    idempotent=False,
    max_body_bytes=MAX_BODY_BYTES,
)
QUERY = operation(
    "audit",
    "query",
    Query,
    Entries,
    summary="Search the log",
    access=_READ,
    scopes=ANY_SCOPE,
    audit=_read("audit.query"),
    idempotent=True,
)
TAIL = operation(
    "audit",
    "tail",
    Tail,
    Entries,
    summary="Follow the log",
    access=_READ,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.tail", Durability.REFUSALS_ONLY),
    idempotent=True,
    deadline=MAX_DEADLINE,
)
CHECKPOINT = operation(
    "audit",
    "checkpoint",
    Empty,
    Checkpoint,
    summary="Get a signed checkpoint of the log",
    access=_READ,
    scopes=ANY_SCOPE,
    audit=_read("audit.checkpoint"),
    idempotent=True,
)
LEAVES = operation(
    "audit",
    "leaves",
    ReadLeaves,
    Leaves,
    summary="Read leaves for an export",
    access=Permission("audit.export", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=_read("audit.export"),
    idempotent=True,
)
PROVE = operation(
    "audit",
    "prove",
    Prove,
    InclusionProof,
    summary="Prove that an entry is in the log",
    access=_READ,
    scopes=ANY_SCOPE,
    audit=_read("audit.prove"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (EMIT, QUERY, TAIL, CHECKPOINT, LEAVES, PROVE)
