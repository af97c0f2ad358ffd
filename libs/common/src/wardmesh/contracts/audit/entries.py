"""Writing and reading the log: `emit`, `query`, `tail`.

The service seals each event as an `Entry`: the event with its scope and source, taken from the subject and never from
the body, as one leaf of the scope's Merkle log.

Reading is bounded: one call looks at so many entries and no more, whatever its filter matches. So a page may be short,
or empty, with more to come; `next_before` (a query) and `next_start` (a tail) say where to go on.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from wardmesh.contracts.audit.events import (
    SCHEMA_VERSION,
    Action,
    AuditEvent,
    NewAuditEvent,
    Outcome,
    SchemaVersion,
    Target,
    TraceId,
)
from wardmesh.contracts.audit.personal import MAX_PERSONAL, Path
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
from wardmesh.ids import AgentId, EventId, PrincipalField, RequestId, ScopeField

MAX_EMIT: Final = 256
MAX_BODY_BYTES: Final = 512 * 1024
SearchText = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"\S")]
"""Words to search for; as short as what people type."""


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
    """An event in the log. `index` is its place; places have no gaps.

    `withheld` are the paths of what identified a person and cannot be shown, or not here: of somebody who was erased,
    and in news. In the place of a user's id then stands that of nobody.
    """

    index: int
    scope: ScopeField
    source: Token
    event: AuditEvent
    received_at: Time
    withheld: Annotated[tuple[Path, ...], Field(max_length=MAX_PERSONAL)] = ()


class Filter(Message):
    """Entries that match every field that is given.

    `agent`: what that agent did, and what was done for it. `since` and `until` are about when it happened: from the one
    up to, and without, the other; what says that it happened over a day after it was received, `since` does not find.
    `text`: every word of it, anywhere in the action, the targets, the reason or the texts of the details; upper and
    lower case of ASCII are the same.
    """

    category: Category | None = None
    actor: PrincipalField | None = None
    agent: AgentId | None = None
    action: Action | None = None
    outcome: Outcome | None = None
    target: Target | None = None
    request_id: RequestId | None = None
    trace_id: TraceId | None = None
    text: SearchText | None = None
    since: Time | None = None
    until: Time | None = None


class Query(Message):
    """A page of entries, newest first, below index `before`; a page is the last one if it has no `next_before`."""

    filter: Filter = Filter()
    before: int | None = Field(default=None, ge=0)
    limit: Limit = 100


class Tail(Message):
    """A long poll: entries from index `start` on, oldest first.

    Without `start`, from the first entry that was received at `start_time` or later; without both, from now.
    """

    filter: Filter = Filter()
    start: int | None = Field(default=None, ge=0)
    start_time: Time | None = None
    limit: Limit = 100
    wait_seconds: WaitSeconds = 20.0


class Entries(Message):
    """`next_start` is where a tail goes on, also when no entry matched; `next_before` where a query does, if there is
    anything below."""

    entries: tuple[Entry, ...]
    next_start: int
    next_before: int | None = None


class SealedEntries(Message):
    """What travels on `sealed.{scope}`: entries that are in the log, by index. At least once."""

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
