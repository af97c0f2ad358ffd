"""Leaves as they are given out: those that are there, and nothing in the places of those that were pruned.

What always holds: leaves come without a gap; a place is empty only if the entry was kept to a day to which the log is
pruned.

On failure: `LogDamaged` if the first leaf asked for is neither there nor pruned; a later one ends the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from wardmesh.audit_openings import COMMITTING
from wardmesh.contracts.audit import KeptRun
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.domain import Stored
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.ports import LogStore

NO_OPENINGS: Final[Mapping[int, bytes]] = MappingProxyType({})
PRUNED: Final = b""
"""A leaf whose time is over; what is sealed is never empty."""


class KeptLeaves(NamedTuple):
    """Leaves of a range, from its start on, and to when those are kept that are not kept for ever."""

    leaves: Sequence[bytes]
    kept: Sequence[KeptRun]
    openings: Mapping[int, bytes] = NO_OPENINGS
    """What is stored beside those that commit to something, by index."""

    def first(self, start: int, count: int) -> KeptLeaves:
        """Return the first `count` of these leaves, which begin at index `start`."""
        last = start + count - 1
        runs = [KeptRun(first=run.first, last=min(run.last, last), kept_to=run.kept_to) for run in self.kept]
        return KeptLeaves(self.leaves[:count], [run for run in runs if run.first <= last], self.openings)

    def committing(self, start: int) -> list[Stored]:
        """Return the leaves that commit to something; the first of all is at `start`."""
        return [
            Stored(index, leaf, self.openings.get(index))
            for index, leaf in enumerate(self.leaves, start)
            if leaf.startswith(COMMITTING)
        ]


async def leaves_of(store: LogStore, tenant: TenantContext, *, start: int, end: int) -> KeptLeaves:
    """Return leaves of [start, end), as many as a page has."""
    found: dict[int, bytes] = {}
    openings: dict[int, bytes] = {}
    for stored in await store.leaves(tenant, start=start, end=end):
        if stored.index in found:
            end = stored.index  # one that is there twice is left to the next call, which then begins with it
            break
        found[stored.index] = stored.leaf
        if stored.openings is not None:
            openings[stored.index] = stored.openings
    kept = await store.kept(tenant, start=start, end=end)  # after looking: what was gone by then is among it
    pruned = kept.pruned()
    leaves: list[bytes] = []
    for index in range(start, end):
        if index not in found and index not in pruned:
            break
        leaves.append(found.get(index, PRUNED))
    if not leaves:
        raise LogDamaged(f"Entry {start} is missing, or there twice.")
    return KeptLeaves(leaves, kept.runs, openings).first(start, len(leaves))
