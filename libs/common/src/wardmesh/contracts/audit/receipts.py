"""What to keep of the log: a receipt of one entry, and the proof that the log only grew since a checkpoint."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from wardmesh.contracts.audit.personal import Opening
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import WaitSeconds
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import EventId

RECEIPT_WAIT_SECONDS: Final = 5.0
"""Sealing takes milliseconds; who waits longer has most likely asked for an event that is not there."""


class AskReceipt(Message):
    """The receipt of an event, as soon as it is sealed: a long poll."""

    event_id: EventId
    wait_seconds: WaitSeconds = RECEIPT_WAIT_SECONDS


class Receipt(Message):
    """Where the event is, and a C2SP tlog-proof of it, whose extra data is the entry as it was hashed."""

    index: int
    size: int
    """Of the tree that the proof is about."""
    proof: str
    verifier_key: str
    openings: tuple[Opening, ...] = ()
    """What identifies people, where the entry commits to it, as far as it can be opened."""


class ProveGrowth(Message):
    """That the log of `size` entries begins with the log that it was at `old_size`."""

    old_size: int = Field(ge=0)
    size: int = Field(ge=0)


class ConsistencyProof(Message):
    old_size: int
    size: int
    hashes: tuple[bytes, ...]


RECEIPT = operation(
    "audit",
    "receipt",
    AskReceipt,
    Receipt,
    summary="Get a receipt of an event: who emitted it, or who may read the log",
    access=Permission("audit.write", Level.MEMBER),
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.receipt", Durability.REFUSALS_ONLY, targets=("event_id",)),
    idempotent=True,
)
CONSISTENCY = operation(
    "audit",
    "consistency",
    ProveGrowth,
    ConsistencyProof,
    summary="Prove that the log only grew since a checkpoint",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.consistency"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (RECEIPT, CONSISTENCY)
