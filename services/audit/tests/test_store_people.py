"""The contract of `PeopleStore`, on the fake and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest
from fake_log import FakeLog
from fake_people import FakePeople
from fake_ports import KEYS
from keeper import Outbox
from makers import NOW, Person, candidates, event, make_person

from wardmesh.contracts.audit import ERASE, PLACE_HOLD, AuditEvent, Erasure
from wardmesh.contracts.operation import Level
from wardmesh.errors import UnderHold
from wardmesh.ids import AgentId, EventId, Scope, UserId
from wardmesh.server.database import Database, DatabaseRefused
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import the_log
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_people import PostgresPeople
from wardmesh_audit.store_retention import PostgresRetention

_WAITS_FOR_HOLDS = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"


@dataclass
class Stores:
    log: FakeLog | PostgresStore
    people: FakePeople | PostgresPeople
    outbox: Outbox | None
    retention: PostgresRetention | None

    async def hold(self, owner: Person) -> None:
        if self.retention is None:
            assert isinstance(self.people, FakePeople)
            self.people.held.add(owner.scope)
        else:
            await self.retention.place_hold(owner.ask(PLACE_HOLD), "a lawsuit")

    def told(self) -> list[AuditEvent]:
        if self.outbox is None:
            assert isinstance(self.people, FakePeople)
            return [said for _, said in self.people.outbox]
        return [said for _, said in self.outbox.waiting]


@pytest.fixture(params=["fake", "postgresql"])
def stores(request: pytest.FixtureRequest) -> Stores:
    if request.param == "fake":
        log = FakeLog()
        return Stores(log, FakePeople(log), None, None)
    database: Database = request.getfixturevalue("database")
    outbox = Outbox()
    return Stores(
        PostgresStore(database), PostgresPeople(database, outbox), outbox, PostgresRetention(database, outbox)
    )


@pytest.fixture
def owner() -> Person:
    return make_person(level=Level.OWNER)


def an_erasure(days: int = 0) -> Erasure:
    return Erasure(
        erasure_id=EventId.new(), erased_at=NOW + timedelta(days=days), entries=3, certificate="a certificate"
    )


def as_person(scope: Scope, person: UserId) -> TenantContext:
    return TenantContext(
        the_log(scope).org_id, the_log(scope).workspace_id, KEYS.made(scope, [person])[person].pseudonym
    )


async def test_an_erasure_and_its_event_are_there_together_or_neither(stores: Stores, owner: Person) -> None:
    first, second = an_erasure(), an_erasure(1)
    for erasure in (first, second):
        async with stores.people.erasing(owner.ask(ERASE)) as rows:
            assert await rows.find(erasure.erasure_id) is None
            await rows.add(erasure, event(action="audit.subject_erased"))
    with pytest.raises(RuntimeError):
        await _broken_off(stores, owner)
    async with stores.people.erasing(owner.ask(ERASE)) as rows:
        assert await rows.find(first.erasure_id) == first

    assert [said.action for said in stores.told()] == ["audit.subject_erased"] * 2
    assert await stores.people.erasures(owner.ask(ERASE).tenant, 10) == [second, first]
    assert await stores.people.erasures(owner.ask(ERASE).tenant, 1) == [second]
    assert await stores.people.count_erasures(owner.ask(ERASE).tenant) == 2
    stranger = make_person(level=Level.OWNER).ask(ERASE).tenant
    assert await stores.people.count_erasures(stranger) == 0
    assert await stores.people.erasures(stranger, 10) == []


async def _broken_off(stores: Stores, owner: Person) -> None:
    async with stores.people.erasing(owner.ask(ERASE)) as rows:
        await rows.add(an_erasure(), event())
        raise RuntimeError


async def test_nothing_is_begun_under_a_hold(stores: Stores, owner: Person) -> None:
    await stores.hold(owner)
    with pytest.raises(UnderHold):
        async with stores.people.erasing(owner.ask(ERASE)):
            pytest.fail("it has begun")


async def test_ones_own_are_counted_and_read_in_pages(stores: Stores, owner: Person) -> None:
    me, other, agent, scope = UserId.new(), UserId.new(), AgentId.new(), owner.scope
    roles = [
        {"actor": me}, {"actor": other}, {"actor": agent, "acting_for": me}, {"actor": me, "acting_for": me},
        {"actor": other, "targets": (me,)}, {"actor": agent},
    ]  # fmt: skip
    await stores.log.seal(scope, candidates(scope, *[event(**role) for role in roles * 3]))
    mine = [place for place in range(18) if place % 6 in {0, 2, 3}]

    assert await stores.people.acts(scope, KEYS.made(scope, [me])[me].pseudonym) == len(mine)
    assert await stores.people.acts(scope, UserId.new()) == 0
    seen: list[int] = []
    before: int | None = None
    while True:
        found = await stores.people.own(as_person(scope, me), before=before, limit=4)
        seen += [stored.index for stored in found.entries]
        if not found.reached:
            break
        before = found.reached
    assert seen == mine[::-1]
    nobody = await stores.people.own(as_person(scope, UserId.new()), before=None, limit=4)
    assert (list(nobody.entries), nobody.reached) == ([], 0)


@pytest.mark.parametrize("there", [True, False], ids=["a log", "the first entry"])
async def test_who_is_appending_is_waited_for_and_counted(stores: Stores, owner: Person, there: bool) -> None:
    me, scope = UserId.new(), owner.scope
    if there:
        await stores.log.seal(scope, candidates(scope, event(actor=me)))
    its_turn, may_go_on = asyncio.Event(), asyncio.Event()

    async def check() -> None:
        its_turn.set()
        await may_go_on.wait()

    sealing = asyncio.create_task(stores.log.seal(scope, candidates(scope, event(actor=me)), check))
    await its_turn.wait()
    counting = asyncio.create_task(stores.people.acts(scope, KEYS.made(scope, [me])[me].pseudonym))
    await asyncio.sleep(0.1)
    assert not counting.done()
    may_go_on.set()
    assert await counting == there + 1
    await sealing


async def test_who_erases_does_not_wait_for_who_prunes_and_waits_for_it(
    database: Database, owner: Person, superuser: asyncpg.Connection
) -> None:
    """Pruning has the head in hand while it waits for the holds' lock, which who erases has."""
    people, retention = PostgresPeople(database, Outbox()), PostgresRetention(database, Outbox())
    await PostgresStore(database).seal(owner.scope, candidates(owner.scope, event()))
    async with people.erasing(owner.ask(ERASE)):
        pruning = asyncio.create_task(retention.prune(owner.scope, NOW.date()))
        while not await superuser.fetchval(_WAITS_FOR_HOLDS):
            await asyncio.sleep(0.01)
        assert await people.acts(owner.scope, UserId.new()) == 0
    with pytest.raises(DatabaseRefused):  # nothing of the kind was announced
        await pruning


async def test_a_page_of_ones_own_has_an_answers_bytes(stores: Stores, owner: Person) -> None:
    me, scope = UserId.new(), owner.scope
    await stores.log.seal(scope, candidates(scope, *[event(actor=me, details={"x": "y" * 8000}) for _ in range(100)]))
    seen: list[int] = []
    before: int | None = None
    while True:
        found = await stores.people.own(as_person(scope, me), before=before, limit=500)
        assert sum(stored.size for stored in found.entries) <= 512 * 1024
        seen += [stored.index for stored in found.entries]
        if not found.reached:
            break
        before = found.reached
    assert seen == list(range(100))[::-1]
