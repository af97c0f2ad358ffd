"""Searching and following, past the gates, on a log in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from fake_log import FakeLog, FakeReading
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeWakeups
from makers import NOW, Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    MAX_NODES,
    DeletePosition,
    Filter,
    Query,
    ReadNodes,
    SavePosition,
    SelectLeaves,
    Tail,
)
from wardmesh.contracts.operation import Category, Empty
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.selection import SelectedTree, nodes_to, perfect_subtrees
from wardmesh_audit import reading as rules
from wardmesh_audit.errors import LogDamaged, NoSuchEntry
from wardmesh_audit.reading import ReadingService


@pytest.fixture
def reading(fake_log: FakeLog, wakeups: FakeWakeups) -> ReadingService:
    return ReadingService(fake_log, FakeReading(fake_log), wakeups, SUBJECTS, FakePeople(fake_log))


async def seal(log: FakeLog, person: Person, count: int, **changes: object) -> None:
    await log.seal(person.scope, candidates(person.scope, *[event(**changes) for _ in range(count)]))


async def test_query_goes_back_page_by_page(reading: ReadingService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 10)
    seen, before = [], None
    while True:
        page = await reading.query(operator.ask(contracts.QUERY), Query(before=before, limit=4))
        assert page.next_start == 10
        seen += [entry.index for entry in page.entries]
        before = page.next_before
        if before is None:
            break
    assert seen == list(range(9, -1, -1))


async def test_tail_goes_on_without_gap_or_repeat(reading: ReadingService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 7)
    seen, start = [], 0
    while start < 7:
        page = await reading.tail(operator.ask(contracts.TAIL), Tail(start=start, limit=3, wait_seconds=0))
        seen += [entry.index for entry in page.entries]
        start = page.next_start
    assert seen == list(range(7))


async def test_tail_waits_for_what_is_sealed(
    reading: ReadingService, fake_log: FakeLog, wakeups: FakeWakeups, operator: Person
) -> None:
    await seal(fake_log, operator, 2)
    waiting = asyncio.create_task(reading.tail(operator.ask(contracts.TAIL), Tail(wait_seconds=5)))  # from now
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await seal(fake_log, operator, 1)
    wakeups.wake()
    page = await waiting
    assert ([entry.index for entry in page.entries], page.next_start) == ([2], 3)
    assert not wakeups.listeners


async def test_tail_is_woken_by_what_is_sealed_while_it_looks(
    reading: ReadingService, fake_log: FakeLog, wakeups: FakeWakeups, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fake_log.head

    async def head_then_news(tenant: object) -> object:
        answer = await original(tenant)  # type: ignore[arg-type]
        if not answer.size:
            await seal(fake_log, operator, 1)
            wakeups.wake()  # after the look at the size, before the wait
        return answer

    monkeypatch.setattr(fake_log, "head", head_then_news)
    page = await asyncio.wait_for(reading.tail(operator.ask(contracts.TAIL), Tail(wait_seconds=5)), 1)
    assert page.next_start == 1


async def test_tail_ends_with_the_callers_deadline(reading: ReadingService, operator: Person) -> None:
    call = operator.ask(contracts.TAIL, seconds=1.1)
    page = await asyncio.wait_for(reading.tail(call, Tail(wait_seconds=25)), 1)
    assert (page.entries, page.next_start) == ((), 0)


async def test_a_filter_that_matches_nothing_moves_on(
    reading: ReadingService, fake_log: FakeLog, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeReading, "scan_entries", 4)
    await seal(fake_log, operator, 10)
    await seal(fake_log, operator, 1, category=Category.BRIDGE)
    query = Filter(category=Category.BRIDGE)
    call = operator.ask(contracts.TAIL)
    page = await reading.tail(call, Tail(filter=query, start=0, wait_seconds=5))
    assert ([entry.index for entry in page.entries], page.next_start) == ([10], 11)
    page = await reading.tail(call, Tail(filter=query, start=0, wait_seconds=0))
    assert (page.entries, page.next_start) == ((), 4)


async def test_a_tail_does_not_pass_over_a_gap(reading: ReadingService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 5)
    del fake_log.rows[operator.scope].entries[2]
    with pytest.raises(LogDamaged):
        await reading.tail(operator.ask(contracts.TAIL), Tail(start=0))
    with pytest.raises(LogDamaged):
        await reading.tail(operator.ask(contracts.TAIL), Tail(start=2, limit=1))


async def test_a_query_that_has_found_nothing_says_where_it_is(
    reading: ReadingService, fake_log: FakeLog, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeReading, "scan_entries", 4)
    await seal(fake_log, operator, 1, category=Category.BRIDGE)
    await seal(fake_log, operator, 10)
    query = Filter(category=Category.BRIDGE)
    # With time, it goes on by itself; without, the caller does.
    page = await reading.query(operator.ask(contracts.QUERY), Query(filter=query))
    assert ([entry.index for entry in page.entries], page.next_before) == ([0], None)
    monkeypatch.setattr(rules, "QUERY_SECONDS", -1.0)
    places, before = [], None
    while True:
        page = await reading.query(operator.ask(contracts.QUERY), Query(filter=query, before=before))
        if page.next_before is None:
            break
        assert not page.entries
        places.append(before := page.next_before)
    assert places == [7, 3]
    assert [entry.index for entry in page.entries] == [0]


async def test_since_ends_the_search_where_nothing_older_can_match(
    reading: ReadingService, fake_log: FakeLog, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(fake_log, operator, 5)
    new = [event(occurred_at=NOW + timedelta(days=9)) for _ in range(3)]
    await fake_log.seal(operator.scope, candidates(operator.scope, *new, received_at=NOW + timedelta(days=9)))
    looked: list[int] = []
    original = FakeReading.scan

    async def scan(self: FakeReading, tenant: object, query: Filter, *, start: int, **rest: object) -> object:
        looked.append(start)
        return await original(self, tenant, query, start=start, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeReading, "scan", scan)
    asked = Query(filter=Filter(since=NOW + timedelta(days=5)))
    page = await reading.query(operator.ask(contracts.QUERY), asked)
    assert ([entry.index for entry in page.entries], page.next_before, looked) == ([7, 6, 5], None, [5])


async def test_a_tail_begins_at_a_time(reading: ReadingService, fake_log: FakeLog, operator: Person) -> None:
    for minute in range(4):
        late = candidates(operator.scope, event(), event(), received_at=NOW + timedelta(minutes=minute))
        await fake_log.seal(operator.scope, late)
    asked = Tail(start_time=NOW + timedelta(minutes=2), wait_seconds=0)
    page = await reading.tail(operator.ask(contracts.TAIL), asked)
    assert ([entry.index for entry in page.entries], page.next_start) == ([4, 5, 6, 7], 8)
    asked = Tail(start_time=NOW + timedelta(minutes=9), wait_seconds=0)
    assert (await reading.tail(operator.ask(contracts.TAIL), asked)).next_start == 8
    both = Tail(start=6, start_time=NOW, wait_seconds=0)
    assert [each.index for each in (await reading.tail(operator.ask(contracts.TAIL), both)).entries] == [6, 7]


async def test_a_position_is_kept_under_its_name(reading: ReadingService, operator: Person) -> None:
    saving, listing = operator.ask(contracts.SAVE_POSITION), operator.ask(contracts.LIST_POSITIONS)
    await reading.save_position(saving, SavePosition(name="siem", next_start=4))
    found = await reading.list_positions(listing, Empty())
    assert [(each.name, each.next_start) for each in found.positions] == [("siem", 4)]
    await reading.delete_position(operator.ask(contracts.DELETE_POSITION), DeletePosition(name="siem"))
    assert not (await reading.list_positions(listing, Empty())).positions


async def test_a_part_of_the_log_is_proven_by_the_trees_own_hashes(
    reading: ReadingService, fake_log: FakeLog, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third entry of a log that goes on growing, as an export reads it."""
    for number in range(12):
        await seal(fake_log, operator, 50, action="a.b" if number % 3 == 0 else "c.d")
    size, root = 600, fake_log.rows[operator.scope].head.root
    await seal(fake_log, operator, 300, action="a.b")
    monkeypatch.setattr(FakeReading, "scan_entries", 70)

    indexes, leaves, start = [], [], 0
    while start < size:
        asking = SelectLeaves(filter=Filter(action="a.b"), start=start, end=size, limit=30)
        page = await reading.select(operator.ask(contracts.SELECT), asking)
        indexes += page.indexes
        leaves += page.leaves
        start = page.next_start
    assert indexes == [index for index in range(600) if index // 50 % 3 == 0]
    nodes, covered = [], 0
    for index in indexes:
        nodes += nodes_to(covered, index)
        covered = index + 1
    nodes += perfect_subtrees(covered, size)
    hashes: list[bytes] = []
    for place in range(0, len(nodes), MAX_NODES):
        asked = ReadNodes(size=size, nodes=tuple(nodes[place : place + MAX_NODES]))
        hashes += (await reading.nodes(operator.ask(contracts.NODES), asked)).hashes
    given = iter(hashes)
    tree = SelectedTree(size, lambda: next(given))
    assert [tree.leaf(index) for index in indexes] == [leaf_hash(leaf) for leaf in leaves]
    assert tree.root() == root


async def test_a_node_that_the_tree_does_not_have_is_not_made_up(
    reading: ReadingService, fake_log: FakeLog, operator: Person
) -> None:
    await seal(fake_log, operator, 300)
    for size, node in ((301, (0, 0)), (300, (0, 300)), (300, (8, 1)), (300, (9, 0)), (300, (63, 0))):
        with pytest.raises(NoSuchEntry):
            await reading.nodes(operator.ask(contracts.NODES), ReadNodes(size=size, nodes=(node,)))
    beyond = SelectLeaves(start=300, end=999)
    assert (await reading.select(operator.ask(contracts.SELECT), beyond)).next_start >= 300
