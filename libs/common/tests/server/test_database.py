"""Transactions: round trips, what is committed when, what an error says, and how the pool survives its server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import asyncpg
import pytest

from wardmesh.errors import OutcomeUnknown, WardmeshError, from_problem
from wardmesh.ids import WorkspaceId
from wardmesh.server.database import (
    CommitUnknown,
    Connection,
    ConstraintConflict,
    Database,
    DatabaseBusy,
    DatabaseDefect,
    DatabaseLimits,
    DatabaseUnavailable,
    TenantContext,
)

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PUT = "insert into note (path, body) values ($1, $2)"


class Server(Protocol):
    log: Path

    def url(self, database: str, user: str = ...) -> str: ...
    def stop(self, how: signal.Signals = ...) -> None: ...
    def restart_after_kill(self) -> None: ...
    def start(self) -> None: ...


async def run(database: Database, tenant: TenantContext, statement: str, *values: object) -> None:
    async with database.transaction(tenant) as connection:
        await connection.execute(statement, *values)


async def count(superuser: Superuser) -> int:
    found = await superuser.fetchval("select count(*) from secrets.note")
    assert isinstance(found, int)
    return found


async def terminate(connection: Connection, superuser: Superuser) -> None:
    backend = await connection.fetchval("select pg_backend_pid()")
    await superuser.execute("select pg_terminate_backend($1, 2000)", backend)


# --- round trips and commit


async def test_settings_travel_with_begin_and_cleaning_with_commit(database: Database, acme: TenantContext) -> None:
    sent: list[str] = []
    async with database.transaction(acme) as connection:
        connection.raw.add_query_logger(lambda record: sent.append(record.query))  # stays on the pooled connection
        await connection.execute("select 1")
    sent.clear()
    async with database.transaction(acme) as connection:
        await connection.execute("select 1")
    assert len(sent) == 3
    assert sent[0].startswith("BEGIN; SELECT set_config")
    assert sent[2].endswith("; COMMIT")


async def test_the_block_is_committed_when_it_has_ended(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async with database.transaction(acme) as connection:
        await connection.execute(PUT, "a", "")
        assert await count(superuser) == 0
    assert await count(superuser) == 1


async def test_what_may_be_forgotten_is_committed_and_is_the_last_that_may(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async with database.transaction(acme) as connection:
        connection.may_be_forgotten()
        await connection.execute("insert into note (path) values ('b')")
    assert await superuser.fetchval("select count(*) from secrets.note where path = 'b'") == 1
    async with database.transaction(acme) as connection:
        assert await connection.fetchval("show synchronous_commit") == "on"


async def test_an_exception_rolls_back(database: Database, superuser: Superuser, acme: TenantContext) -> None:
    async def fail() -> None:
        async with database.transaction(acme) as connection:
            await connection.execute(PUT, "a", "")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await count(superuser) == 0


async def test_a_swallowed_failure_is_not_reported_as_committed(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async def swallow(*, on_the_drivers_connection: bool) -> None:
        async with database.transaction(acme) as connection:
            await connection.execute(PUT, "a", "")
            with pytest.raises((DatabaseDefect, asyncpg.PostgresError)):
                await (connection.raw if on_the_drivers_connection else connection).execute("select 1 / 0")

    for on_the_drivers_connection in (False, True):
        with pytest.raises(DatabaseDefect):
            await swallow(on_the_drivers_connection=on_the_drivers_connection)
        assert await count(superuser) == 0


async def test_a_savepoint_is_undone_alone(database: Database, superuser: Superuser, acme: TenantContext) -> None:
    async with database.transaction(acme) as connection:
        await connection.execute(PUT, "a", "")
        with pytest.raises(ConstraintConflict) as conflict:
            async with connection.savepoint():
                await connection.execute(PUT, "a", "")
        async with connection.savepoint():
            await connection.execute(PUT, "b", "")
    assert conflict.value.constraint == "note_pkey"
    assert await count(superuser) == 2


async def test_what_runs_before_the_commit_is_in_it(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    after: list[int] = []

    async def audit(connection: Connection) -> None:
        assert connection.tenant == acme
        await connection.execute(PUT, "audit", "")

    async def refuse(connection: Connection) -> None:
        await connection.execute(PUT, "refused", "")
        raise PermissionError

    async with database.transaction(acme, before_commit=[audit]) as connection:
        await connection.execute(PUT, "a", "")
        connection.after_commit(lambda: after.append(1))
    assert await count(superuser) == 2
    assert after == [1]

    async def refused() -> None:
        async with database.transaction(acme, before_commit=[refuse]) as connection:
            connection.after_commit(lambda: after.append(2))

    with pytest.raises(PermissionError):
        await refused()
    assert await count(superuser) == 2
    assert after == [1]


async def test_json_goes_in_and_out_as_objects(database: Database, acme: TenantContext) -> None:
    async with database.transaction(acme) as connection:
        await connection.execute("insert into note (path, meta) values ('a', $1)", {"é": [1, None]})
        assert await connection.fetchval("select meta from note") == {"é": [1, None]}


async def test_a_cancelled_block_leaves_a_clean_connection(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async def work() -> None:
        async with database.transaction(acme) as connection:
            await connection.execute(PUT, "a", "")
            await connection.execute("select pg_sleep(30)")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.2)
    began = time.monotonic()
    await run(database, acme, PUT, "b", "")
    assert time.monotonic() - began < 2
    assert await count(superuser) == 1


# --- errors


@pytest.mark.parametrize(
    ("statement", "values", "expected"),
    [
        (PUT, ("again", "{canary}"), ConstraintConflict),
        ("insert into note (path) values ($1)", ("{canary}" + "x" * 100,), DatabaseDefect),  # a failed check
        ("insert into note (path, workspace_id) values ('x', $1)", ("{canary}",), DatabaseDefect),  # of a domain
        ("insert into note (path, meta) values ('x', $1)", ({"a": "{canary}\0"},), DatabaseDefect),
        ("select $1::text::int", ("{canary}",), DatabaseDefect),
        ("select $1::text::jsonb", ("{canary}",), DatabaseDefect),
        ("select $1::int", ("{canary}",), DatabaseDefect),  # refused by the driver
        ("select pg_sleep(10), $1::text", ("{canary}",), DatabaseBusy),
    ],
)
async def test_no_value_is_in_an_error_or_in_the_servers_log(
    database: Database,
    postgres_server: Server,
    acme: TenantContext,
    statement: str,
    values: tuple[Any, ...],
    expected: type[WardmeshError],
) -> None:
    canary = "canary-" + os.urandom(8).hex()

    def planted(value: Any) -> Any:
        return {"a": planted(value["a"])} if isinstance(value, dict) else value.replace("{canary}", canary)

    if "path, body" in statement:
        await run(database, acme, PUT, "again", "")
    with pytest.raises(expected) as raised:
        await run(database, acme, statement, *map(planted, values))
    told = "".join(traceback.format_exception(raised.value)) + str(raised.value.to_problem())
    assert canary not in told
    assert canary not in postgres_server.log.read_text()


async def test_the_servers_log_would_have_had_the_value(superuser: Superuser, postgres_server: Server) -> None:
    """Plants one as a role without our settings: what the test above looks for can be found where it looks."""
    canary = "canary-" + os.urandom(8).hex()
    with pytest.raises(asyncpg.DataError):
        await superuser.execute(f"select '{canary}'::int")
    assert canary in postgres_server.log.read_text()


async def test_a_lock_is_waited_for_with_a_bound(database: Database, superuser: Superuser, acme: TenantContext) -> None:
    await run(database, acme, PUT, "a", "")
    async with superuser.transaction():
        await superuser.execute("update secrets.note set body = 'x'")
        with pytest.raises(DatabaseBusy) as busy:
            await run(database, acme, "update note set body = 'y'")
    assert busy.value.retryable


async def test_a_full_pool_is_waited_for_with_a_bound(database: Database, acme: TenantContext) -> None:
    began = time.monotonic()
    async with database.transaction(acme):
        with pytest.raises(DatabaseBusy):
            await run(database, acme, "select 1")
    assert time.monotonic() - began < 3


# --- the server goes away


async def test_a_broken_connection_is_replaced(database: Database, superuser: Superuser, acme: TenantContext) -> None:
    async def broken() -> None:
        async with database.transaction(acme) as connection:
            await connection.execute(PUT, "a", "")
            await terminate(connection, superuser)
            await connection.execute(PUT, "b", "")

    with pytest.raises(DatabaseUnavailable) as unavailable:
        await broken()
    assert unavailable.value.retryable
    assert not unavailable.value.executed
    await run(database, acme, PUT, "c", "")
    assert await count(superuser) == 1


async def test_a_connection_lost_at_commit_says_that_nobody_knows(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async def cut(connection: Connection) -> None:
        await terminate(connection, superuser)

    async def lost() -> None:
        async with database.transaction(acme, before_commit=[cut]) as connection:
            await connection.execute(PUT, "a", "")

    with pytest.raises(CommitUnknown) as unknown:
        await lost()
    assert unknown.value.executed
    problem = unknown.value.to_problem().model_dump_json().encode()
    assert type(from_problem(problem)) is OutcomeUnknown, "what the caller makes of it"

    async def looked() -> None:
        async with database.transaction(acme, read_only=True, before_commit=[cut]) as connection:
            await connection.fetch("select path from note")

    with pytest.raises(DatabaseUnavailable) as unread:
        await looked()
    assert not unread.value.executed, "what only reads has nothing to be in doubt of"


async def test_the_pool_heals_after_the_servers_death(
    postgres_server: Server, database_name: str, acme: TenantContext
) -> None:
    limits = DatabaseLimits(connections=4, acquire_seconds=2)
    url = postgres_server.url(database_name, "wardmesh_secrets")
    async with Database(url, application="secrets", limits=limits) as database:
        acme = replace(acme, workspace_id=WorkspaceId.new())

        async def attempt(number: int) -> str | None:
            """Return the path if it was answered as committed."""
            try:
                await run(database, acme, PUT, f"p{number}", "")
            except (DatabaseUnavailable, CommitUnknown):
                return None
            return f"p{number}"

        assert await asyncio.gather(*map(attempt, range(8))) == [f"p{n}" for n in range(8)]
        under_way = [asyncio.create_task(attempt(n)) for n in range(8, 40)]
        await asyncio.sleep(0.005)
        await asyncio.to_thread(postgres_server.stop, signal.SIGKILL)
        acknowledged = {path for path in await asyncio.wait_for(asyncio.gather(*under_way), 10) if path}

        began = time.monotonic()
        assert await asyncio.gather(*map(attempt, range(40, 50))) == [None] * 10
        assert time.monotonic() - began < 3

        await asyncio.to_thread(postgres_server.restart_after_kill)
        await run(database, acme, PUT, "after", "")
        async with database.transaction(acme) as connection:
            there = {row["path"] for row in await connection.fetch("select path from note")}
        assert acknowledged <= there
        assert {f"p{n}" for n in range(8)} <= there


async def test_a_server_that_has_stopped_answering_hangs_nobody(
    postgres_server: Server, database_name: str, acme: TenantContext, superuser: Superuser
) -> None:
    limits = DatabaseLimits(connections=1, acquire_seconds=1, statement_seconds=0.5)
    url = postgres_server.url(database_name, "wardmesh_secrets")
    async with Database(url, application="secrets", limits=limits) as database:
        async with database.transaction(acme) as connection:
            backend = await connection.fetchval("select pg_backend_pid()")
        os.kill(backend, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(DatabaseBusy) as busy:
                await run(database, acme, "select 1")
            assert busy.value.retryable
            assert time.monotonic() - began < 8
            await run(database, acme, "select 1")  # on another connection
        finally:
            os.kill(backend, signal.SIGCONT)


async def test_opening_waits_for_the_server_with_a_bound(tmp_path: Path) -> None:
    database = Database(f"postgresql://x:secret-word@/x?host={tmp_path}", application="secrets")
    assert "secret-word" not in repr(database)
    with pytest.raises(DatabaseUnavailable):
        await database.open(wait_seconds=0.3)
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
