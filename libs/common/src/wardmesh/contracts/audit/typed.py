"""Events with fields of their own: one model a category.

    await mesh.audit.emit(ModelUsage(model="…", input_tokens=812, output_tokens=97, cost_usd="0.0061", source="chat"))
    usage = typed(entry.event)

What always holds: a typed event becomes a plain one and back without loss. A model's own fields are details under
their names, and what an action is done to (`path`, `model`, `tool`, …) is the event's first target, so that it is
found by it. Details that a model does not name are in `more`. The services' own entries fit the models too; fields that
an operation may not get to know, because it was refused before, are optional.

On failure: `NotTyped` for an event whose details are of another form, which somebody may write with `NewAuditEvent`.
Emitting one whose details have an own field of the wrong type is refused (`check_own_fields`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model
from pydantic_core import PydanticCustomError

from wardmesh.contracts.audit.events import (
    MAX_TARGETS,
    Action,
    AuditEvent,
    Details,
    NewAuditEvent,
    Outcome,
    Reason,
    Target,
)
from wardmesh.contracts.fields import Name, Time
from wardmesh.contracts.operation import Category, Message
from wardmesh.ids import EventId, PrincipalField, ScopeField, WorkspaceId

Count: TypeAlias = Annotated[int, Field(ge=0, le=2**63 - 1)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dollars: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,12})?$")]
"""A decimal number as text: money has no binary fractions."""
Word: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ErrorText: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""What went wrong, in the emitter's words. It is in the log for ever: never a secret."""


class NotTyped(ValueError):
    """An event's details are not those of its category's model."""


class TypedEvent(Message):
    """What all typed events have; who it was and where, the mesh knows from the subject."""

    category: ClassVar[Category]
    first_target: ClassVar[str | None] = None
    """The name of the own field that is the event's first target, and no detail."""

    action: Action
    outcome: Outcome = Outcome.SUCCESS
    reason: Reason | None = None
    targets: Annotated[tuple[Target, ...], Field(max_length=MAX_TARGETS)] = ()
    more: Details = Field(default_factory=dict)
    occurred_at: Time | None = None
    id: EventId | None = None

    def audit_event(self) -> NewAuditEvent:
        """Return the plain event; raise `ValidationError` if it is over an event's limits."""
        own = self.model_dump(mode="json", include=set(_own_fields(type(self))), exclude_none=True)
        first = None if self.first_target is None else own.pop(self.first_target, None)
        return NewAuditEvent(
            category=self.category,
            action=self.action,
            outcome=self.outcome,
            targets=self.targets if first is None else (first, *self.targets),
            reason=self.reason,
            details={**self.more, **own},
            occurred_at=self.occurred_at,
            id=self.id,
        )

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        """Return the event as this model; raise `NotTyped` if it is not one."""
        own: dict[str, Any] = {}
        more, targets = dict(event.details), event.targets
        for name in _own_fields(cls):
            if name == cls.first_target:
                own[name], targets = (targets[0] if targets else None), targets[1:]
            elif name in more:
                own[name] = more.pop(name)
        common: dict[str, Any] = {
            name: getattr(event, name) for name in ("id", "occurred_at", "action", "outcome", "reason")
        }
        try:
            return cls.model_validate({**common, **own, "targets": targets, "more": more})
        except ValidationError:
            raise NotTyped(f"event {event.id}: its details are not those of {cls.__name__}") from None


class Authentication(TypedEvent):
    """Somebody proved who they are, or did not: a login, a refresh, a connection."""

    category = Category.AUTHENTICATION

    method: Word | None = None
    """With what: `password`, `refresh_token`, `api_key`, `access_token`."""
    failure: Word | None = None
    """Why not, more exactly than whoever failed was told."""
    scope: ScopeField | None = None
    connection: int | None = None
    """The broker's number of it."""
    repeated: bool | None = None
    """A refresh token was presented again, within its grace."""
    reused: bool | None = None
    """A refresh token was presented again, after it: somebody has a copy."""


class Authorization(TypedEvent):
    """Somebody may not: what was refused before an operation took it up."""

    category = Category.AUTHORIZATION

    operation: Word | None = None
    outcome: Outcome = Outcome.REFUSED


class Administration(TypedEvent):
    """Who may do what was changed or looked at."""

    category = Category.ADMINISTRATION

    before: Word | None = None
    permissions: str | None = None
    """Separated by spaces; without them, those of the level."""


