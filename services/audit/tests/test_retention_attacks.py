"""Pruning as somebody would misuse it who has the service's role, another role, or the database's clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

import asyncpg
import pytest
from keeper import Keeper, Outbox, reader
from makers import Person, event, make_person

from wardmesh.contracts.audit import SECURITY, SET_RETENTION
from wardmesh.contracts.operation import Category, Level
from wardmesh.ids import EventId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh.server.database_errors import DatabaseDefect, DatabaseRefused
from wardmesh_audit.behalf import the_log
from wardmesh_audit.keeping import NEVER, kept_to
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_cli.embedded.mesh import EmbeddedMesh

TOOL = Category.TOOL_CALL
LONG_AGO = datetime(2022, 2, 15, tzinfo=UTC)
MONTH = kept_to(event(category=TOOL), "secrets", LONG_AGO, {TOOL: 30}, NEVER)
Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
def keeper(database: Database) -> Keeper:
    outbox = Outbox()
    return Keeper(PostgresStore(database), PostgresRetention(database, outbox), outbox)


@pytest.fixture
async def owner(keeper: Keeper) -> Person:
    """Somebody with an entry whose time is over."""
    person = make_person(level=Level.OWNER)
    await keeper.keep(person, {TOOL: 30})
    await keeper.seal(person.scope, event(category=TOOL), at=LONG_AGO)
    return person


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize(
    "statement",
    [
        "drop table audit.entries_2022_04",
        "alter table audit.entries detach partition audit.entries_2022_04",
        "truncate audit.entries_2022_04",
        "select * from audit.entries_2022_04",
        "select audit.unpruned('2022-04-01')",
        "select audit.expired_months(now())",
        "update audit.logs set pruned_to = '2022-04-01'",
        "update audit.logs set pruning_to = '2022-04-01', pruned_to = '2022-04-01'",
        "update audit.logs set pruning_to = '2999-01-01'",
        "update audit.logs set pruning_to = 'infinity'",
    ],
)
async def test_the_services_role_cannot_end_anything_itself(
    database: Database, keeper: Keeper, owner: Person, statement: str
) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(the_log(owner.scope)) as connection:
            await connection.execute(statement)
    assert await keeper.readable(owner) == [0]


async def test_a_callers_transaction_moves_nothing(database: Database, keeper: Keeper, owner: Person) -> None:
    async with database.transaction(reader(owner)) as connection:
        assert await connection.execute("update audit.logs set pruning_to = '2022-04-01'") == "UPDATE 0"
    insert = (
        "insert into audit.prunings (kept_to, event_id, first_index, last_index, entries, digest) "
        "values ('2022-04-01', $1, 0, 0, 1, sha256('x'))"
    )
    with pytest.raises(DatabaseRefused):
        async with database.transaction(reader(owner)) as connection:
            await connection.execute(insert, EventId.new())


@pytest.mark.parametrize("as_of", ["infinity", "-infinity", "2999-01-01", None, "now + 61 minutes", "now - 61 minutes"])
async def test_no_time_that_is_asked_for_ends_anything_early(
    database: Database, keeper: Keeper, owner: Person, as_of: str | None
) -> None:
    sql = "null" if as_of is None else f"'{as_of}'::timestamptz"
    if as_of is not None and as_of.startswith("now"):
        sql = f"now() {as_of[4]} interval '{as_of[6:]}'"
    for call in (f"select * from audit.prunable({sql}, 10)", f"select audit.drop_pruned({sql})"):  # noqa: S608
        with pytest.raises(DatabaseDefect):
            async with database.transaction(the_log(owner.scope)) as connection:
                await connection.execute(call)
    assert await keeper.readable(owner) == [0]


async def test_dropping_drops_nothing_that_somebody_can_read(
    database: Database, superuser: Superuser, owner: Person
) -> None:
    """However often it is called, by whomever may."""
    for _ in range(20):
        async with database.transaction(the_log(WorkspaceId.new())) as connection:
            await connection.execute("select audit.drop_pruned(now())")
    assert await superuser.fetchval("select to_regclass('audit.entries_2022_04')") is not None
    assert await superuser.fetchval("select to_regclass('audit.entries_for_ever')") is not None


@pytest.mark.parametrize("month", ["2027-01-02", "1999-01-01", "9999-01-01", "infinity", "-infinity", None])
async def test_no_partition_is_opened_but_for_a_month_that_a_policy_can_say(
    database: Database, superuser: Superuser, month: str | None
) -> None:
    count = "select count(*) from pg_inherits where inhparent = 'audit.entries'::regclass"
    before = await superuser.fetchval(count)
    async with database.transaction(the_log(WorkspaceId.new())) as connection:
        assert await connection.fetchval("select audit.open_month($1::text::date)", month) is False
    assert await superuser.fetchval(count) == before


async def test_a_temporary_table_does_not_stand_in_for_ours(database: Database, keeper: Keeper, owner: Person) -> None:
    """The definer's functions find tables by their full names, whatever the caller's session has."""
    async with database.transaction(the_log(owner.scope)) as connection:
        with pytest.raises(DatabaseRefused):
            async with connection.savepoint():
                await connection.execute("create temporary table lifted_holds (scope_id text, number integer)")
    hold = await keeper.hold(owner)
    assert (await keeper.retention.prunable(now(), 1000)).count((owner.scope, MONTH)) == 0, hold


@pytest.mark.parametrize("service", ["auth", "secrets", "bridge", "webhooks"])
async def test_no_other_role_can_call_it(superuser: Superuser, service: str) -> None:
    await superuser.execute(f"set role wardmesh_{service}")
    for call in (
        "audit.drop_pruned(now())", "audit.prunable(now(), 10)", "audit.open_month('2027-01-01')",
        "audit.wait_for_holds('x')", "audit.is_held('x')",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(f"select {call}")


async def test_the_service_may_call_what_it_needs_and_no_more(superuser: Superuser) -> None:
    """As the catalog has it: a function that is added is nobody's."""
    rows = await superuser.fetch(
        "select p.proname, p.prosecdef, p.proowner::regrole::text as owner, "
        "array_to_string(p.proconfig, ',') as settings, "
        "has_function_privilege('wardmesh_audit', p.oid, 'execute') as callable, "
        "exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) where grantee = 0) as public "
        "from pg_proc p where pronamespace = 'audit'::regnamespace"
    )
    assert {row["proname"] for row in rows if row["callable"]} == {
        "wait_for_holds", "is_held", "open_month", "prunable", "drop_pruned", "lease_forwarders",
    }  # fmt: skip
    as_owner = {row["proname"] for row in rows if row["prosecdef"]}
    assert as_owner == {"open_month", "prunable", "drop_pruned", "lease_forwarders"}
    for row in rows:
        assert row["owner"] == "wardmesh_owner"
        assert not row["public"], row["proname"]
        assert "search_path=pg_catalog, pg_temp" in row["settings"], row["proname"]


