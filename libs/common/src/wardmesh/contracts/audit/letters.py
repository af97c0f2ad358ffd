"""Dead letters: what reached the log's stream and could never be sealed, as it came.

The log has an entry about each (`audit.envelope_rejected`), which stays; a letter is kept for thirty days. Nobody can
tell whom bytes are about that cannot be read, so an erasure of anybody takes what the scope's letters say until then.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import Time
from wardmesh.contracts.operation import ANY_SCOPE, AnyContract, Level, Message, Permission, operation
from wardmesh.ids import EventId

MAX_LETTERS: Final = 50
"""Of one page: the broker gives them out one by one, each with all that it says."""
Number = Annotated[int, Field(ge=1, lt=2**63)]
"""A letter's place among those of all scopes; later ones have larger numbers."""


class ListDeadLetters(Message):
    """A page of dead letters, oldest first, behind number `after`."""

    after: int = Field(default=0, ge=0, lt=2**63 - 1)
    limit: int = Field(default=20, ge=1, le=MAX_LETTERS)


class DeadLetter(Message):
    """A letter without what it says. `size` is in bytes; of a longer one than fits, the first `kept` are there."""

    number: Number
    entry: EventId
    """The event by which the log tells of it."""
    reason: str
    source: str
    """The service that wrote it; empty where the subject names none."""
    received_at: Time
    size: int
    kept: int
    is_erased: bool = False
    """Whether an erasure took what it says."""


class DeadLetters(Message):
    """The last page has no `next_after`."""

    letters: tuple[DeadLetter, ...]
    next_after: int | None = None


class ReadDeadLetter(Message):
    """What a letter says, from byte `offset` on."""

    number: Number
    offset: int = Field(default=0, ge=0)


class DeadLetterPart(Message):
    """At most `MAX_PAGE_BYTES`, of the `kept` that there are."""

    content: bytes
    kept: int


DEAD_LETTERS = operation(
    "audit",
    "dead_letters",
    ListDeadLetters,
    DeadLetters,
    summary="List what could not be sealed",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.dead_letters"),
    idempotent=True,
)
DEAD_LETTER = operation(
    "audit",
    "dead_letter",
    ReadDeadLetter,
    DeadLetterPart,
    summary="Read what could not be sealed, as it came",
    access=Permission("audit.export", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=reading("audit.dead_letter"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (DEAD_LETTERS, DEAD_LETTER)