class SecretAccess(TypedEvent):
    """A secret, or a key that is one, was read, written or granted."""

    category = Category.SECRET_ACCESS
    first_target = "path"

    path: Target | None = None
    version: Count | None = None
    key_id: Word | None = None
    existed: bool | None = None


class BridgeExchange(TypedEvent):
    """Something passed between workspaces, or was not let through."""

    category = Category.BRIDGE

    message: Word | None = None
    kind: Word | None = None
    type: Word | None = None
    source: WorkspaceId | None = None
    target: WorkspaceId | None = None
    dead_letter: EventId | None = None
    messages: Count | None = None


class WebhookReceipt(TypedEvent):
    """An event came from outside or from a backend."""

    category = Category.WEBHOOK

    provider: Word | None = None
    """Whose way of signing it came in."""
    trigger: Word | None = None
    """The type of what happened there."""
    event: Word | None = None
    processed: bool | None = None
    """Whether it became an event of the mesh; a repetition does not."""
    count: Count | None = None
    not_recorded: Count | None = None
    """How many of its kind were not written down before this one."""


class ModelUsage(TypedEvent):
    """One use of a language model: what it read and wrote, and what that is estimated to cost."""

    category = Category.MODEL_USAGE
    first_target = "model"

    action: Action = "model.use"
    model: Target
    input_tokens: Count
    output_tokens: Count
    cost_usd: Dollars
    source: Name
    """The function that used it, in the caller's own words: `chat`, `nightly-report`."""


class ActionExecution(TypedEvent):
    """An action of an agent ran; `outcome` says how it ended."""

    category = Category.ACTION_EXECUTION

    action: Action = "action.execute"
    type: Name
    duration_seconds: Seconds
    error: ErrorText | None = None


class ToolCall(TypedEvent):
    """An agent called a tool."""

    category = Category.TOOL_CALL
    first_target = "tool"

    action: Action = "tool.call"
    tool: Target
    duration_seconds: Seconds | None = None
    error: ErrorText | None = None


class DataSync(TypedEvent):
    """One cycle of bringing data in."""

    category = Category.DATA_SYNC
    first_target = "source"

    action: Action = "data.sync"
    source: Target
    items: Count
    """How many this cycle brought."""
    cycle: Count | None = None
    duration_seconds: Seconds | None = None
    error: ErrorText | None = None


class PrivilegedAccess(TypedEvent):
    """Somebody used more rights than their work needs every day; `reason` says why."""

    category = Category.PRIVILEGED_ACCESS
    first_target = "resource"

    action: Action = "privilege.use"
    resource: Target
    reason: Reason
    approved_by: PrincipalField | None = None
    until: Time | None = None


class ConfigurationChange(TypedEvent):
    """How something works was changed or looked at."""

    category = Category.CONFIGURATION

    setting: Word | None = None
    before: ErrorText | None = None
    after: ErrorText | None = None
    existed: bool | None = None


TYPED: Final[Mapping[Category, type[TypedEvent]]] = {
    model.category: model
    for model in (
        Authentication, Authorization, Administration, SecretAccess, BridgeExchange, WebhookReceipt,
        ModelUsage, ActionExecution, ToolCall, DataSync, PrivilegedAccess, ConfigurationChange,
    )
}  # fmt: skip


def typed(event: AuditEvent) -> TypedEvent:
    """Return the event as its category's model; raise `NotTyped` if its details are of another form."""
    return TYPED[event.category].of(event)


def check_own_fields(event: NewAuditEvent) -> NewAuditEvent:
    """Return the event; raise if its details have a field of its category's model in another type."""
    try:
        _details_model(TYPED[event.category]).model_validate(event.details)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        problem = {"field": str(first["loc"][0]), "category": event.category.value}
        raise PydanticCustomError("details", "details.{field} is not what {category} has there", problem) from None
    return event


@cache
def _own_fields(model: type[TypedEvent]) -> tuple[str, ...]:
    return tuple(name for name in model.model_fields if name not in TypedEvent.model_fields)


@cache
def _details_model(model: type[TypedEvent]) -> type[BaseModel]:
    """Return a model that holds details to a typed event's own fields, where they are given."""
    fields: dict[str, Any] = {
        name: (model.model_fields[name].rebuild_annotation() | None, None)
        for name in _own_fields(model)
        if name != model.first_target
    }
    return create_model(f"{model.__name__}Details", __config__=ConfigDict(extra="ignore"), **fields)
