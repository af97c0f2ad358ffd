"""Forwarders in PostgreSQL: where they send to, their cursors and their leases.

What always holds: a caller sees its scope's. Looking for what is to be done, and nothing else, is done for no scope, by
a function of the database's that gives out scope and name. A lease is a number that only its holder knows; a statement
that names another one changes nothing.

On failure: the errors of `wardmesh.server.database_errors`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import uuid4

import asyncpg

from wardmesh.contracts.audit import MAX_FORWARDERS, AuditEvent, Filter, ForwardFormat
from wardmesh.ids import OrgId, parse_scope
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.database import Database
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import ForwarderExists, NoSuchForwarder, TooManyForwarders
from wardmesh_audit.ports_forwarding import ForwarderSettings, Leased, NewForwarder, StoredForwarder

_log = logging.getLogger(__name__)
_COLUMNS: Final = (
    "scope_id, name, incarnation, address, format, secret_header, has_secret, certificate_until, sealed, filter, "
    "created_at, next_index, paused, failures, failing_since, last_error, delivered_at"
)
_LIST: Final = f"select {_COLUMNS} from audit.forwarders order by name"  # noqa: S608 - constants
_ADD: Final = f"""
    insert into audit.forwarders
        (name, address, format, secret_header, has_secret, certificate_until, sealed, filter, next_index)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing returning {_COLUMNS}
"""  # noqa: S608
_ONE_AT_A_TIME: Final = "select pg_advisory_xact_lock(hashtextextended('audit.forwarders.' || app.scope_id(), 0))"
_FOR_A_CHANGE: Final = f"select {_COLUMNS} from audit.forwarders where name = $1 for update"  # noqa: S608
# Another incarnation: a batch that is on its way was for what it was before, and must say nothing of what it is now.
_EDIT: Final = f"""
    update audit.forwarders
       set address = $2, format = $3, secret_header = $4, has_secret = $5, certificate_until = $6, sealed = $7,
           filter = $8, incarnation = gen_random_uuid(), lease = null, leased_until = null, attempt_at = now()
     where name = $1 returning {_COLUMNS}
"""  # noqa: S608
_REMOVE: Final = "delete from audit.forwarders where name = $1 returning true"
# Going on means at once. Whoever is at a paused one still moves its cursor over what was taken, and then leaves it.
_PAUSE: Final = f"""
    update audit.forwarders set paused = $2, attempt_at = now() where name = $1 returning {_COLUMNS}
"""  # noqa: S608
_LEASED: Final = f"select {_COLUMNS} from audit.forwarders where name = $1 and lease = $2"  # noqa: S608
_OURS: Final = "where name = $1 and incarnation = $2 and lease = $3"
_ADVANCE: Final = f"""
    update audit.forwarders
       set next_index = greatest(next_index, $4), leased_until = now() + make_interval(secs => $6),
           failures = case when $5 then 0 else failures end, told = told and not $5,
           failing_since = case when $5 then null else failing_since end,
           last_error = case when $5 then null else last_error end,
           delivered_at = case when $5 then now() else delivered_at end
     {_OURS} returning new.paused, old.told and not new.told as is_well
"""  # noqa: S608
_FAILED: Final = f"""
    update audit.forwarders
       set failures = failures + 1, failing_since = coalesce(failing_since, now()), last_error = $4,
           told = told or failures + 1 >= $6, attempt_at = now() + make_interval(secs => $5),
           lease = null, leased_until = null
     {_OURS} returning new.told and not old.told as begins
"""  # noqa: S608
_RELEASE: Final = f"""
    update audit.forwarders set lease = null, leased_until = null, attempt_at = now() {_OURS}
