"""The log as C2SP tlog-tiles, piece by piece: what the gateway serves to other people's tools.

Hashes say nothing of what they are made of, nor does the day to which an entry is kept, so reading them leaves no
entry; entries leave the house, and reading them is recorded as every other export is.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from wardmesh.contracts.audit.proofs import KeptRun
from wardmesh.contracts.audit.rules import MAX_LEAVES, READ, reading
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

MAX_PATH_CHARACTERS: Final = 64
"""`tile/63/` and seven groups of digits are 40."""
MAX_KEPT_RUNS: Final = 8192
"""Runs of one page: 80 bytes each at the most, and a message has 1 MiB."""
TilePath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH_CHARACTERS)]


class ReadTile(Message):
    """A tile of hashes, by its C2SP path (`tile/0/x001/067.p/12`)."""

    path: TilePath


class TileContent(Message):
    content: bytes


class ReadBundle(Message):
    """A bundle of entries by its C2SP path (`tile/entries/000`), without the first `skip` entries.

    A message holds fewer bytes than a bundle may have, so who reads one asks until nothing is left.
    """

    path: TilePath
    skip: int = Field(default=0, ge=0, lt=MAX_LEAVES)


class BundlePart(Message):
    content: bytes
    entries: int
    left: int
    """How many entries of the bundle come after these."""


class ReadKept(Message):
    """To when entries are kept, from index `start` on, in a log of `size` entries; without it, of the present size."""

    start: int = Field(default=0, ge=0)
    size: int | None = Field(default=None, ge=0)


class KeptRuns(Message):
    """Runs of entries that are not kept for ever, in order; the same ones for the same `start` and `size`, for ever."""

    runs: tuple[KeptRun, ...]
    size: int
    next_start: int | None = None
    """Where to go on; None where that was all."""


TILE = operation(
    "audit",
    "tile",
    ReadTile,
    TileContent,
    summary="Read a tile of the log's hashes",
    access=READ,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.tile", Durability.REFUSALS_ONLY, targets=("path",)),
    idempotent=True,
)
BUNDLE = operation(
    "audit",
    "bundle",
    ReadBundle,
    BundlePart,
    summary="Read a bundle of the log's entries",
    access=Permission("audit.export", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=reading("audit.export"),
    idempotent=True,
)
KEPT = operation(
    "audit",
    "kept",
    ReadKept,
    KeptRuns,
    summary="Read to when the log's entries are kept",
    access=READ,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "audit.kept", Durability.REFUSALS_ONLY),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (TILE, BUNDLE, KEPT)
