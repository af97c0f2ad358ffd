"""Pure rules: who may read which path, and what belongs to what.

A grant's pattern is a path, or with a final `/*` everything below it: `a/*` covers `a/b` and `a/b/c`, but neither
`a` nor `ab`. Nothing else is special in a pattern.

What always holds: `covers(pattern, path)` is true for exactly the patterns in `patterns_covering(path)`, so asking the
store for one of those is the same as trying every grant there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from wardmesh.contracts.operation import Level
from wardmesh.ids import OrgId, WorkspaceId

READS_ALL: Final = Level.ADMIN
"""From this level on nobody needs a grant: whoever may give grants could give one to themselves."""
MAY_WRITE: Final = "secret.write"
ANYTHING_BELOW: Final = "/*"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a key or a value is."""

    organization: OrgId
    workspace: WorkspaceId


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value belongs: it opens nowhere else."""

    owner: Owner
    path: str
    version: int


@dataclass(frozen=True, slots=True)
class StoredScopeKey:
    """A workspace's key, wrapped."""

    generation: int
    kek_id: str
    wrapped: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredSealingKey:
    """What values are sealed to on their way in; the private half is wrapped."""

    key_id: str
    public_key: bytes
    kek_id: str
    wrapped: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """One version's ciphertext, and its data key wrapped by the scope key of `generation`."""

    generation: int
    wrapped_key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version as the store has it, with the scope key that it needs."""

    path: str
    version: int
    created_at: datetime
    sealed: SealedVersion
    scope_key: StoredScopeKey


def covers(pattern: str, path: str) -> bool:
    """Tell whether a grant for `pattern` lets its holder read `path`."""
    if pattern.endswith(ANYTHING_BELOW):
        # The slash stays, so that `a/*` does not reach `ab`; what is below has at least one character more.
        return path.startswith(pattern[:-1]) and len(path) > len(pattern) - 1
    return pattern == path


def patterns_covering(path: str) -> tuple[str, ...]:
    """Return every pattern that covers `path`: itself, and one for each level above it."""
    parts = path.split("/")
    return (path, *("/".join(parts[:depth]) + ANYTHING_BELOW for depth in range(1, len(parts))))


def reads_all(level: Level) -> bool:
    """Tell whether somebody of this level reads every secret of the workspace without a grant."""
    return level >= READS_ALL


def sees_all_names(level: Level, permissions: frozenset[str]) -> bool:
    """Tell whether somebody may know every path: who reads all, and who writes. Others know what they may read."""
    return reads_all(level) or MAY_WRITE in permissions
