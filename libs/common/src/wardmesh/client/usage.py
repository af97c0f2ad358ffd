"""Audit events that agents write often, with fields of their own."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

from wardmesh.contracts.audit import NewAuditEvent, Outcome, Target
from wardmesh.contracts.fields import Name
from wardmesh.contracts.operation import Category, Message

Dollars: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,12})?$")]
"""A decimal number as text: money has no binary fractions."""
Tokens: TypeAlias = Annotated[int, Field(ge=0)]


class ModelUsage(Message):
    """One use of a language model: what it read and wrote, and what that cost."""

    model: Target
    input_tokens: Tokens
    output_tokens: Tokens
    cost_usd: Dollars
    source: Name
    """What it was used for, in the caller's own words: `chat`, `nightly-report`."""
    outcome: Outcome = Outcome.SUCCESS

    def audit_event(self) -> NewAuditEvent:
        return NewAuditEvent(
            category=Category.MODEL_USAGE,
            action="model.use",
            outcome=self.outcome,
            targets=(self.model,),
            details={
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "cost_usd": self.cost_usd,
                "source": self.source,
            },
        )
