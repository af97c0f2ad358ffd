"""What happened: the form of what goes into the log.

An emitter says a `NewAuditEvent`, or one of the typed events of `typed`; the mesh completes it to an `AuditEvent`;
services put several into an `AuditEnvelope` and publish it to `audit.{scope}.{source}`.

What always holds: events of one version mean the same for ever. Within a version only optional fields may be added,
which readers that do not know them leave out. Another category, another outcome, or another meaning makes a new
version; whoever does not know a version refuses it, and never guesses. So the log's readers are updated before its
writers. A leaf says the version that its event was written in.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

from wardmesh.contracts.audit.limits import checked_details, checked_text
from wardmesh.contracts.fields import Json, Time
from wardmesh.contracts.operation import Category, Message
from wardmesh.ids import AgentId, EventId, PrincipalField, RequestId

SCHEMA_VERSION: Final = 1
SchemaVersion: TypeAlias = Literal[1]
MAX_ENVELOPE_EVENTS: Final = 512
MAX_TARGETS: Final = 16

Action = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+){1,3}$", max_length=128)]
Target = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Details = Annotated[dict[str, Json], Field(max_length=64)]
# What is said anew is held to more than what is read: entries that are in the log must stay readable.
NewTarget = Annotated[Target, AfterValidator(checked_text)]
NewReason = Annotated[Reason, AfterValidator(checked_text)]
NewDetails = Annotated[Details, AfterValidator(checked_details)]
TraceId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""A W3C trace id."""


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
    targets: Annotated[tuple[NewTarget, ...], Field(max_length=MAX_TARGETS)] = ()
    reason: NewReason | None = None
    details: NewDetails = Field(default_factory=dict)
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
    trace_id: TraceId | None = None
    source_address: Annotated[str, StringConstraints(max_length=64)] | None = None
    user_agent: Annotated[str, StringConstraints(max_length=256)] | None = None
    details: Details = Field(default_factory=dict)

    @property
    def agent_id(self) -> AgentId | None:
        """The agent that acted, or that was acted for."""
        return next((who for who in (self.actor, self.acting_for) if isinstance(who, AgentId)), None)


class AuditEnvelope(Message):
    """What travels on `audit.{scope}.{source}`."""

    version: SchemaVersion = SCHEMA_VERSION
    events: Annotated[tuple[AuditEvent, ...], Field(min_length=1, max_length=MAX_ENVELOPE_EVENTS)]
