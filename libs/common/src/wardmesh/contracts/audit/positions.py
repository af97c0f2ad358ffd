"""Saved positions: a name for how far somebody has read, kept by the log, each principal's own.

A position is not recorded when it is saved: what follows the log saves one after every page, and its own entry would be
the next thing to follow.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from wardmesh.contracts.audit.rules import READ
from wardmesh.contracts.fields import Time, Token
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Message,
    operation,
)

MAX_POSITIONS: Final = 64
"""Of one principal in one scope; a name is for a reader that comes back, and there are not many of those."""


class Position(Message):
    """The next entry that a reader has not had."""

    name: Token
    next_start: int = Field(ge=0)
    saved_at: Time


class SavePosition(Message):
    name: Token
    next_start: int = Field(ge=0)


class Positions(Message):
    """In the order of their names."""

    positions: Annotated[tuple[Position, ...], Field(max_length=MAX_POSITIONS)]


class DeletePosition(Message):
    name: Token


def _quietly(action: str) -> AuditRule:
    return AuditRule(Category.ADMINISTRATION, action, Durability.REFUSALS_ONLY, targets=("name",))


SAVE_POSITION = operation(
    "audit",
    "save_position",
    SavePosition,
    Position,
    summary="Save how far you have read, under a name",
    access=READ,
    scopes=ANY_SCOPE,
    audit=_quietly("audit_position.save"),
    idempotent=True,
)
LIST_POSITIONS = operation(
    "audit",
    "list_positions",
    Empty,
    Positions,
    summary="List your saved positions",
    access=READ,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit_position.list", Durability.REFUSALS_ONLY),
    idempotent=True,
)
DELETE_POSITION = operation(
    "audit",
    "delete_position",
    DeletePosition,
    Empty,
    summary="Forget a saved position",
    access=READ,
    scopes=ANY_SCOPE,
    audit=_quietly("audit_position.delete"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (SAVE_POSITION, LIST_POSITIONS, DELETE_POSITION)
