"""A part of the log, to be taken along: leaves that match a filter, and the tree's own hashes, which prove them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from wardmesh.contracts.audit.entries import Filter
from wardmesh.contracts.audit.personal import EntryOpenings
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import Limit
from wardmesh.contracts.operation import ANY_SCOPE, AnyContract, Level, Message, Permission, operation

MAX_NODES: Final = 512
"""Each may come from a tile of its own, of 8 KiB."""
Level63 = Annotated[int, Field(ge=0, le=63)]


class SelectLeaves(Message):
    """Leaves that match, of entries from index `start` up to `end`."""

    filter: Filter = Filter()
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    limit: Limit = 500


class SelectedLeaves(Message):
    """`indexes` rise. Everything below `next_start` has been looked at; it is `end` when there is nothing more."""

    indexes: tuple[int, ...]
    leaves: tuple[bytes, ...]
    next_start: int
    openings: tuple[EntryOpenings, ...] = ()
    """What identifies people in those that commit to it, as far as it can be opened."""
    erasures: int = 0
    """How many erasures there have been in this scope: another number means that earlier answers may say too much."""


class ReadNodes(Message):
    """Nodes of the tree of `size` entries, each by its level and its index in it."""

    size: int = Field(ge=1)
    nodes: Annotated[tuple[tuple[Level63, Annotated[int, Field(ge=0)]], ...], Field(min_length=1, max_length=MAX_NODES)]


class Nodes(Message):
    """In the order that they were asked for."""

    hashes: tuple[bytes, ...]


SELECT = operation(
    "audit",
    "select",
    SelectLeaves,
    SelectedLeaves,
    summary="Read leaves that match, for an export",
    access=Permission("audit.export", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=reading("audit.export"),
    idempotent=True,
)
NODES = operation(
    "audit",
    "nodes",
    ReadNodes,
    Nodes,
    summary="Read hashes of the log's tree",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.prove"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (SELECT, NODES)
