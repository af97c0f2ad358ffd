"""The contract of `ReadingStore`, on the fake and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import pytest
from fake_log import FakeLog, FakeReading
from fake_ports import SUBJECTS
from makers import NOW, Person, candidates, event

from wardmesh.contracts.audit import MAX_PAGE_BYTES, MAX_POSITIONS, AuditEvent, Filter, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, OrgId, RequestId, UserId
from wardmesh.server.database import Database
from wardmesh.server.tenant import TenantContext
from wardmesh_audit import searching, store_reading
from wardmesh_audit.domain import decode_leaf
from wardmesh_audit.errors import TooManyPositions
from wardmesh_audit.ports import LogStore, ReadingStore
from wardmesh_audit.searching import matches
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_reading import PostgresReading, _search

ALL = Filter()


def renamed(act: AuditEvent) -> AuditEvent:
    return act.model_copy(update={"id": EventId.new()})


TRACE, OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(params=["fake", "postgresql"])
def stores(request: pytest.FixtureRequest) -> tuple[LogStore, ReadingStore]:
    if request.param == "fake":
        log = FakeLog()
        return log, FakeReading(log)
    database: Database = request.getfixturevalue("database")
    return PostgresStore(database), PostgresReading(database)


@pytest.fixture
def log(stores: tuple[LogStore, ReadingStore]) -> LogStore:
    return stores[0]


@pytest.fixture
def store(stores: tuple[LogStore, ReadingStore]) -> ReadingStore:
    return stores[1]


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that go through ten entries."""
    monkeypatch.setattr(FakeReading, "scan_entries", 10)
    monkeypatch.setattr(store_reading, "SCAN_ENTRIES", 10)


def tenant(person: Person) -> TenantContext:
    caller = person.caller
    return TenantContext(caller.organization, caller.workspace, caller.principal, caller.permissions)


async def seal(log: LogStore, person: Person, *events: object, **when: object) -> None:
    await log.seal(person.scope, candidates(person.scope, *events, **when))  # type: ignore[arg-type]