"""  # noqa: S608


class PostgresForwarding:
    """The ports `ForwarderStore` and `ForwardingStore` on a real database."""

    def __init__(self, database: Database, outbox: AuditOutbox) -> None:
        self._database = database
        self._outbox = outbox

    async def add(self, call: Call, new: NewForwarder) -> StoredForwarder:
        async with call.transaction(self._database) as connection:
            await connection.execute(_ONE_AT_A_TIME)  # or two that are counted at once would both be the last
            row = await connection.fetchrow(_ADD, new.name, *_settings(new), new.next_start)
            if row is None:
                raise ForwarderExists
            if await connection.fetchval("select count(*) from audit.forwarders") > MAX_FORWARDERS:
                raise TooManyForwarders
        return _stored(row)

    async def forwarders(self, call: Call) -> Sequence[StoredForwarder]:
        async with call.transaction(self._database, read_only=True) as connection:
            return [_stored(row) for row in await connection.fetch(_LIST)]

    async def edit(
        self, call: Call, name: str, change: Callable[[StoredForwarder], ForwarderSettings]
    ) -> StoredForwarder:
        async with call.transaction(self._database) as connection:
            row = await connection.fetchrow(_FOR_A_CHANGE, name)
            if row is None:
                raise NoSuchForwarder
            row = await connection.fetchrow(_EDIT, name, *_settings(change(_stored(row))))
            assert row is not None  # noqa: S101 - it is locked
        return _stored(row)

    async def remove(self, call: Call, name: str) -> bool:
        async with call.transaction(self._database) as connection:
            existed = await connection.fetchval(_REMOVE, name) is True
            call.note(existed=existed)
        return existed

    async def set_paused(self, call: Call, name: str, *, paused: bool) -> StoredForwarder:
        async with call.transaction(self._database) as connection:
            row = await connection.fetchrow(_PAUSE, name, paused)
            if row is None:
                raise NoSuchForwarder
        return _stored(row)

    async def lease(self, amount: int, seconds: float) -> Sequence[Leased]:
        lease = uuid4()
        async with self._database.transaction(the_log(OrgId.nil())) as connection:
            rows = await connection.fetch(
                "select scope_id, name from audit.lease_forwarders($1, $2, $3)", lease, seconds, amount
            )
        found: list[Leased] = []
        for row in rows:
            async with self._database.transaction(the_log(parse_scope(row["scope_id"])), read_only=True) as connection:
                forwarder = await connection.fetchrow(_LEASED, row["name"], lease)
            if forwarder is None:
                continue
            try:
                found.append(Leased(_stored(forwarder), lease))
            except ValueError:  # a newer version's, or a changed row: it must not keep the others waiting
                _log.error("a forwarder of %s cannot be read and is put off", row["scope_id"])
        return found

    async def advance(
        self, leased: Leased, next_start: int, *, delivered: bool, seconds: float, well: AuditEvent
    ) -> bool:
        scope = leased.forwarder.scope
        async with self._database.transaction(the_log(scope)) as connection:
            if not delivered:
                connection.may_be_forgotten()  # what a crash forgets is looked at again
            row = await connection.fetchrow(_ADVANCE, *_ours(leased), next_start, delivered, seconds)
            if row is None:
                return False
            if row["is_well"]:
                await self._outbox.put_audit(connection, scope, well)
        return not row["paused"]

    async def failed(
        self, leased: Leased, error: str, *, pause_seconds: float, told_after: int, event: AuditEvent
    ) -> None:
        scope = leased.forwarder.scope
        async with self._database.transaction(the_log(scope)) as connection:
            begins = await connection.fetchval(_FAILED, *_ours(leased), error, pause_seconds, told_after)
            if begins:
                await self._outbox.put_audit(connection, scope, event)

    async def release(self, leased: Leased) -> None:
        async with self._database.transaction(the_log(leased.forwarder.scope)) as connection:
            connection.may_be_forgotten()  # it runs out by itself
            await connection.execute(_RELEASE, *_ours(leased))


def _settings(given: ForwarderSettings) -> tuple[object, ...]:
    """Return what a forwarder may change, in the order in which the statements name it."""
    return (
        given.address,
        given.format,
        given.secret_header,
        given.has_secret,
        given.certificate_until,
        given.sealed,
        given.filter.model_dump(mode="json", exclude_none=True),
    )


def _ours(leased: Leased) -> tuple[object, ...]:
    return leased.forwarder.name, leased.forwarder.incarnation, leased.lease


def _stored(row: asyncpg.Record) -> StoredForwarder:
    return StoredForwarder(
        scope=parse_scope(row["scope_id"]),
        name=row["name"],
        incarnation=row["incarnation"],
        address=row["address"],
        format=ForwardFormat(row["format"]),
        secret_header=row["secret_header"],
        has_secret=row["has_secret"],
        certificate_until=row["certificate_until"],
        sealed=row["sealed"],
        filter=Filter.model_validate(row["filter"]),
        created_at=row["created_at"],
        next_start=row["next_index"],
        paused=row["paused"],
        failures=row["failures"],
        failing_since=row["failing_since"],
        last_error=row["last_error"],
        delivered_at=row["delivered_at"],
    )
