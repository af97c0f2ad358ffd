"""Audit events as the mesh's own services and its agents emit them, and the envelopes that carry them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.fields import Json
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, Principal, RequestId, ServiceId, UserId, WorkspaceId
from wardmesh.server.publishing import encode

PEOPLE: Final = 40
"""Principals of one tenant; a few of them do most of what is done."""
_KINDS: Final[Sequence[tuple[int, Category, str, Outcome]]] = (
    (30, Category.SECRET_ACCESS, "secrets.get", Outcome.SUCCESS),
    (5, Category.AUTHORIZATION, "secrets.get", Outcome.REFUSED),
    (15, Category.MODEL_USAGE, "model.usage", Outcome.SUCCESS),
    (20, Category.TOOL_CALL, "tool.call", Outcome.SUCCESS),
    (10, Category.ACTION_EXECUTION, "action.executed", Outcome.FAILED),
    (10, Category.WEBHOOK, "webhooks.received", Outcome.SUCCESS),
    (8, Category.AUTHENTICATION, "auth.login", Outcome.SUCCESS),
    (2, Category.ADMINISTRATION, "auth.create_key", Outcome.SUCCESS),
)
_WEIGHTS: Final = [kind[0] for kind in _KINDS]


def make_people() -> list[Principal]:
    """Return people, agents and service accounts in turn, so that users do two fifths of everything, by no accident."""
    kinds: Sequence[type[Principal]] = (UserId, AgentId, ServiceId)
    return [kinds[number % len(kinds)].new() for number in range(PEOPLE)]


def make_event(rng: random.Random, people: Sequence[Principal], at: datetime | None = None) -> AuditEvent:
    """Return one event; some 400 bytes of JSON."""
    [(_, category, action, outcome)] = rng.choices(_KINDS, _WEIGHTS)
    return AuditEvent(
        id=EventId.new(),
        occurred_at=at or datetime.now(UTC),
        category=category,
        action=action,
        outcome=outcome,
        actor=people[min(int(rng.expovariate(0.2)), len(people) - 1)],
        targets=(
            f"{rng.choice(('openai', 'stripe', 'crm'))}/{rng.choice(('key', 'report', 'token'))}-{rng.randrange(50)}",
        ),
        reason="permission_denied" if outcome is Outcome.REFUSED else None,
        request_id=RequestId.new(),
        trace_id=f"{rng.getrandbits(128):032x}",
        details=_details(rng, category),
    )


def _details(rng: random.Random, category: Category) -> dict[str, Json]:
    if category is Category.MODEL_USAGE:
        return {"model": "large-3", "input_tokens": rng.randrange(4_000), "output_tokens": rng.randrange(900),
                "cost_usd": f"0.{rng.randrange(10_000):04d}", "source": "chat"}  # fmt: skip
    if category in {Category.TOOL_CALL, Category.ACTION_EXECUTION}:
        return {"duration_ms": rng.randrange(5_000), "tool": "report.build"}
    return {}


def make_envelopes(seed: int, count: int, events_each: int) -> list[bytes]:
    """Return envelopes of stream AUDIT, each with so many events of its own."""
    return list(_envelopes(random.Random(seed), count, events_each))


def _envelopes(rng: random.Random, count: int, events_each: int) -> Iterator[bytes]:
    people = make_people()
    for _ in range(count):
        yield (
            b'{"version":1,"events":[' + b",".join(encode(make_event(rng, people)) for _ in range(events_each)) + b"]}"
        )


def make_scopes(count: int) -> list[WorkspaceId]:
    return [WorkspaceId.new() for _ in range(count)]
