"""A complete fake of the ports `RetentionStore` and `PruningStore`, over the rows of a `FakeLog`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from fake_log import FakeLog
from makers import candidates

from wardmesh.audit_pruning import Announcement
from wardmesh.contracts.audit import MAX_HOLDS, AuditEvent, CategoryRetention, Hold, Pruning, Retention, floor_days
from wardmesh.contracts.operation import Category
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.ids import OrgId, Principal, Scope
from wardmesh.server.context import Call
from wardmesh.server.database_errors import DatabaseDefect, DatabaseRefused
from wardmesh_audit.errors import NoSuchHold, TooManyHolds
from wardmesh_audit.ports import Ending


class FakeRetention:
    """Both ports in memory. What goes into the outbox is sealed by `relay`."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.outbox: list[tuple[Scope, AuditEvent]] = []
        self._changed: dict[Scope, tuple[Principal, datetime]] = {}
        self._holds: dict[Scope, dict[int, Hold]] = defaultdict(dict)
        self._prunings: dict[Scope, dict[date, Pruning]] = defaultdict(dict)

    async def relay(self) -> None:
        """Seal what is in the outbox, as the relay, the broker and the sealer do."""
        waiting, self.outbox = self.outbox, []
        for scope, event in waiting:
            await self.log.seal(scope, candidates(scope, event, received_at=event.occurred_at, source="audit"))

    async def policy(self, call: Call) -> Retention:
        scope = call.caller.scope
        by, at = self._changed.get(scope, (None, None))
        days = self.log.rows[scope].policy
        return Retention(
            categories=tuple(
                CategoryRetention(category=each, days=days.get(each), floor_days=floor_days(each)) for each in Category
            ),
            changed_by=by,
            changed_at=at,
        )

    async def set_days(self, call: Call, category: Category, days: int | None) -> Retention:
        scope = call.caller.scope
        policy = {name: kept for name, kept in self.log.rows[scope].policy.items() if name != category}
        if days is not None:
            policy[category] = days
        self.log.rows[scope].policy = policy
        self._changed[scope] = call.caller.principal, datetime.now(UTC)
        return await self.policy(call)

    async def place_hold(self, call: Call, reason: str) -> Hold:
        holds = self._holds[call.caller.scope]
        if sum(hold.lifted_at is None for hold in holds.values()) >= MAX_HOLDS:
            raise TooManyHolds
        number = len(holds) + 1
        placed_by = call.caller.principal
        holds[number] = Hold(number=number, reason=reason, placed_by=placed_by, placed_at=datetime.now(UTC))
        return holds[number]

    async def lift_hold(self, call: Call, number: int, reason: str) -> Hold:
        holds = self._holds[call.caller.scope]
        if number not in holds:
            raise NoSuchHold
        if holds[number].lifted_at is None:
            lifted = {"lifted_by": call.caller.principal, "lifted_at": datetime.now(UTC), "lifted_because": reason}
            holds[number] = holds[number].model_copy(update=lifted)
        return holds[number]

    async def holds(self, call: Call, limit: int) -> Sequence[Hold]:
        holds = self._holds[call.caller.scope].values()
        return sorted(holds, key=lambda hold: (hold.lifted_at is not None, -hold.number))[:limit]

    async def prunings(self, call: Call, limit: int) -> Sequence[Pruning]:
        scope = call.caller.scope
        found = sorted(self._prunings[scope].values(), key=lambda each: each.kept_to, reverse=True)[:limit]
        pruned_to = self.log.rows[scope].pruned_to
        return [each.model_copy(update={"pruned": each.kept_to <= pruned_to}) for each in found]

    async def prunable(self, now: datetime, limit: int) -> Sequence[tuple[Scope, date]]:
        today = _today(now)
        found: dict[Scope, date] = {}
        for scope, rows in self.log.rows.items():
            days = {rows.kept[index] for index in rows.entries if rows.pruned_to < rows.kept[index] <= today}
            if days and not self._is_held(scope):
                found[scope] = min(days)
        return sorted(found.items(), key=lambda item: (item[1], item[0]))[:limit]

    async def is_announced(self, scope: Scope, kept_to: date) -> bool | None:
        pruning = self._prunings[scope].get(kept_to)
        if pruning is None:
            return None
        return any(event_id == pruning.event_id for event_id, _ in self.log.rows[scope].leaves)

    async def close(self, scope: Scope, kept_to: date) -> int | None:
        rows = self.log.rows[scope]
        if kept_to > _today(datetime.now(UTC)):
            raise DatabaseRefused
        rows.pruning_to = max(rows.pruning_to, kept_to)
        return rows.head.size if rows.published_size == rows.head.size else None

    async def ending(self, scope: Scope, kept_to: date, *, start: int, end: int) -> Sequence[Ending]:
        rows = self.log.rows[scope]
        return [
            Ending(index, rows.leaves[index][1], leaf_hash(rows.entries.get(index, b"")) == rows.leaves[index][1])
            for index in range(start, end)
            if rows.kept[index] == kept_to
        ]

    async def announce(self, scope: Scope, announcement: Announcement, event: AuditEvent) -> None:
        said = announcement
        if said.kept_to in self._prunings[scope]:
            return
        self._prunings[scope][said.kept_to] = Pruning(
            kept_to=said.kept_to, first=said.first, last=said.last, entries=said.entries,
            digest=bytes.fromhex(said.digest), event_id=event.id, announced_at=event.occurred_at, pruned=False,
        )  # fmt: skip
        self.outbox.append((scope, event))

    async def prune(self, scope: Scope, kept_to: date) -> None:
        rows = self.log.rows[scope]
        if kept_to <= rows.pruned_to:
            return
        earlier = any(rows.pruned_to < rows.kept[index] < kept_to for index in rows.entries)
        if self._is_held(scope) or earlier or not await self.is_announced(scope, kept_to):
            raise DatabaseRefused
        rows.pruned_to = kept_to

    async def drop(self, now: datetime, event: AuditEvent) -> date | None:
        today = _today(now)
        left: dict[date, bool] = {}
        for rows in self.log.rows.values():
            for index in rows.entries:
                day = rows.kept[index]
                if day <= today:
                    left[day] = left.get(day, False) or day > rows.pruned_to
        done = [day for day, readable in sorted(left.items()) if not readable]
        if not done:
            return None
        for rows in self.log.rows.values():
            rows.entries = {index: leaf for index, leaf in rows.entries.items() if rows.kept[index] != done[0]}
        self.outbox.append((OrgId.nil(), replace_targets(event, f"entries_{done[0]:%Y_%m}")))
        return done[0]

    def _is_held(self, scope: Scope) -> bool:
        return any(hold.lifted_at is None for hold in self._holds[scope].values())


def replace_targets(event: AuditEvent, *targets: str) -> AuditEvent:
    return event.model_copy(update={"targets": targets})


def mark_published(log: FakeLog) -> None:
    """Let everybody have been told of everything."""
    for rows in log.rows.values():
        rows.published_size = rows.head.size


def _today(now: datetime) -> date:
    ours = datetime.now(UTC)
    if abs(now - ours) > timedelta(hours=1):
        raise DatabaseDefect("the clocks differ", sqlstate="55000")
    return min(now, ours).astimezone(UTC).date()
