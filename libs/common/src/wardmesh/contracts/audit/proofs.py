"""Proving the log: checkpoints, leaves as they were hashed, inclusion proofs.

A leaf's bytes are kept verbatim, and they are what the tree hashes; all else about an entry is derived from them.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from wardmesh.contracts.audit.personal import EntryOpenings
from wardmesh.contracts.audit.rules import MAX_LEAVES, READ, reading
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    AnyContract,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)


class Checkpoint(Message):
    """A C2SP signed checkpoint of the scope's log, and the verifier key of who signed it."""

    note: str
    verifier_key: str
    size: int
    mldsa_key: str | None = None
    """The ML-DSA-44 key that signed it too, where the log has one."""


class ReadLeaves(Message):
    """Leaves as they were hashed, from index `start` on."""

    start: int = Field(ge=0)
    limit: Annotated[int, Field(ge=1, le=MAX_LEAVES)] = MAX_LEAVES


class KeptRun(Message):
    """Entries from `first` to `last`, all of which are kept to the same day."""

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    kept_to: date


class Leaves(Message):
    """`leaves` begin at the index asked for and may be fewer than `limit`; there are none beyond the log's end.

    A leaf that was pruned is empty. `hashes` are what the tree holds for all of them, stored apart: where the hash of a
    leaf is another, that leaf was changed. `kept` says to when those are kept that are not kept for ever; `openings`
    what identifies people in those that commit to it, as far as it can be opened.
    """

    leaves: tuple[bytes, ...]
    hashes: tuple[bytes, ...]
    kept: tuple[KeptRun, ...] = ()
    openings: tuple[EntryOpenings, ...] = ()
    erasures: int = 0
    """How many erasures there have been in this scope: another number means that earlier answers may say too much."""


class Prove(Message):
    """The inclusion of entry `index` in the tree of `size` entries."""

    index: int = Field(ge=0)
    size: int = Field(ge=1)


class InclusionProof(Message):
    index: int
    size: int
    hashes: tuple[bytes, ...]


CHECKPOINT = operation(
    "audit",
    "checkpoint",
    Empty,
    Checkpoint,
    summary="Get a signed checkpoint of the log",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.checkpoint"),
    idempotent=True,
)
LEAVES = operation(
    "audit",
    "leaves",
    ReadLeaves,
    Leaves,
    summary="Read leaves for an export",
    access=Permission("audit.export", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=reading("audit.export"),
    idempotent=True,
)
PROVE = operation(
    "audit",
    "prove",
    Prove,
    InclusionProof,
    summary="Prove that an entry is in the log",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.prove"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (CHECKPOINT, LEAVES, PROVE)
