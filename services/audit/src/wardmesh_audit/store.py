"""The logs in PostgreSQL: sealing, publishing, proving, signing. What readers search is in `store_reading`.

What always holds: whoever appends holds the row lock of the scope's head until the commit, so a scope's indexes are
given out without gaps and become visible in order. A reader who has seen a size sees every entry below it.

On failure: the errors of `wardmesh.server.database_errors`; a transaction that failed has left nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from typing import Final

import asyncpg

from wardmesh.contracts.audit import KeptRun
from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.crypto.note import SignedNote
from wardmesh.crypto.tiles import Tile
from wardmesh.ids import EventId, Scope
from wardmesh.server.database import Connection, Database
from wardmesh.server.database_errors import ConstraintConflict, DatabaseDefect
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import scope_of, the_log
from wardmesh_audit.domain import Candidate, Stored, searchable
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.keeping import FOR_EVER, NEVER, Policy, kept_to
from wardmesh_audit.ports import NOTHING, Check, Kept, Located, Place, Publication, Sealed
from wardmesh_audit.proofs import Head, SignedHead, grow, partial_tiles
from wardmesh_audit.searching import trace_place
from wardmesh_audit.store_pages import page_of, stored

_NO_PARTITION: Final = "23514"
"""SQLSTATE of a row that no partition takes; of any other CHECK too, which the second attempt then says again."""
_HEAD: Final = "select size, frontier, root from audit.logs where scope_id = $1"
# With what an append needs to know besides: the months that take nothing more, and for how long what is kept.
_HEAD_TO_APPEND: Final = """
    select size, frontier, root, pruning_to,
           (select days from audit.retention r where r.scope_id = l.scope_id order by revision desc limit 1) as days
      from audit.logs l where scope_id = $1 for update of l
"""
FIRST_USE: Final = """
    with head as (insert into audit.logs (scope_id, root) values ($1, $2) on conflict do nothing)
    insert into audit.publications (scope_id) values ($1) on conflict do nothing
"""
# One look into the unique key for each. With `= any` the planner, before it has statistics, prefers to read the whole
# log of the scope by its other key: 150 ms at fifteen thousand entries, and growing (docs/adr/0020).
_KNOWN: Final = """
    select wanted.event_id
      from unnest($2::text[]) as wanted (event_id)
     cross join lateral (
           select from audit.leaves l where l.scope_id = $1 and l.event_id = wanted.event_id limit 1) as there
"""
_LOCATE: Final = """
    select l.index, l.leaf_hash, e.leaf, e.openings
      from audit.leaves l left join audit.entries e on e.scope_id = l.scope_id and e.index = l.index
     where l.scope_id = $1 and l.event_id = $2
"""
# All that an append writes, in one round trip: those are what a small one costs. An entry travels as one value: with
# an array a column, every element of each would be handled for itself, here and there (docs/adr/0020).
_APPEND: Final = """
    with leaves as (
        insert into audit.leaves (scope_id, index, event_id, leaf_hash, kept_to)
        select $1, $2 + ordinality - 1, event_id, leaf_hash, kept_to
          from unnest($6::audit.appended[]) with ordinality as added
    ), entries as (
        insert into audit.entries (scope_id, index, kept_to, received_at, leaf, openings, source, occurred_at, category,
                                   action, outcome, actor, acting_for, targets, request_id, trace_id, trace_place)
        select $1, $2 + ordinality - 1, kept_to, received_at, leaf, openings, source, occurred_at, category,
               action, outcome, actor, acting_for, targets, request_id, trace_id, trace_place
          from unnest($6) with ordinality as added
    ), tiles as (
        insert into audit.tiles (scope_id, level, index, root, hashes)
        select $1, level, index, root, hashes
          from unnest($7::smallint[], $8::bigint[], $9::bytea[], $10::bytea[]) as added (level, index, root, hashes)
    )
    update audit.logs set size = $3, frontier = $4, root = $5, sealed_at = now() where scope_id = $1
"""
_PLACES: Final = """
    select index, event_id, leaf_hash from audit.leaves where scope_id = $1 and index >= $2 and index < $3
"""
# The row lock holds back other publishers, and not who appends. While it is waited for the head may grow: by what
# somebody else sealed, who will publish it too.
_TO_PUBLISH: Final = """
    select published_size, size from audit.publications p join audit.logs l using (scope_id)
     where scope_id = $1 for no key update of p
