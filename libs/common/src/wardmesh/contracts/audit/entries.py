"""Writing and reading the log: `emit`, `query`, `tail`.

The service seals each event as an `Entry`: the event with its scope and source, taken from the subject and never from
the body, as one leaf of the scope's Merkle log.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from wardmesh.contracts.audit.events import (
    SCHEMA_VERSION,
    Action,
    AuditEvent,
    NewAuditEvent,
    Outcome,
    SchemaVersion,
    Target,
)
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.audit.typed import check_own_fields
from wardmesh.contracts.fields import Limit, Time, Token, WaitSeconds
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    MAX_DEADLINE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import EventId, PrincipalField, RequestId, ScopeField

MAX_EMIT: Final = 256
MAX_BODY_BYTES: Final = 512 * 1024


class Emit(Message):
    """Events of one version of the schema (`wardmesh.contracts.audit.events`)."""

    version: SchemaVersion = SCHEMA_VERSION
    events: Annotated[
        tuple[Annotated[NewAuditEvent, AfterValidator(check_own_fields)], ...],
        Field(min_length=1, max_length=MAX_EMIT),
    ]


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
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.query"),
    idempotent=True,
)
TAIL = operation(
    "audit",
    "tail",
    Tail,
    Entries,
    summary="Follow the log",
    access=READ,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.tail", Durability.REFUSALS_ONLY),
    idempotent=True,
    deadline=MAX_DEADLINE,
)

CONTRACTS: tuple[AnyContract, ...] = (EMIT, QUERY, TAIL)
