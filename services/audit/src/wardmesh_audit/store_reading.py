"""Reading the logs in PostgreSQL: pages, where a time is, and saved positions.

What always holds: one look goes through at most `SCAN_ENTRIES` entries. The most selective field of a filter that has
an index chooses which ones (`_DRIVERS`), in the order of the log, so that a rare value is found at once in a log of any
size; the other fields are tried on those. What is left is said by `Scanned.reached`.

On failure: the errors of `wardmesh.server.database_errors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from wardmesh.contracts.audit import MAX_PAGE_BYTES, MAX_POSITIONS, Filter, Position
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES, TILE_WIDTH
from wardmesh.server.database import Connection, Database
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import scope_of
from wardmesh_audit.domain import decode_leaf, searchable
from wardmesh_audit.errors import TooManyPositions
from wardmesh_audit.ports import NO_NAMES, Scanned
from wardmesh_audit.searching import SINCE_MARGIN, has_words, plain_words, trace_places
from wardmesh_audit.store_pages import page_of, stored

SCAN_ENTRIES: Final = 10_000
"""Entries that one look goes through: some tens of milliseconds, and megabytes that nobody keeps."""
CLOCKS_APART: Final = timedelta(minutes=1)
"""How far the broker's clock, which says when an entry was received, may be ahead of the database's."""

# Each is unique to little, or more so than those behind it.
_DRIVERS: Final = ("request_id", "trace_id", "agent", "actor", "action", "category")
_COLUMNS: Final = (
    "index, leaf, openings, occurred_at, received_at, category, action, outcome, actor, acting_for, targets, "
    "request_id, trace_id"
)
_FIRST_OF: Final = """
    select coalesce(
        (select index from audit.tiles where scope_id = $1 and level = 0 and filled_at >= $2
          order by filled_at, index limit 1),
        (select index + 1 from audit.tiles where scope_id = $1 and level = 0 order by index desc limit 1), 0)
"""
_RECEIVED: Final = f"""
    select min(index) filter (where received_at >= $4) as first, max(index) as last
      from (select index, received_at from audit.entries where scope_id = $1 and index >= $2 and index < $3
             order by index limit {SCAN_ENTRIES}) as looked_at
"""  # noqa: S608 - a constant
_POSITIONS: Final = "select name, next_start, saved_at from audit.positions order by name"
_SAVE: Final = """
    insert into audit.positions (name, next_start) values ($1, $2)
        on conflict (scope_id, principal_id, name) do update set next_start = excluded.next_start, saved_at = now()
    returning name, next_start, saved_at
"""
_HOLD_POSITIONS: Final = """
    select pg_advisory_xact_lock(hashtextextended('audit.positions.' || app.scope_id() || app.principal_id(), 0))
"""


class PostgresReading:
    """The port `ReadingStore` on a real database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def scan(
        self,
        tenant: TenantContext,
        query: Filter,
        *,
        start: int,
        end: int,
        limit: int,
        newest_first: bool,
        names: Mapping[str, str] = NO_NAMES,
    ) -> Scanned:
        if start >= end:
            return Scanned((), start if newest_first else end)
        search = _search(query, names, start, end, newest_first=newest_first)
        ranged = (scope_of(tenant), start, end)
        async with self._database.transaction(tenant, read_only=True) as connection:
            rows = await connection.fetch(search.page(limit), *ranged, *search.values)
            found = stored(rows)
            if len(found) == limit or sum(each.size for each in found) > MAX_PAGE_BYTES - 2 * MAX_ENTRY_BYTES:
                # A page that is full, in number or in bytes, ends at its last entry.
                last: int | None = found[-1].index
            elif end - start <= SCAN_ENTRIES:
                last = None
            else:
                last = await connection.fetchval(search.last(), *ranged, *search.values[: search.candidate_values])
        if query.text is not None:
            found = [each for each in found if has_words(query.text, decode_leaf(each).event)]
        if last is None:
            return Scanned(found, start if newest_first else end)
        return Scanned(found, last if newest_first else last + 1)

    async def received(self, tenant: TenantContext, moment: datetime, *, end: int) -> int:
        scope = scope_of(tenant)
        async with self._database.transaction(tenant, read_only=True) as connection:
            start = await self._first_of(connection, tenant, moment)
            while start < end:
                row = await connection.fetchrow(_RECEIVED, scope, start, end, moment)
                if row is None or row["last"] is None:
                    return end
                if row["first"] is not None:
                    return int(row["first"])
                start = row["last"] + 1
        return end

    async def sealed_before(self, tenant: TenantContext, moment: datetime) -> int:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return await self._first_of(connection, tenant, moment)

    async def _first_of(self, connection: Connection, tenant: TenantContext, moment: datetime) -> int:
        tile = await connection.fetchval(_FIRST_OF, scope_of(tenant), moment - CLOCKS_APART)
        return int(tile) * TILE_WIDTH

    async def positions(self, tenant: TenantContext) -> Sequence[Position]:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return [Position.model_validate(dict(row)) for row in await connection.fetch(_POSITIONS)]

    async def save_position(self, tenant: TenantContext, name: str, next_start: int) -> Position:
        async with self._database.transaction(tenant) as connection:
            await connection.execute(_HOLD_POSITIONS)  # or two that are counted at once would both be the last
            row = await connection.fetchrow(_SAVE, name, next_start)
            if await connection.fetchval("select count(*) from audit.positions") > MAX_POSITIONS:
                raise TooManyPositions
        return Position.model_validate(dict(row))  # type: ignore[arg-type]  # an upsert returns its row

    async def delete_position(self, tenant: TenantContext, name: str) -> None:
        async with self._database.transaction(tenant) as connection:
            await connection.execute("delete from audit.positions where name = $1", name)


