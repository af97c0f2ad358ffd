"""Policies, legal holds and pruning in PostgreSQL.

What always holds: the tables take inserts alone, so what was once said stays there. Each step of pruning is a
transaction of its own on behalf of one scope's log; that the steps come in order, not before their time and never past
a hold, the database's triggers hold (migrations/0006_retention.sql), whatever is asked for here.

On failure: the errors of `wardmesh.server.database_errors`; a transaction that failed has left nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

import asyncpg

from wardmesh.audit_pruning import Announcement
from wardmesh.contracts.audit import MAX_HOLDS, AuditEvent, CategoryRetention, Hold, Pruning, Retention, floor_days
from wardmesh.contracts.operation import Category
from wardmesh.ids import OrgId, Scope, parse_scope
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.database import Connection, Database
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import NoSuchHold, TooManyHolds
from wardmesh_audit.keeping import Policy
from wardmesh_audit.ports import Ending

_POLICY: Final = """
    select revision, days, changed_by, changed_at from audit.retention where scope_id = app.scope_id()
     order by revision desc limit 1
"""
_HOLD_POLICY: Final = "select pg_advisory_xact_lock(hashtextextended('audit.retention.' || app.scope_id(), 0))"
_SET_POLICY: Final = "insert into audit.retention (revision, days) values ($1, $2)"
_WAIT_FOR_HOLDS: Final = "select audit.wait_for_holds(app.scope_id())"
_HOLDS: Final = """
    select number, h.reason, placed_by, placed_at, lifted_by, lifted_at, l.reason as lifted_because
      from audit.holds h left join audit.lifted_holds l using (scope_id, number)
     where ($1::integer is null or number = $1) order by lifted_at is not null, number desc limit $2
"""
_COUNT_HOLDS: Final = """
    select coalesce(max(number), 0) as last, count(*) filter (where l.number is null) as in_force
      from audit.holds h left join audit.lifted_holds l using (scope_id, number)
"""
_PLACE: Final = "insert into audit.holds (number, reason) values ($1, $2)"
_LIFT: Final = "insert into audit.lifted_holds (number, reason) values ($1, $2) on conflict do nothing"
_PRUNINGS: Final = """
    select p.kept_to, first_index as first, last_index as last, entries, digest, event_id, announced_at,
           p.kept_to <= l.pruned_to as pruned
      from audit.prunings p join audit.logs l using (scope_id) order by p.kept_to desc limit $1
"""
_ANNOUNCED: Final = """
    select exists (select from audit.leaves l where l.scope_id = p.scope_id and l.event_id = p.event_id) as sealed
      from audit.prunings p where scope_id = app.scope_id() and kept_to = $1
"""
_CLOSE: Final = "update audit.logs set pruning_to = $1 where scope_id = app.scope_id() and pruning_to < $1"
_SIZE: Final = """
    select size, published_size from audit.logs join audit.publications using (scope_id) where scope_id = app.scope_id()
"""
# Whether what is about to end is what the tree says, one last time: afterwards nobody can tell.
_ENDING: Final = """
    select l.index, l.leaf_hash, coalesce(sha256('\\x00'::bytea || e.leaf) = l.leaf_hash, false) as sound
      from audit.leaves l
      left join audit.entries e on e.scope_id = l.scope_id and e.index = l.index and e.kept_to = $1
     where l.scope_id = app.scope_id() and l.kept_to = $1 and l.index >= $2 and l.index < $3
     order by l.index
"""
_ANNOUNCE: Final = """
    insert into audit.prunings (kept_to, event_id, first_index, last_index, entries, digest)
    values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning true
