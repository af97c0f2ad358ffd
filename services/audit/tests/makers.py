"""Events, envelopes and messages as tests make them, and people who ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fake_ports import KEYS, SUBJECTS

from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.audit import (
    AuditEnvelope,
    AuditEvent,
    Outcome,
)
from wardmesh.contracts.operation import AnyContract, Category, Level
from wardmesh.ids import AgentId, EventId, OrgId, RequestId, Scope, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.tokens import Caller
from wardmesh.subjects import AuditSubject
from wardmesh_audit.domain import Candidate, decode_envelope
from wardmesh_audit.ports import LogStore
from wardmesh_audit.sealer import Incoming, Sealer

NOW = datetime.now(UTC).replace(microsecond=0)
"""The present: what is sent to a real broker with another time is dead."""


@dataclass
class Delivered:
    """A message of stream AUDIT; what became of it is in `outcome`."""

    subject: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    received_at: datetime = NOW
    sequence: int = 1
    outcome: str | float | None = None

    async def acknowledge(self) -> None:
        self.outcome = "acknowledged"

    async def retry(self, seconds: float) -> None:
        self.outcome = seconds


def event(**changes: object) -> AuditEvent:
    """Something that happened."""
    fields: dict[str, object] = {
        "id": EventId.new(),
        "occurred_at": NOW,
        "category": Category.SECRET_ACCESS,
        "action": "secret.get",
        "outcome": Outcome.SUCCESS,
        "actor": AgentId.new(),
        "targets": ("openai/api-key",),
    }
    return AuditEvent.model_validate(fields | changes)


async def published(store: LogStore, scope: Scope) -> int:
    """Return how far a log was told of."""
    async with store.publication(scope, limit=1) as publication:
        return publication.published_size


def envelope(*events: AuditEvent) -> bytes:
    return AuditEnvelope(events=events).model_dump_json(exclude_defaults=True).encode()


def candidates(
    scope: Scope, *events: AuditEvent, received_at: datetime = NOW, source: str = "secrets"
) -> tuple[Candidate, ...]:
    if received_at != NOW:  # what happened long before it was received is refused
        events = tuple(each.model_copy(update={"occurred_at": received_at}) for each in events)
    made = decode_envelope(
        AuditSubject(scope, source).format(), envelope(*events), received_at, random=os.urandom
    ).candidates
    keys = KEYS.made(scope, {value.subject for each in made for value, _ in each.committed})
    return tuple(SUBJECTS._protected(scope, each, keys) if each.committed else each for each in made)


async def seal_all(sealer: Sealer, messages: Sequence[Incoming]) -> None:
    """Return when every message is acknowledged or asked to come again."""
    await sealer.take(messages)
    await sealer.finish()


def delivered(scope: Scope, *events: AuditEvent, source: str = "secrets") -> Delivered:
    return Delivered(AuditSubject(scope, source).format(), envelope(*events))


@dataclass(frozen=True)
class Person:
    """Somebody with a token for a scope; `ask` makes a request of theirs, past the gates."""

    caller: Caller

    @property
    def scope(self) -> Scope:
        return self.caller.scope

    def ask(self, contract: AnyContract, *, seconds: float = 10.0) -> Call:
        ends_at = asyncio.get_running_loop().time() + seconds
        call = Call(
            contract,
            scope=self.caller.scope,
            principal=self.caller.principal,
            request_id=RequestId.new(),
            ends_at=ends_at,
            trace_id=None,
            outbox=None,
        )
        call.admit(self.caller)
        return call


def make_person(scope: Scope | None = None, level: Level = Level.OPERATOR) -> Person:
    """Somebody new, in a new workspace or in `scope`."""
    scope = WorkspaceId.new() if scope is None else scope
    principal = UserId.new()
    return Person(
        Caller(
            principal=principal,
            scope=scope,
            organization=scope if isinstance(scope, OrgId) else OrgId.new(),
            workspace=scope if isinstance(scope, WorkspaceId) else None,
            level=level,
            permissions=effective_permissions(level, None, principal),
            acting_for=None,
            holder_key=None,
            token_id="tok",
            credential_id="key",
            issued_at=0,
            expires_at=0,
        )
    )
