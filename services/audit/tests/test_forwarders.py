"""Forwarders, their cursors and their leases: the contract of their ports, on the fake and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime

import asyncpg
import pytest
from fake_forwarding import FakeForwarding
from fake_log import FakeLog
from keeper import Outbox
from makers import NOW, Person, candidates, event, make_person

from wardmesh.contracts.audit import (
    ADD_FORWARDER,
    EDIT_FORWARDER,
    LIST_FORWARDERS,
    MAX_FORWARDERS,
    PAUSE_FORWARDER,
    REMOVE_FORWARDER,
    RESUME_FORWARDER,
    AuditEvent,
    Filter,
    ForwardFormat,
)
from wardmesh.contracts.operation import Category, Level
from wardmesh.errors import InvalidRequest
from wardmesh.ids import OrgId, Scope
from wardmesh.server.database import Database
from wardmesh.server.database_errors import DatabaseRefused
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import ForwarderExists, NoSuchForwarder, TooManyForwarders
from wardmesh_audit.ports_forwarding import ForwarderSettings, Leased, NewForwarder, StoredForwarder
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_forwarding import PostgresForwarding

FAILING, WELL = event(action="audit_forwarder.failing"), event(action="audit_forwarder.well")


@dataclass
class World:
    """What these tests need, whichever store it is."""

    log: FakeLog | PostgresStore
    store: FakeForwarding | PostgresForwarding
    outbox: Outbox | None

    async def seal(self, scope: Scope, count: int) -> None:
        await self.log.seal(scope, candidates(scope, *(event() for _ in range(count))))

    async def add(self, person: Person, name: str = "siem", **changes: object) -> StoredForwarder:
        return await self.store.add(person.ask(ADD_FORWARDER), new(name, **changes))

    async def list(self, person: Person) -> Sequence[StoredForwarder]:
        return await self.store.forwarders(person.ask(LIST_FORWARDERS))

    async def lease(self, scope: Scope, *, amount: int = 64, seconds: float = 60.0) -> list[Leased]:
        """Lease everybody's, as a replica does, and look at one scope's; the others are given back."""
        found = await self.store.lease(amount, seconds)
        for each in found:
            if each.forwarder.scope != scope:
                await self.store.release(each)
        return [each for each in found if each.forwarder.scope == scope]

    def told(self, scope: Scope) -> list[AuditEvent]:
        waiting = self.store.outbox if isinstance(self.store, FakeForwarding) else self.outbox.waiting  # type: ignore[union-attr]
        return [each for where, each in waiting if where == scope]


def new(name: str, **changes: object) -> NewForwarder:
    fields: dict[str, object] = {
        "name": name, "address": "https://siem.example:443", "format": ForwardFormat.OCSF, "secret_header": None,
        "has_secret": True, "certificate_until": None,
        "sealed": b"sealed", "filter": Filter(category=Category.SECRET_ACCESS), "next_start": 0,
    }  # fmt: skip
    return NewForwarder(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(params=["fake", "postgresql"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        log = FakeLog()
        return World(log, FakeForwarding(log), None)
    outbox = Outbox()
    database = request.getfixturevalue("database")
    return World(PostgresStore(database), PostgresForwarding(database, outbox), outbox)


@pytest.fixture
def admin() -> Person:
    return make_person(level=Level.ADMIN)


async def test_what_is_added_is_listed_as_it_was_given(world: World, admin: Person) -> None:
    filtered = Filter(category=Category.TOOL_CALL, text="two words", since=datetime(2026, 1, 1, tzinfo=UTC))
    added = await world.add(admin, "b", filter=filtered, secret_header="X-Key", next_start=7)
    await world.add(admin, "a")
    listed = await world.list(admin)
    assert [each.name for each in listed] == ["a", "b"]
    assert listed[1] == added
    assert (added.filter, added.next_start, added.secret_header) == (filtered, 7, "X-Key")
    assert await world.list(make_person(admin.scope)) == listed, "the scope's, not a person's"
    assert await world.list(make_person()) == []
    assert "sealed" not in repr(added).replace("sealed=", "")


async def test_a_name_is_taken_once_and_there_are_not_many(world: World, admin: Person) -> None:
    await world.add(admin)
    with pytest.raises(ForwarderExists):
        await world.add(admin)
    await asyncio.gather(*(world.add(admin, f"f{n}") for n in range(1, MAX_FORWARDERS)))
    with pytest.raises(TooManyForwarders):
        await world.add(admin, "one-more")
    assert len(await world.list(admin)) == MAX_FORWARDERS
    assert await world.store.remove(admin.ask(REMOVE_FORWARDER), "f1")
    assert not await world.store.remove(admin.ask(REMOVE_FORWARDER), "f1")
    await world.add(admin, "one-more")


async def test_one_that_has_something_to_do_is_leased_to_one(world: World, admin: Person) -> None:
    await world.add(admin)
    assert await world.lease(admin.scope) == [], "the log is empty"
    await world.seal(admin.scope, 3)
    (leased,) = await world.lease(admin.scope)
    assert await world.lease(admin.scope) == [], "it is held"
    assert await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    await world.store.release(leased)
    assert await world.lease(admin.scope) == [], "it has all there is"
    await world.seal(admin.scope, 1)
    assert [each.forwarder.next_start for each in await world.lease(admin.scope)] == [3]


async def test_replicas_that_look_at_once_share_the_work(world: World) -> None:
    people = [make_person(level=Level.ADMIN) for _ in range(6)]
    for person in people:
        await world.add(person)
        await world.seal(person.scope, 1)
    ours = {person.scope for person in people}
    found = await asyncio.gather(*(world.store.lease(3, 60.0) for _ in range(8)))
    scopes = [each.forwarder.scope for leased in found for each in leased if each.forwarder.scope in ours]
    assert sorted(scopes) == sorted(ours)
    assert all(len(leased) <= 3 for leased in found)


async def test_a_lease_that_ran_out_is_somebody_elses_and_moves_nothing(world: World, admin: Person) -> None:
    await world.add(admin)
    await world.seal(admin.scope, 5)
    (slow,) = await world.lease(admin.scope, seconds=1.0)
    await asyncio.sleep(1.1)
    (other,) = await world.lease(admin.scope)
    assert not await world.store.advance(slow, 5, delivered=True, seconds=60, well=WELL)
    await world.store.failed(slow, "timed_out", pause_seconds=0, told_after=1, event=FAILING)
    await world.store.release(slow)
    assert await world.lease(admin.scope) == [], "the other one still holds it"
    assert await world.store.advance(other, 2, delivered=True, seconds=60, well=WELL)
    (listed,) = await world.list(admin)
    assert (listed.next_start, listed.failures) == (2, 0)
    assert world.told(admin.scope) == []


async def test_the_cursor_never_goes_back(world: World, admin: Person) -> None:
    await world.add(admin, next_start=4)
    await world.seal(admin.scope, 5)
    (leased,) = await world.lease(admin.scope)
    await world.store.advance(leased, 2, delivered=True, seconds=60, well=WELL)
    assert [each.next_start for each in await world.list(admin)] == [4]


async def test_a_removed_one_stops_also_where_its_name_is_given_again(world: World, admin: Person) -> None:
    await world.add(admin)
    await world.seal(admin.scope, 5)
    (leased,) = await world.lease(admin.scope)
    await world.store.remove(admin.ask(REMOVE_FORWARDER), "siem")
    assert not await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    await world.add(admin)
    assert not await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    assert [each.next_start for each in await world.list(admin)] == [0]


async def test_a_paused_one_keeps_what_was_taken_and_stops(world: World, admin: Person) -> None:
    await world.add(admin)
    await world.seal(admin.scope, 5)
    (leased,) = await world.lease(admin.scope)
    assert (await world.store.set_paused(admin.ask(PAUSE_FORWARDER), "siem", paused=True)).paused
    assert not await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    await world.store.release(leased)
    assert await world.lease(admin.scope) == []
    resumed = await world.store.set_paused(admin.ask(RESUME_FORWARDER), "siem", paused=False)
    assert (resumed.paused, resumed.next_start) == (False, 3)
    assert len(await world.lease(admin.scope)) == 1
    with pytest.raises(NoSuchForwarder):
        await world.store.set_paused(admin.ask(RESUME_FORWARDER), "nobody", paused=False)


async def test_a_failure_waits_is_told_of_once_and_is_over_with_a_success(world: World, admin: Person) -> None:
    await world.add(admin)
    await world.seal(admin.scope, 5)
    for failures in range(1, 5):
        (leased,) = await world.lease(admin.scope)
        assert leased.forwarder.failures == failures - 1
        await world.store.failed(leased, "http_503", pause_seconds=0, told_after=3, event=FAILING)
        assert len(world.told(admin.scope)) == (1 if failures >= 3 else 0)
    (listed,) = await world.list(admin)
    assert (listed.failures, listed.last_error) == (4, "http_503")
    since = listed.failing_since
    assert since is not None

    (leased,) = await world.lease(admin.scope)
    await world.store.advance(leased, 1, delivered=False, seconds=60, well=WELL)
    (listed,) = await world.list(admin)
    assert (listed.failures, listed.failing_since) == (4, since), "nothing was tried"
    await world.store.advance(leased, 2, delivered=True, seconds=60, well=WELL)
    await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    assert [each.action for each in world.told(admin.scope)] == [FAILING.action, WELL.action]
    (listed,) = await world.list(admin)
    assert (listed.failures, listed.failing_since, listed.last_error) == (0, None, None)
    assert listed.delivered_at is not None

    await world.store.failed(leased, "timed_out", pause_seconds=60, told_after=3, event=FAILING)
    assert await world.lease(admin.scope) == [], "it waits"
    await world.store.set_paused(admin.ask(RESUME_FORWARDER), "siem", paused=False)
    assert len(await world.lease(admin.scope)) == 1, "whoever resumes it does not wait"


async def test_one_that_is_changed_keeps_its_place_and_is_nobodys_any_more(world: World, admin: Person) -> None:
    added = await world.add(admin, next_start=1)
    await world.seal(admin.scope, 5)
    (leased,) = await world.lease(admin.scope)
    await world.store.advance(leased, 3, delivered=True, seconds=60, well=WELL)
    changed = ForwarderSettings(
        address="https://other.example:443",
        format=ForwardFormat.ENTRY,
        secret_header="X-Key",
        has_secret=False,
        certificate_until=NOW,
        sealed=b"sealed anew",
        filter=Filter(text="word"),
    )
    seen: list[StoredForwarder] = []

    def change(before: StoredForwarder) -> ForwarderSettings:
        seen.append(before)
        return changed

    stored = await world.store.edit(admin.ask(EDIT_FORWARDER), "siem", change)
    (before,) = seen
    assert (before.next_start, before.address, before.sealed) == (3, added.address, added.sealed)
    assert {each.name: getattr(stored, each.name) for each in fields(changed)} == asdict(changed) | {
        "filter": changed.filter
    }
    assert (stored.next_start, stored.created_at, stored.delivered_at) == (3, added.created_at, before.delivered_at)
    assert await world.list(admin) == [stored]

    assert not await world.store.advance(leased, 5, delivered=True, seconds=60, well=WELL)
    await world.store.failed(leased, "timed_out", pause_seconds=60, told_after=1, event=FAILING)
    await world.store.release(leased)
    assert await world.list(admin) == [stored]
    assert world.told(admin.scope) == []
    (again,) = await world.lease(admin.scope)
    assert again.forwarder == stored


async def test_a_change_that_is_refused_changes_nothing(world: World, admin: Person) -> None:
    added = await world.add(admin)
    await world.seal(admin.scope, 1)
    (leased,) = await world.lease(admin.scope)

    def refuses(_: StoredForwarder) -> ForwarderSettings:
        raise InvalidRequest

    with pytest.raises(InvalidRequest):
        await world.store.edit(admin.ask(EDIT_FORWARDER), "siem", refuses)
    with pytest.raises(NoSuchForwarder):
        await world.store.edit(admin.ask(EDIT_FORWARDER), "nobody", refuses)
    assert await world.list(admin) == [added]
    assert await world.store.advance(leased, 1, delivered=True, seconds=60, well=WELL)


async def test_a_failing_one_does_not_wait_once_it_is_changed_and_is_well_after_a_success(
    world: World, admin: Person
) -> None:
    await world.add(admin)
    await world.seal(admin.scope, 1)
    (leased,) = await world.lease(admin.scope)
    await world.store.failed(leased, "http_503", pause_seconds=300, told_after=1, event=FAILING)
    assert await world.lease(admin.scope) == []
    stored = await world.store.edit(admin.ask(EDIT_FORWARDER), "siem", same)
    assert (stored.failures, stored.last_error) == (1, "http_503"), "it is not known to be well"
    (leased,) = await world.lease(admin.scope)
    await world.store.advance(leased, 1, delivered=True, seconds=60, well=WELL)
    assert [each.action for each in world.told(admin.scope)] == [FAILING.action, WELL.action]


def same(stored: StoredForwarder) -> ForwarderSettings:
    return ForwarderSettings(**{each.name: getattr(stored, each.name) for each in fields(ForwarderSettings)})


class TestInPostgreSQL:
    """What the database holds whatever the service does."""

    async def test_who_may_not_forward_changes_nothing(self, database: Database, admin: Person) -> None:
        world = World(PostgresStore(database), PostgresForwarding(database, outbox := Outbox()), outbox)
        await world.add(admin)
        operator = make_person(admin.scope)
        with pytest.raises(DatabaseRefused):
            await world.add(operator, "mine")
        assert not await world.store.remove(operator.ask(REMOVE_FORWARDER), "siem")
        with pytest.raises(NoSuchForwarder):
            await world.store.edit(operator.ask(EDIT_FORWARDER), "siem", same)
        with pytest.raises(NoSuchForwarder):
            await world.store.set_paused(operator.ask(PAUSE_FORWARDER), "siem", paused=True)
        rival = make_person(level=Level.OWNER)
        assert not await world.store.remove(rival.ask(REMOVE_FORWARDER), "siem")
        assert len(await world.list(admin)) == 1
        assert await world.list(make_person(admin.scope, Level.MEMBER)) == []

    async def test_what_it_is_changes_by_the_right_to_forward_alone_and_as_a_whole(
        self, database: Database, admin: Person
    ) -> None:
        """Whatever is asked, by whoever moves cursors, and with the incarnation that leases go by."""
        await World(PostgresStore(database), PostgresForwarding(database, Outbox()), None).add(admin)
        whole = "incarnation = gen_random_uuid()"
        changes = [
            "address = 'https://evil'",
            "certificate_until = now()",
            "sealed = 'x'",
            "filter = '{}'",
            "format = 'entry'",
            whole,
        ]
        refused = [(the_log(admin.scope), f"{each}, {whole}".removeprefix(f"{whole}, ")) for each in changes]
        refused += [(admin.ask(EDIT_FORWARDER).tenant, each) for each in changes[:-1]]
        refused += [
            (admin.ask(EDIT_FORWARDER).tenant, f"{whole}, {also}")
            for also in ("next_index = 9", "lease = gen_random_uuid(), leased_until = now()", "name = 'x'")
        ]
        for tenant, change in refused:
            with pytest.raises(DatabaseRefused):
                async with database.transaction(tenant) as connection:
                    await connection.execute(f"update audit.forwarders set {change}")  # noqa: S608
        async with database.transaction(admin.ask(EDIT_FORWARDER).tenant) as connection:
            assert await connection.execute(f"update audit.forwarders set format = 'entry', {whole}") == "UPDATE 1"  # noqa: S608

    async def test_two_that_change_one_at_once_change_it_one_after_the_other(
        self, database: Database, admin: Person
    ) -> None:
        store = PostgresForwarding(database, Outbox())
        await World(PostgresStore(database), store, None).add(admin)

        def longer(stored: StoredForwarder) -> ForwarderSettings:
            return replace(same(stored), address=f"{stored.address}0")

        await asyncio.gather(*(store.edit(admin.ask(EDIT_FORWARDER), "siem", longer) for _ in range(5)))
        (stored,) = await store.forwarders(admin.ask(LIST_FORWARDERS))
        assert stored.address == "https://siem.example:443" + 5 * "0"

    async def test_a_row_that_cannot_be_read_keeps_nobody_waiting(
        self, database: Database, superuser: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        world = World(PostgresStore(database), PostgresForwarding(database, outbox := Outbox()), outbox)
        broken, sound = make_person(level=Level.ADMIN), make_person(level=Level.ADMIN)
        for person in (broken, sound):
            await world.add(person)
            await world.seal(person.scope, 1)
        change = """update audit.forwarders set filter = '{"of a newer version": 1}' where scope_id = $1"""
        await superuser.execute("set session_replication_role = replica")  # no triggers
        await superuser.execute(change, broken.scope)
        await superuser.execute("reset session_replication_role")
        found = {each.forwarder.scope for each in await world.store.lease(64, 60.0)}
        assert sound.scope in found
        assert broken.scope not in found
        await superuser.execute("delete from audit.forwarders where scope_id = $1", broken.scope)

    async def test_looking_for_work_gives_out_names_and_no_more(
        self, database: Database, superuser: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        row = await superuser.fetchrow(
            "select proargnames, prosecdef, proowner::regrole::text as owner, proacl::text as acl from pg_proc "
            "where proname = 'lease_forwarders'"
        )
        assert row is not None
        assert row["proargnames"] == ["token", "seconds", "amount", "scope_id", "name"]
        assert (row["prosecdef"], row["owner"]) == (True, "wardmesh_owner")
        assert "=X/wardmesh_owner" not in row["acl"].replace("wardmesh_audit=X", "").replace("wardmesh_owner=X", "")
        found = await PostgresForwarding(database, Outbox()).lease(0, 60.0)
        assert found == []
        assert OrgId.nil() not in {each.forwarder.scope for each in found}