async def test_a_reader_sees_its_own_scope_only(
    log: LogStore, store: ReadingStore, person: Callable[..., Person]
) -> None:
    one, rival = person(), person()
    organization = person(OrgId.parse(one.caller.organization))
    await seal(log, one, event(trace_id=TRACE))
    for stranger in (rival, organization):
        for query in (ALL, Filter(trace_id=TRACE), Filter(text="secret")):
            found = await store.scan(tenant(stranger), query, start=0, end=9, limit=9, newest_first=True)
            assert (list(found.entries), found.reached) == ([], 0)
        assert await store.received(tenant(stranger), NOW, end=0) == 0


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages(log: LogStore, store: ReadingStore, operator: Person, newest_first: bool) -> None:
    await seal(log, operator, *[event() for _ in range(10)])
    found = await store.scan(tenant(operator), ALL, start=2, end=8, limit=4, newest_first=newest_first)
    assert [stored.index for stored in found.entries] == ([7, 6, 5, 4] if newest_first else [2, 3, 4, 5])
    assert found.reached == (4 if newest_first else 6)
    rest = await store.scan(tenant(operator), ALL, start=2, end=8, limit=40, newest_first=newest_first)
    assert (len(rest.entries), rest.reached) == (6, 2 if newest_first else 8)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_trace_is_found_in_all_parts_of_a_log(
    log: LogStore, store: ReadingStore, operator: Person, newest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_SPAN_BITS", 2)
    alike = TRACE[:20] + "0" * 12  # looked for in the same places
    await seal(log, operator, *[event(trace_id=each) for _ in range(10) for each in (TRACE, None, alike, OTHER_TRACE)])
    expected = list(range(4, 37, 4))
    found, start, end = list[int](), 1, 39
    while start < end:
        page = await store.scan(
            tenant(operator), Filter(trace_id=TRACE), start=start, end=end, limit=2, newest_first=newest_first
        )
        found += [stored.index for stored in page.entries]
        start, end = (start, page.reached) if newest_first else (page.reached, end)
    assert found == (expected[::-1] if newest_first else expected)


async def test_a_trace_from_before_there_were_places_is_found(
    database: Database, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardmesh_audit.store.trace_place", lambda _trace_id, _index: None)
    log = PostgresStore(database)
    await seal(log, operator, event(trace_id=TRACE), event())
    monkeypatch.undo()
    await seal(log, operator, event(), event(trace_id=TRACE))
    found = await PostgresReading(database).scan(
        tenant(operator), Filter(trace_id=TRACE), start=0, end=4, limit=9, newest_first=False
    )
    assert [stored.index for stored in found.entries] == [0, 3]


async def test_a_trace_is_looked_up_and_not_searched_for(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record], operator: Person
) -> None:
    log = PostgresStore(database)
    for _ in range(8):
        traced = [event(trace_id=f"{random.getrandbits(128):032x}") for _ in range(500)]
        await seal(log, operator, *traced, event(trace_id=TRACE))
    await superuser.execute("analyze audit.entries")
    for newest_first in (True, False):
        search = _search(Filter(trace_id=TRACE), {}, 0, 4_008, newest_first=newest_first)
        async with database.transaction(tenant(operator), read_only=True) as connection:
            rows = await connection.fetch(
                f"explain (analyze, costs off) {search.page(100)}", operator.scope, 0, 4_008, *search.values
            )
        plan = "\n".join(row[0] for row in rows)
        assert "scope_id_trace_place_index_idx" in plan
        assert "Seq Scan on entries_for_ever" not in plan  # other tests open months with next to nothing in them


async def test_a_page_fits_a_message(log: LogStore, store: ReadingStore, operator: Person) -> None:
    large = [event(details={"text": "x" * 60_000}) for _ in range(12)]
    await seal(log, operator, *large)
    seen, start = [], 0
    while start < 12:
        found = await store.scan(tenant(operator), ALL, start=start, end=12, limit=12, newest_first=False)
        assert 0 < sum(len(stored.leaf) for stored in found.entries) <= MAX_PAGE_BYTES
        seen += [stored.index for stored in found.entries]
        start = found.reached
    assert seen == list(range(12))


async def test_filters(log: LogStore, store: ReadingStore, operator: Person) -> None:
    person = UserId.new()
    actor, request, agent = UserId.new(), RequestId.new(), AgentId.new()
    wanted = event(
        actor=actor,
        acting_for=agent,
        request_id=request,
        trace_id=TRACE,
        category=Category.BRIDGE,
        action="bridge.send",
        outcome=Outcome.REFUSED,
        targets=("a", "b\x00c", 'quote"d Zoë', person),
        reason="The Reason",
        details={"note": ["deep\u0000er", {"than": "This \\ path"}], "number": 12345},
        occurred_at=NOW + timedelta(hours=1),
    )
    await seal(log, operator, event(), wanted, event())
    only_it = [
        Filter(actor=actor),
        Filter(agent=agent),
        Filter(request_id=request),
        Filter(trace_id=TRACE),
        Filter(category=Category.BRIDGE),
        Filter(action="bridge.send"),
        Filter(outcome=Outcome.REFUSED),
        Filter(target="a"),
        Filter(target=person),
        Filter(target=person, actor=actor, text="reason"),
        Filter(target="b\x00c"),
        Filter(since=NOW + timedelta(minutes=1)),
        Filter(until=NOW + timedelta(hours=2), since=NOW + timedelta(hours=1)),
        Filter(actor=actor, category=Category.BRIDGE, target="a", agent=agent, trace_id=TRACE),
        Filter(text="bridge.SEND"),
        Filter(text="reason the"),
        Filter(text="DEEP this"),
        Filter(text='quote"d'),
        Filter(text="zoë"),
        Filter(text="\\"),
        Filter(text="deep\x00er"),
        Filter(text="bridge", action="bridge.send", until=NOW + timedelta(hours=2)),
    ]
    nothing = [
        Filter(actor=UserId.new()),
        Filter(agent=AgentId.new()),
        Filter(actor=actor, category=Category.SECRET_ACCESS),
        Filter(target="b"),
        Filter(until=NOW),
        Filter(trace_id="0" * 32),
        Filter(text="than"),  # the name of a detail, and no text of it
        Filter(text="12345"),
        Filter(text=str(actor)),
        Filter(text=str(person)),
        Filter(text="deep absent"),
        Filter(text="zoe"),
        Filter(text="%"),
    ]
    for query in only_it:
        names = await SUBJECTS.names(operator.scope, query)
        found = await store.scan(tenant(operator), query, start=0, end=3, limit=9, newest_first=True, names=names)
        assert [stored.index for stored in found.entries] == [1], query
    for query in nothing:
        names = await SUBJECTS.names(operator.scope, query)
        found = await store.scan(tenant(operator), query, start=0, end=3, limit=9, newest_first=True, names=names)
        assert (list(found.entries), found.reached) == ([], 0), query


async def test_a_person_is_found_also_in_what_was_sealed_before_there_were_pseudonyms(
    log: LogStore, store: ReadingStore, operator: Person, short_looks: None
) -> None:
    person = UserId.new()
    acts = [event(actor=person), event(), event(actor=person, targets=(person,))]
    protected = [each for _ in range(5) for act in acts for each in candidates(operator.scope, renamed(act))]
    await log.seal(
        operator.scope,
        [
            each._replace(committed=(), names=None, openings=None) if place % 2 else each
            for place, each in enumerate(protected)
        ],
    )
    names = await SUBJECTS.names(operator.scope, Filter(actor=person))
    for query, wanted in (
        (Filter(actor=person), [place for place in range(15) if place % 3 != 1]),
        (Filter(target=person), [place for place in range(15) if place % 3 == 2]),
    ):
        seen, start = [], 0
        while start < 15:
            found = await store.scan(
                tenant(operator), query, start=start, end=15, limit=2, newest_first=False, names=names
            )
            seen += [stored.index for stored in found.entries]
            start = found.reached
        assert seen == wanted


async def test_an_agent_is_found_by_what_it_did_and_by_what_was_done_for_it(
    log: LogStore, store: ReadingStore, operator: Person, short_looks: None
) -> None:
    agent, other = AgentId.new(), AgentId.new()
    roles = [{"actor": agent}, {"actor": other}, {"actor": other, "acting_for": agent}]
    roles += [{"actor": agent, "acting_for": agent}]
    await seal(log, operator, *[event(**roles[number % 4]) for number in range(60)])
    for newest_first in (True, False):
        seen, start, end = [], 0, 60
        while start < end:
            found = await store.scan(
                tenant(operator), Filter(agent=agent), start=start, end=end, limit=7, newest_first=newest_first
            )
            seen += [stored.index for stored in found.entries]
            start, end = (start, found.reached) if newest_first else (found.reached, end)
        wanted = [number for number in range(60) if number % 4 != 1]
        assert seen == (wanted[::-1] if newest_first else wanted)


QUERIES = [
    ALL,
    Filter(category=Category.BRIDGE),
    Filter(category=Category.SECRET_ACCESS, outcome=Outcome.FAILED),
    Filter(target="seven"),
    Filter(text="seven"),
    Filter(text="nowhere"),
    Filter(action="secret.get", text="seven", since=NOW),
    Filter(until=NOW + timedelta(seconds=30)),
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_look_is_bounded_and_nothing_falls_between_two(
    log: LogStore, store: ReadingStore, operator: Person, query: Filter, newest_first: bool, short_looks: None
) -> None:
    events = [
        event(
            category=Category.BRIDGE if number % 5 == 0 else Category.SECRET_ACCESS,
            outcome=Outcome.FAILED if number % 11 == 0 else Outcome.SUCCESS,
            targets=("seven",) if number % 7 == 0 else (),
            occurred_at=NOW + timedelta(seconds=number),
        )
        for number in range(95)
    ]
    await seal(log, operator, *events)
    everything = await log.leaves(tenant(operator), start=0, end=95)
    expected = [stored.index for stored in everything if matches(query, decode_leaf(stored))]
    seen: list[int] = []
    start, end = 0, 95
    for _ in range(95):
        found = await store.scan(tenant(operator), query, start=start, end=end, limit=4, newest_first=newest_first)
        seen += [stored.index for stored in found.entries]
        before = end - start
        start, end = (start, found.reached) if newest_first else (found.reached, end)
        assert end - start < before, "every look gets further"
        if start >= end:
            break
    assert seen == (expected[::-1] if newest_first else expected)


async def test_a_time_is_a_place(log: LogStore, store: ReadingStore, operator: Person) -> None:
    """Also where entries were received in another order than they were sealed in."""
    began = NOW - timedelta(minutes=10)  # or they were received after the tiles were filled, by this machine's clock
    minutes = [0, 1, 5, 2, 3, 7, 4, 9]
    for minute in minutes:
        await seal(log, operator, *[event() for _ in range(100)], received_at=began + timedelta(minutes=minute))
    mine = tenant(operator)
    for minute, first in ((-1, 0), (0, 0), (1, 100), (2, 200), (5, 200), (6, 500), (9, 700), (10, 800)):
        moment = began + timedelta(minutes=minute)
        assert await store.received(mine, moment, end=800) == first, minute
        assert await store.received(mine, moment, end=150) == min(first, 150)
        assert await store.sealed_before(mine, moment) <= first
        assert await store.sealed_before(mine, moment) >= 0


async def test_the_place_of_a_time_is_looked_for_among_what_was_sealed_since(
    database: Database, operator: Person
) -> None:
    log, store = PostgresStore(database), PostgresReading(database)
    for _ in range(2):
        await seal(log, operator, *[event() for _ in range(300)])
    later = NOW.max.replace(tzinfo=NOW.tzinfo, year=2200)
    assert await store.sealed_before(tenant(operator), later) == 512
    assert await store.sealed_before(tenant(operator), NOW - timedelta(days=3650)) == 0


async def test_positions_are_the_readers_own(store: ReadingStore, person: Callable[..., Person]) -> None:
    one = person()
    colleague = person(one.scope)
    assert await store.positions(tenant(one)) == []
    await store.save_position(tenant(one), "siem", 5)
    saved = await store.save_position(tenant(one), "siem", 3)
    await store.save_position(tenant(one), "books", 1)
    assert saved.next_start == 3
    assert [(each.name, each.next_start) for each in await store.positions(tenant(one))] == [("books", 1), ("siem", 3)]
    assert await store.positions(tenant(colleague)) == []
    await store.delete_position(tenant(colleague), "siem")
    await store.save_position(tenant(colleague), "siem", 9)
    assert [each.next_start for each in await store.positions(tenant(one))] == [1, 3]
    await store.delete_position(tenant(one), "siem")
    await store.delete_position(tenant(one), "siem")
    assert [each.name for each in await store.positions(tenant(one))] == ["books"]


async def test_positions_are_not_without_number(store: ReadingStore, operator: Person) -> None:
    mine = tenant(operator)
    results = await asyncio.gather(
        *(store.save_position(mine, f"n{number}", number) for number in range(MAX_POSITIONS + 3)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, TooManyPositions) for result in results) == 3
    kept = await store.positions(mine)
    assert len(kept) == MAX_POSITIONS
    await store.save_position(mine, kept[0].name, 7)