@dataclass(frozen=True, slots=True)
class _Search:
    """A filter as SQL. $1 to $3 are the scope and the range; then come the driver's value and those of the rest."""

    candidates: str
    conditions: str
    values: Sequence[object]
    candidate_values: int
    order: str

    def page(self, limit: int) -> str:
        found = f"""
            select index, leaf, openings from ({self.candidates}) as candidates
             where true {self.conditions} order by index {self.order} limit {int(limit)}
        """  # noqa: S608 - all of it is constants; values are parameters
        return page_of(found, self.order)

    def last(self) -> str:
        """Return the statement that says which of the candidates is the last one, if there may be more behind it."""
        return f"""
            select index from ({self.candidates}) as candidates
             order by index {self.order} offset {SCAN_ENTRIES - 1} limit 1
        """  # noqa: S608 - constants


def _search(query: Filter, names: Mapping[str, str], start: int, end: int, *, newest_first: bool) -> _Search:
    order = "desc" if newest_first else "asc"
    within = f"select {_COLUMNS} from audit.entries where scope_id = $1 and index >= $2 and index < $3"  # noqa: S608
    some = f"order by index {order} limit {SCAN_ENTRIES}"
    driver = next((name for name in _DRIVERS if getattr(query, name) is not None), None)
    values: list[object] = [] if driver is None else [getattr(query, driver)]
    # In this order two indexes are merged; with `or`, neither would be used.
    if driver == "agent":
        candidates = _either(
            f"{within} and actor = $4 {some}", f"{within} and acting_for = $4 and actor <> $4 {some}", some
        )
    elif driver == "trace_id" and query.trace_id is not None:
        # By place is by index, for one trace. What was sealed before there were places has none.
        by_place = f"order by trace_place {order}, index {order} limit {SCAN_ENTRIES}"
        placed = f"{within} and trace_id = $4 and trace_place = any ($5::bigint[]) {by_place}"
        candidates = _either(placed, f"{within} and trace_id = $4 and trace_place is null {some}", some)
        values.append(trace_places(query.trace_id, start, end))
    elif driver == "actor" and query.actor is not None and query.actor in names:
        # What was sealed before there were pseudonyms has the id.
        candidates = _either(f"{within} and actor = $4 {some}", f"{within} and actor = $5 {some}", some)
        values.append(names[query.actor])
    else:
        candidates = f"{within} {some}" if driver is None else f"{within} and {driver} = $4 {some}"
    chosen = len(values)
    conditions: list[str] = []
    for name, condition, value in _conditions(query, names):
        if value is not None and name != driver:
            values.append(value)
            conditions.append(f"and {condition.format(f'${3 + len(values)}')}")
    return _Search(candidates, " ".join(conditions), values, chosen, order)


def _either(one: str, other: str, some: str) -> str:
    return f"select * from (({one}) union all ({other})) as either {some}"  # noqa: S608 - constants


def _conditions(query: Filter, names: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    """Yield the fields that are given: each with its condition, and the value that goes into it."""
    for name in ("request_id", "trace_id", "action", "category", "outcome"):
        yield name, f"{name} = {{}}", getattr(query, name)
    yield "actor", "actor = any({}::text[])", None if query.actor is None else _both(query.actor, names)
    yield "agent", "{} in (actor, acting_for)", query.agent
    targets = None if query.target is None else [searchable(each) for each in _both(query.target, names)]
    yield "target", "targets && {}::text[]", targets
    yield "since", "occurred_at >= {}", query.since
    yield "since", "received_at >= {}", None if query.since is None else query.since - SINCE_MARGIN
    yield "until", "occurred_at < {}", query.until
    for word in [] if query.text is None else plain_words(query.text):
        # Every byte is a character of Latin 1, and no plain word has any but ASCII: nothing is decoded, nothing fails.
        yield "text", """position({}::text in lower(convert_from(leaf, 'LATIN1') collate "C")) > 0""", word.lower()


def _both(who: str, names: Mapping[str, str]) -> list[str]:
    return [who, names[who]] if who in names else [who]
