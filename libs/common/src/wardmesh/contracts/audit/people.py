"""What a person has to do with the log: one's own entries, and being erased from it.

Erasing destroys the key by which a scope's log can say who a person is (`contracts.audit.personal`); leaves, hashes and
proofs stay as they are. It is asked of each scope by itself. Whoever is still there goes on: later events have a new
key, and may be erased again.
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from wardmesh.contracts.audit.entries import Entry
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import Limit, Time
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    PEOPLE_AND_SERVICES,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import EventId, UserId

ERASED: Final = "audit.subject_erased"
"""The action of the entry that tells of an erasure; it names nobody."""


class Mine(Message):
    """A page of the caller's own entries, newest first, below index `before`."""

    before: int | None = Field(default=None, ge=0)
    limit: Limit = 100


class OwnEntries(Message):
    """What the caller did, and what was done on the caller's behalf; the last page has no `next_before`."""

    entries: tuple[Entry, ...]
    next_before: int | None = None


class Erase(Message):
    """Make this user unreadable in this scope's log."""

    subject: UserId


class Erasure(Message):
    """That somebody was erased; not who. `entries` are those that the person acted in, or was acted for in.

    The log has an entry about event `erasure_id`. `certificate` is a C2SP signed note by the log's key
    (`wardmesh.audit_erasure`).
    """

    erasure_id: EventId
    erased_at: Time
    entries: int
    certificate: str


class Erased(Erasure):
    """What was just done, and the key that verifies its certificate."""

    verifier_key: str


class ListErasures(Message):
    limit: Limit = 100


class Erasures(Message):
    """Newest first."""

    erasures: tuple[Erasure, ...]


MINE = operation(
    "audit",
    "mine",
    Mine,
    OwnEntries,
    summary="Read your own entries",
    access=Permission("audit.mine", Level.VIEWER),
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.mine", Durability.REFUSALS_ONLY),
    idempotent=True,
)
# Its rule names no targets: the entry about it would name whom nobody may find any more.
ERASE = operation(
    "audit",
    "erase",
    Erase,
    Erased,
    summary="Erase a person from the log",
    access=Permission("audit.erase", Level.OWNER, kinds=PEOPLE_AND_SERVICES),
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.erase", Durability.IN_TRANSACTION),
    idempotent=False,
)
ERASURES = operation(
    "audit",
    "erasures",
    ListErasures,
    Erasures,
    summary="List erasures, with their certificates",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.erasures"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (MINE, ERASE, ERASURES)
