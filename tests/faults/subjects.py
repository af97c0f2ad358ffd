"""People who act until they are erased, and whose every trait is found nowhere else."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.canary.hunt import FRAGMENT_BYTES, Secret

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, UserId


@dataclass
class Subject:
    user: UserId = field(default_factory=UserId.new)
    email: str = field(default_factory=lambda: f"{secrets.token_hex(16)}@x.test")
    browser: str = field(default_factory=lambda: f"Hunted/{secrets.token_hex(16)}")
    acts: list[AuditEvent] = field(default_factory=list)

    def act(self, rng: random.Random) -> AuditEvent:
        """Return what this person does next, or an agent on the person's behalf."""
        agent = AgentId.new() if rng.random() < 0.3 else None
        event = AuditEvent(
            id=EventId.new(),
            occurred_at=datetime.now(UTC),
            category=Category.ADMINISTRATION,
            action="person.change",
            outcome=Outcome.SUCCESS,
            actor=agent or self.user,
            acting_for=None if agent is None else self.user,
            targets=(self.user,),
            user_agent=self.browser,
            details={"email": self.email},
        )
        self.acts.append(event)
        return event

    def traits(self) -> list[Secret]:
        # Ids that were made at once begin alike.
        said = {"id": self.user[-FRAGMENT_BYTES:], "e-mail": self.email, "user agent": self.browser}
        return [Secret(kind, "somebody who was erased", value.encode()) for kind, value in said.items()]