@pytest.mark.parametrize("category", sorted(Category))
async def test_the_floor_holds_in_the_database(database: Database, superuser: Superuser, category: Category) -> None:
    """A row of a security event that is kept for less than 90 days, written as the service could by mistake."""
    received = datetime(2026, 1, 10, tzinfo=UTC)
    insert = (
        "insert into audit.entries (index, received_at, leaf, source, occurred_at, category, action, outcome, actor, "
        "kept_to) values (0, $1, 'x', 'secrets', $1, $2, 'a.b', 'success', 'svc_' || repeat('0', 26), $3)"
    )

    async def put(day: date) -> None:
        async with database.transaction(the_log(WorkspaceId.new())) as connection:
            await connection.execute("select audit.open_month($1)", day)
            await connection.execute(insert, received, category.value, day)

    if category in SECURITY:
        with pytest.raises(DatabaseDefect):
            await put(date(2026, 4, 1))
    else:
        await put(date(2026, 4, 1))
        with pytest.raises(DatabaseDefect):
            await put(date(2026, 1, 1))
    await put(date(2026, 5, 1))


async def test_a_policy_below_the_floor_that_got_in_keeps_to_the_floor(
    keeper: Keeper, superuser: Superuser, owner: Person
) -> None:
    await keeper.retention.set_days(owner.ask(SET_RETENTION), Category.AUTHENTICATION, 1)  # past the contract
    received = now()
    await keeper.seal(owner.scope, event(category=Category.AUTHENTICATION), at=received)
    (run,) = (await keeper.log.kept(reader(owner), start=1, end=2)).runs
    assert run.kept_to >= (received + timedelta(days=90)).date()


async def test_sealing_into_a_month_that_was_dropped_opens_it_anew(keeper: Keeper, superuser: Superuser) -> None:
    """This process believes that the partition is there; the rows must not be taken for ones that no table takes."""
    first, second = make_person(level=Level.OWNER), make_person(level=Level.OWNER)
    at = datetime(2022, 6, 15, tzinfo=UTC)
    for person in (first, second):
        await keeper.keep(person, {TOOL: 30})
    await keeper.seal(first.scope, event(category=TOOL), at=at)
    for _ in range(4):
        await Pruner(keeper.retention, now).round()
        await keeper.relay()
    assert await superuser.fetchval("select to_regclass('audit.entries_2022_08')") is None
    await keeper.seal(second.scope, event(category=TOOL), at=at)
    assert await superuser.fetchval("select to_regclass('audit.entries_2022_08')") is not None
    assert await keeper.readable(second) == [0]


async def test_pruning_waits_for_a_reader_only_so_long(
    keeper: Keeper, superuser: Superuser, servers: EmbeddedMesh
) -> None:
    """A reader that takes its time keeps its rows; pruning comes back, and readers behind it are not held up."""
    person = make_person(level=Level.OWNER)
    await keeper.keep(person, {TOOL: 30})
    await keeper.seal(person.scope, event(category=TOOL), at=datetime(2022, 8, 15, tzinfo=UTC))
    await Pruner(keeper.retention, now).round()
    await keeper.relay()
    async with superuser.transaction():
        assert await superuser.fetchval("select count(*) from audit.entries where scope_id = $1", person.scope) == 2
        await Pruner(keeper.retention, now).round()
        assert await superuser.fetchval("select count(*) from audit.entries where scope_id = $1", person.scope) == 2
        assert await keeper.readable(person) == [1], "hidden from readers, and not dropped yet"
    await Pruner(keeper.retention, now).round()
    assert await superuser.fetchval("select to_regclass('audit.entries_2022_10')") is None
