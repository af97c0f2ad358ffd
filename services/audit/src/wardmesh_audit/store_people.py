"""Erasures in PostgreSQL, persons' own entries, and which folder of keys the database was written with.

What always holds: an erasure's row, the entry that tells of it and the audit event of the call commit together, or none
of them does; no row says who was erased. Own entries are read with the right to those alone, so that row-level security
holds the answer to them, whatever else the caller may read.

On failure: the errors of `wardmesh.server.database_errors`; a transaction that failed has left nothing in the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from wardmesh.contracts.audit import MAX_PAGE_BYTES, MINE, AuditEvent, Erasure
from wardmesh.contracts.operation import Permission
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.errors import UnderHold
from wardmesh.ids import EventId, OrgId, Scope, UserId
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.database import Connection, Database
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import OtherKeys
from wardmesh_audit.ports import Scanned
from wardmesh_audit.store import FIRST_USE
from wardmesh_audit.store_pages import page_of, stored

_REMEMBER: Final = "insert into audit.key_folder (folder_id) values ($1) on conflict do nothing"
_REMEMBERED: Final = "select folder_id from audit.key_folder"
_WAIT_FOR_HOLDS: Final = "select audit.wait_for_holds(app.scope_id())"
_IS_HELD: Final = "select audit.is_held(app.scope_id())"
_ADD: Final = """
    insert into audit.erasures (erasure_id, entries, certificate, erased_at) values ($1, $2, $3, $4)
"""
_COLUMNS: Final = "erasure_id, erased_at, entries, certificate"
_FIND: Final = f"select {_COLUMNS} from audit.erasures where scope_id = app.scope_id() and erasure_id = $1"  # noqa: S608
_LIST: Final = f"select {_COLUMNS} from audit.erasures order by erased_at desc, erasure_id limit $1"  # noqa: S608
_COUNT: Final = "select count(*) from audit.erasures"
# Waits for whoever appends at this moment, and for nobody else: pruning has the head in hand while it waits for who
# erases. It is let go of before the counting.
_WAIT_FOR_APPENDING: Final = "select true from audit.logs where scope_id = $1 for key share"
_ACTS: Final = """
    select (select count(*) from audit.entries where scope_id = $1 and actor = $2)
         + (select count(*) from audit.entries where scope_id = $1 and acting_for = $2 and actor <> $2)
"""
# Two indexes, merged.
_OWN: Final = page_of(
    """
    (select index, leaf, openings from audit.entries
      where scope_id = app.scope_id() and actor = app.principal_id() and index < $1
      order by index desc limit $2)
    union all
    (select index, leaf, openings from audit.entries
      where scope_id = app.scope_id() and acting_for = app.principal_id() and actor <> app.principal_id() and index < $1
      order by index desc limit $2)
    order by index desc limit $2
    """,
    "desc",
)
_LAST: Final = 2**63 - 1


class ErasureRows:
    """The rows of erasures, within one transaction."""

    def __init__(self, connection: Connection, outbox: AuditOutbox, scope: Scope) -> None:
        self._connection = connection
        self._outbox = outbox
        self._scope = scope

    async def find(self, erasure_id: EventId) -> Erasure | None:
        row = await self._connection.fetchrow(_FIND, erasure_id)
        return None if row is None else Erasure.model_validate(dict(row))

    async def add(self, erasure: Erasure, told: AuditEvent) -> None:
        values = erasure.erasure_id, erasure.entries, erasure.certificate, erasure.erased_at
        await self._connection.execute(_ADD, *values)
        await self._outbox.put_audit(self._connection, self._scope, told)


class PostgresPeople:
    """The port `PeopleStore` on a real database."""

    def __init__(self, database: Database, outbox: AuditOutbox) -> None:
        self._database = database
        self._outbox = outbox

    async def expect_folder(self, folder_id: str) -> None:
        """Remember the folder of keys if none is; raise `OtherKeys` if another one is."""
        async with self._database.transaction(the_log(OrgId.nil())) as connection:
            await connection.execute(_REMEMBER, folder_id)
            if await connection.fetchval(_REMEMBERED) != folder_id:
                raise OtherKeys

    @asynccontextmanager
    async def erasing(self, call: Call) -> AsyncIterator[ErasureRows]:
        async with call.transaction(self._database) as connection:
            await connection.execute(_WAIT_FOR_HOLDS)
            if await connection.fetchval(_IS_HELD):
                raise UnderHold
            yield ErasureRows(connection, self._outbox, call.caller.scope)

    async def acts(self, scope: Scope, pseudonym: UserId) -> int:
        async with self._database.transaction(the_log(scope)) as connection:
            if await connection.fetchval(_WAIT_FOR_APPENDING, scope) is None:
                await connection.execute(FIRST_USE, scope, EMPTY_ROOT)  # waits for who does so at this moment
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            return int(await connection.fetchval(_ACTS, scope, pseudonym) or 0)

    async def erasures(self, tenant: TenantContext, limit: int) -> Sequence[Erasure]:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return [Erasure.model_validate(dict(row)) for row in await connection.fetch(_LIST, limit)]

    async def count_erasures(self, tenant: TenantContext) -> int:
        async with self._database.transaction(tenant, read_only=True) as connection:
            return int(await connection.fetchval(_COUNT) or 0)

    async def own(self, tenant: TenantContext, *, before: int | None, limit: int) -> Scanned:
        access = MINE.access
        assert isinstance(access, Permission)  # noqa: S101 - it is
        only = replace(tenant, permissions=frozenset({access.name}))
        end = _LAST if before is None else before
        async with self._database.transaction(only, read_only=True) as connection:
            found = stored(await connection.fetch(_OWN, end, limit + 1))
        whole = len(found) <= limit and sum(each.size for each in found) <= MAX_PAGE_BYTES // 2
        page = found[:limit]
        # A page that is cut by its bytes cannot be told from the last one, so another may come, and be empty.
        return Scanned(page, 0 if whole or not page else page[-1].index)
