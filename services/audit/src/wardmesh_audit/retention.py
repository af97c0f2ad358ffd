"""What callers decide about keeping: policies and legal holds. (What then ends: `pruner`.)

What always holds: a change and the entry that tells of it are committed together. What is set is for what is sealed
later; a hold is for everything that is not pruned when it is placed. Rows name people by their pseudonyms.
"""

from __future__ import annotations

from collections.abc import Mapping

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
from wardmesh.ids import Principal
from wardmesh.server.context import Call
from wardmesh_audit.ports import RetentionStore
from wardmesh_audit.subjects import Subjects


class RetentionService:
    """The use cases of keeping."""

    def __init__(self, store: RetentionStore, subjects: Subjects) -> None:
        self._store = store
        self._subjects = subjects

    async def show(self, call: Call, _request: Empty) -> Retention:
        """Return the policy in force."""
        return await self._shown(call, await self._store.policy(call))

    async def set(self, call: Call, request: SetRetention) -> Retention:
        """Keep what is sealed later of a category for so many days; the contract knows the floor."""
        call.note(days=request.days)
        await self._subjects.known_as(call)
        return await self._shown(call, await self._store.set_days(call, request.category, request.days))

    async def place_hold(self, call: Call, request: PlaceHold) -> Hold:
        """Stop pruning in the caller's scope."""
        call.note(reason=request.reason)
        await self._subjects.known_as(call)
        return await self._held(call, await self._store.place_hold(call, request.reason))

    async def lift_hold(self, call: Call, request: LiftHold) -> Hold:
        """Let pruning go on, as far as one hold is concerned."""
        call.note(reason=request.reason)
        await self._subjects.known_as(call)
        return await self._held(call, await self._store.lift_hold(call, request.number, request.reason))

    async def holds(self, call: Call, request: ListHolds) -> Holds:
        """Return the scope's holds."""
        holds = await self._store.holds(call, request.limit)
        named = {who for hold in holds for who in (hold.placed_by, hold.lifted_by) if who is not None}
        people = await self._subjects.shown(call.caller.scope, named)
        return Holds(holds=tuple(_named(hold, people) for hold in holds))

    async def prunings(self, call: Call, request: ListPrunings) -> Prunings:
        """Return what ended, or is about to."""
        return Prunings(prunings=tuple(await self._store.prunings(call, request.limit)))

    async def _shown(self, call: Call, policy: Retention) -> Retention:
        who = policy.changed_by
        if who is None:
            return policy
        return policy.model_copy(update={"changed_by": (await self._subjects.shown(call.caller.scope, [who]))[who]})

    async def _held(self, call: Call, hold: Hold) -> Hold:
        people = [who for who in (hold.placed_by, hold.lifted_by) if who is not None]
        return _named(hold, await self._subjects.shown(call.caller.scope, people))


def _named(hold: Hold, people: Mapping[Principal, Principal]) -> Hold:
    """Return a hold with those who placed and lifted it, in the place of their pseudonyms."""
    lifted_by = hold.lifted_by
    return hold.model_copy(
        update={
            "placed_by": people[hold.placed_by],
            "lifted_by": None if lifted_by is None else people[lifted_by],
        }
    )
