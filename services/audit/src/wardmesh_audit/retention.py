"""What callers decide about keeping: policies and legal holds. (What then ends: `pruner`.)

What always holds: a change and the entry that tells of it are committed together. What is set is for what is sealed
later; a hold is for everything that is not pruned when it is placed.
"""

from __future__ import annotations

from wardmesh.contracts.audit import (
    Hold,
    Holds,
    LiftHold,
    ListHolds,
    ListPrunings,
    PlaceHold,
    Prunings,
    Retention,
    SetRetention,
)
from wardmesh.contracts.operation import Empty
from wardmesh.server.context import Call
from wardmesh_audit.ports import RetentionStore


class RetentionService:
    """The use cases of keeping."""

    def __init__(self, store: RetentionStore) -> None:
        self._store = store

    async def show(self, call: Call, _request: Empty) -> Retention:
        """Return the policy in force."""
        return await self._store.policy(call)

    async def set(self, call: Call, request: SetRetention) -> Retention:
        """Keep what is sealed later of a category for so many days; the contract knows the floor."""
        call.note(days=request.days)
        return await self._store.set_days(call, request.category, request.days)

    async def place_hold(self, call: Call, request: PlaceHold) -> Hold:
        """Stop pruning in the caller's scope."""
        call.note(reason=request.reason)
        return await self._store.place_hold(call, request.reason)

    async def lift_hold(self, call: Call, request: LiftHold) -> Hold:
        """Let pruning go on, as far as one hold is concerned."""
        call.note(reason=request.reason)
        return await self._store.lift_hold(call, request.number, request.reason)

    async def holds(self, call: Call, request: ListHolds) -> Holds:
        """Return the scope's holds."""
        return Holds(holds=tuple(await self._store.holds(call, request.limit)))

    async def prunings(self, call: Call, request: ListPrunings) -> Prunings:
        """Return what ended, or is about to."""
        return Prunings(prunings=tuple(await self._store.prunings(call, request.limit)))