"""
_PUBLISHED: Final = "update audit.publications set published_size = $2 where scope_id = $1 and published_size < $2"
_SIGNED: Final = "select signed_size, signed_note from audit.logs where scope_id = $1"
_SIGN: Final = "update audit.logs set signed_size = $2, signed_note = $3 where scope_id = $1 and signed_size < $2"
# A full tile has a row of its own; a partial one is the leaves', or the full tiles', below it. `limit` takes nothing
# away. It lets PostgreSQL expect few tiles before it knows how many; else it would plan this anew each time.
_TILES: Final = """
    select wanted.place, coalesce(
        (select substring(hashes from 1 for wanted.width * 32) from audit.tiles t
          where t.scope_id = $1 and t.level = wanted.level and t.index = wanted.index),
        case when wanted.level = 0
             then (select string_agg(leaf_hash, ''::bytea order by l.index) from audit.leaves l
                    where l.scope_id = $1 and l.index >= wanted.index * 256
                      and l.index < wanted.index * 256 + wanted.width)
             else (select string_agg(root, ''::bytea order by t.index) from audit.tiles t
                    where t.scope_id = $1 and t.level = wanted.level - 1 and t.index >= wanted.index * 256
                      and t.index < wanted.index * 256 + wanted.width) end, ''::bytea) as content
      from (select * from unnest($2::int[], $3::bigint[], $4::int[]) with ordinality limit cardinality($2))
           as wanted (level, index, width, place)
"""


# Entries that end, in runs that end on the same day.
_KEPT: Final = """
    select min(index) as first, max(index) as last, kept_to from (
        select index, kept_to, index - row_number() over (partition by kept_to order by index) as run
          from audit.leaves where scope_id = $1 and index >= $2 and index < $3 and kept_to < 'infinity') as kept
     group by kept_to, run order by first
