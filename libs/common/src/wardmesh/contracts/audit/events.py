"""What happened: the form of what goes into the log.

An emitter says a `NewAuditEvent`; the mesh completes it to an `AuditEvent`; services put several into an
`AuditEnvelope` and publish it to `audit.{scope}.{source}`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import to_json

from wardmesh.contracts.fields import Json, Time
from wardmesh.contracts.operation import Category, Message
from wardmesh.ids import EventId, PrincipalField, RequestId

MAX_ENVELOPE_EVENTS: Final = 512
MAX_TARGETS: Final = 16
MAX_DETAILS_BYTES: Final = 8 * 1024


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