"""
_PRUNE: Final = "update audit.logs set pruned_to = $1 where scope_id = app.scope_id() and pruned_to < $1"


class PostgresRetention:
    """The ports `RetentionStore` and `PruningStore` on a real database."""

    def __init__(self, database: Database, outbox: AuditOutbox) -> None:
        self._database = database
        self._outbox = outbox

    async def policy(self, call: Call) -> Retention:
        async with call.transaction(self._database, read_only=True) as connection:
            return _retention(await connection.fetchrow(_POLICY))

    async def set_days(self, call: Call, category: Category, days: int | None) -> Retention:
        async with call.transaction(self._database) as connection:
            await connection.execute(_HOLD_POLICY)
            row = await connection.fetchrow(_POLICY)
            policy = {} if row is None else dict(row["days"])
            if policy.get(category) != days:
                policy.pop(category, None)
                if days is not None:
                    policy[category] = days
                await connection.execute(_SET_POLICY, 1 if row is None else row["revision"] + 1, policy)
            return _retention(await connection.fetchrow(_POLICY))

    async def place_hold(self, call: Call, reason: str) -> Hold:
        async with call.transaction(self._database) as connection:
            await connection.execute(_WAIT_FOR_HOLDS)
            row = await connection.fetchrow(_COUNT_HOLDS)
            last, in_force = (0, 0) if row is None else (row["last"], row["in_force"])
            if in_force >= MAX_HOLDS:
                raise TooManyHolds
            await connection.execute(_PLACE, last + 1, reason)
            call.note(targets=[str(last + 1)], reason=reason)
            return await _hold(connection, last + 1)

    async def lift_hold(self, call: Call, number: int, reason: str) -> Hold:
        async with call.transaction(self._database) as connection:
            await _hold(connection, number)
            await connection.execute(_LIFT, number, reason)
            return await _hold(connection, number)

    async def holds(self, call: Call, limit: int) -> Sequence[Hold]:
        async with call.transaction(self._database, read_only=True) as connection:
            return [Hold.model_validate(dict(row)) for row in await connection.fetch(_HOLDS, None, limit)]

    async def prunings(self, call: Call, limit: int) -> Sequence[Pruning]:
        async with call.transaction(self._database, read_only=True) as connection:
            return [Pruning.model_validate(dict(row)) for row in await connection.fetch(_PRUNINGS, limit)]

    async def prunable(self, now: datetime, limit: int) -> Sequence[tuple[Scope, date]]:
        async with self._database.transaction(_MESH, read_only=True) as connection:
            rows = await connection.fetch("select scope_id, kept_to from audit.prunable($1, $2)", now, limit)
        return [(parse_scope(row["scope_id"]), row["kept_to"]) for row in rows]

    async def is_announced(self, scope: Scope, kept_to: date) -> bool | None:
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            sealed: bool | None = await connection.fetchval(_ANNOUNCED, kept_to)
        return sealed

    async def close(self, scope: Scope, kept_to: date) -> int | None:
        async with self._database.transaction(the_log(scope)) as connection:
            await connection.execute(_CLOSE, kept_to)
            row = await connection.fetchrow(_SIZE)
        return None if row is None or row["published_size"] < row["size"] else row["size"]

    async def ending(self, scope: Scope, kept_to: date, *, start: int, end: int) -> Sequence[Ending]:
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            rows = await connection.fetch(_ENDING, kept_to, start, end)
        return [Ending(row["index"], row["leaf_hash"], row["sound"]) for row in rows]

    async def announce(self, scope: Scope, announcement: Announcement, event: AuditEvent) -> None:
        said = announcement
        async with self._database.transaction(the_log(scope)) as connection:
            values = said.kept_to, event.id, said.first, said.last, said.entries, bytes.fromhex(said.digest)
            if await connection.fetchval(_ANNOUNCE, *values):
                await self._outbox.put_audit(connection, scope, event)

    async def prune(self, scope: Scope, kept_to: date) -> None:
        async with self._database.transaction(the_log(scope)) as connection:
            await connection.execute(_PRUNE, kept_to)

    async def drop(self, now: datetime, event: AuditEvent) -> date | None:
        async with self._database.transaction(_MESH) as connection:
            dropped: date | None = await connection.fetchval("select audit.drop_pruned($1)", now)
            if dropped is not None:
                said = event.model_copy(update={"targets": (f"entries_{dropped:%Y_%m}",)})
                await self._outbox.put_audit(connection, OrgId.nil(), said)
        return dropped


_MESH: Final[TenantContext] = the_log(OrgId.nil())


async def _hold(connection: Connection, number: int) -> Hold:
    row = await connection.fetchrow(_HOLDS, number, 1)
    if row is None:
        raise NoSuchHold
    return Hold.model_validate(dict(row))


def _retention(row: asyncpg.Record | None) -> Retention:
    days: Policy = {} if row is None else row["days"]
    return Retention(
        categories=tuple(
            CategoryRetention(category=category, days=days.get(category), floor_days=floor_days(category))
            for category in Category
        ),
        changed_by=None if row is None else row["changed_by"],
        changed_at=None if row is None else row["changed_at"],
    )