"""
_PRUNED_TO: Final = "select pruned_to from audit.logs where scope_id = $1"
_LEAVES: Final = page_of(
    "select index, leaf, openings from audit.entries where scope_id = $1 and index >= $2 and index < $3"
)


class PostgresStore:
    """The port `LogStore` on a real database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._months: set[date] = set()
        """Known to be open; if one was dropped since, sealing into it fails once and opens it."""

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        """Append what is not in the log yet, in order, in one transaction.

        It is tried as if nothing were in yet and every month were still open, which nearly always holds; keys and
        partitions say where it does not.
        """
        try:
            return await self._seal(scope, candidates, check, look=False)
        except ConstraintConflict:
            pass
        except DatabaseDefect as error:
            if error.sqlstate != _NO_PARTITION:
                raise
        self._months.clear()
        return await self._seal(scope, candidates, check, look=True)

    async def _seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None, *, look: bool) -> Sealed:
        fresh: dict[str, Candidate] = {}
        for candidate in candidates:
            fresh.setdefault(candidate.event.id, candidate)
        async with self._database.transaction(the_log(scope)) as connection:
            head, policy, closed_to = await self._locked_head(connection, scope)
            for row in await connection.fetch(_KNOWN, scope, list(fresh)) if look else ():
                del fresh[row["event_id"]]
            added = list(fresh.values())
            if added:
                if check is not None:
                    await check()
                kept = [kept_to(each.event, each.source, each.received_at, policy, closed_to) for each in added]
                await self._append(connection, scope, head, added, await self._opened(connection, kept))
        return Sealed(head.size, tuple(added), len(candidates) - len(added))

    @asynccontextmanager
    async def publication(self, scope: Scope, *, limit: int, at_hand: range = NOTHING) -> AsyncIterator[Publication]:
        """Show what is to be published next, and remember how far it was."""
        async with self._database.transaction(the_log(scope)) as connection:
            # An fsync less for every batch; what is forgotten to have been published is published again.
            connection.may_be_forgotten()
            row = await connection.fetchrow(_TO_PUBLISH, scope)
            start, size = (0, 0) if row is None else (row["published_size"], row["size"])
            entries: Sequence[Stored] = ()
            if start not in at_hand:
                entries = await self._leaves(connection, scope, start, min(size, start + limit))
            publication = Publication(entries, start, size)
            yield publication
            if publication.upto is not None:
                await connection.execute(_PUBLISHED, scope, publication.upto)

    async def head(self, tenant: TenantContext) -> Head:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return _head(await connection.fetchrow(_HEAD, scope_of(tenant)))

    async def leaves(self, tenant: TenantContext, *, start: int, end: int) -> Sequence[Stored]:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return await self._leaves(connection, scope_of(tenant), start, end)

    async def kept(self, tenant: TenantContext, *, start: int, end: int) -> Kept:
        async with self._database.transaction(tenant, read_only=True) as connection:
            rows = await connection.fetch(_KEPT, scope_of(tenant), start, end)
            # Asked last: what was gone when the caller looked is among it.
            pruned_to = await connection.fetchval(_PRUNED_TO, scope_of(tenant))
        runs = tuple(KeptRun(first=row["first"], last=row["last"], kept_to=row["kept_to"]) for row in rows)
        return Kept(runs, NEVER if pruned_to is None else pruned_to)

    async def tiles(self, tenant: TenantContext, tiles: Iterable[Tile]) -> Mapping[Tile, bytes]:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return await self._tiles(connection, scope_of(tenant), list(tiles))

    async def places(self, tenant: TenantContext, *, start: int, end: int) -> Mapping[int, Place]:
        async with self._database.transaction(tenant, read_only=True) as connection:
            rows = await connection.fetch(_PLACES, scope_of(tenant), start, end)
        return {row["index"]: Place(row["event_id"], row["leaf_hash"]) for row in rows}

    async def locate(self, tenant: TenantContext, event_id: EventId) -> Located | None:
        async with self._database.transaction(tenant, read_only=True) as connection:
            row = await connection.fetchrow(_LOCATE, scope_of(tenant), event_id)
        return None if row is None else Located(row["index"], row["leaf_hash"], row["leaf"], row["openings"])

    async def signed(self, scope: Scope) -> SignedHead | None:
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            row = await connection.fetchrow(_SIGNED, scope)
        if row is None or row["signed_note"] is None:
            return None
        note = row["signed_note"].encode()
        try:
            checkpoint = Checkpoint.parse_text(SignedNote.parse(note).text)
        except MalformedEncoding as error:
            raise LogDamaged("What was signed last is damaged.") from error
        return SignedHead(checkpoint.size, checkpoint.root, note)

    async def remember_signed(self, scope: Scope, signed: SignedHead) -> None:
        async with self._database.transaction(the_log(scope)) as connection:
            await connection.execute(_SIGN, scope, signed.size, signed.note.decode())

    async def _locked_head(self, connection: Connection, scope: Scope) -> tuple[Head, Policy, date]:
        row = await connection.fetchrow(_HEAD_TO_APPEND, scope)
        if row is None:
            await connection.execute(FIRST_USE, scope, EMPTY_ROOT)
            row = await connection.fetchrow(_HEAD_TO_APPEND, scope)
        if row is None:
            return Head(), {}, NEVER
        return _head(row), row["days"] or {}, row["pruning_to"]

    async def _opened(self, connection: Connection, kept: Sequence[date]) -> Sequence[date]:
        """Make sure that there are partitions for these entries; what none can be opened for is kept for ever."""
        refused: set[date] = set()
        for month in {*kept} - self._months - {FOR_EVER}:
            if await connection.fetchval("select audit.open_month($1)", month):
                connection.after_commit(partial(self._months.add, month))
            else:
                refused.add(month)
        return [FOR_EVER if month in refused else month for month in kept]

    async def _append(
        self,
        connection: Connection,
        scope: Scope,
        head: Head,
        candidates: Sequence[Candidate],
        kept: Sequence[date],
    ) -> None:
        hashes = [candidate.leaf_hash for candidate in candidates]
        growth = grow(head, hashes, await self._tiles(connection, scope, partial_tiles(head.size, len(hashes))))
        grown, filled = growth.head, growth.filled
        added = enumerate(zip(candidates, kept, strict=True), head.size)
        await connection.execute(
            _APPEND,
            scope,
            head.size,
            grown.size,
            list(grown.frontier),
            grown.root,
            [_appended(index, candidate, kept_to) for index, (candidate, kept_to) in added],
            [full.tile.level for full in filled],
            [full.tile.index for full in filled],
            [full.root for full in filled],
            [full.hashes for full in filled],
        )

    async def _leaves(self, connection: Connection, scope: Scope, start: int, end: int) -> list[Stored]:
        return stored(await connection.fetch(_LEAVES, scope, start, end))

    async def _tiles(self, connection: Connection, scope: Scope, tiles: Sequence[Tile]) -> dict[Tile, bytes]:
        if not tiles:
            return {}
        places = [tile.level for tile in tiles], [tile.index for tile in tiles], [tile.width for tile in tiles]
        rows = await connection.fetch(_TILES, scope, *places)
        return {tiles[row["place"] - 1]: row["content"] for row in rows}


def _head(row: asyncpg.Record | None) -> Head:
    if row is None:
        return Head()
    return Head(row["size"], tuple(row["frontier"]), row["root"])


def _appended(index: int, candidate: Candidate, kept_to: date) -> tuple[object, ...]:
    """Return an entry as a value of `audit.appended`."""
    event, names = candidate.event, candidate.stored_names()
    return (
        event.id,
        candidate.leaf_hash,
        kept_to,
        candidate.received_at,
        candidate.leaf,
        candidate.openings,
        candidate.source,
        event.occurred_at,
        event.category,
        event.action,
        event.outcome,
        names.actor,
        names.acting_for,
        [searchable(target) for target in names.targets],
        event.request_id,
        event.trace_id,
        None if event.trace_id is None else trace_place(event.trace_id, index),
    )
