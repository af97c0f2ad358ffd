"""Writing and reading, past the gates, on a log in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from fake_log import NOW, FakeEmitter, FakeLog, FakeWakeups, Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Emit, Filter, NewAuditEvent, Query, ReadLeaves, Tail
from wardmesh.contracts.operation import Category
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.errors import AuditUnavailable
from wardmesh.ids import EventId
from wardmesh_audit import service as rules
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.service import AuditService


@pytest.fixture
def service(fake_log: FakeLog, emitter: FakeEmitter, wakeups: FakeWakeups) -> AuditService:
    return AuditService(fake_log, emitter, wakeups, lambda: NOW)


async def seal(log: FakeLog, person: Person, count: int, **changes: object) -> None:
    await log.seal(person.scope, candidates(person.scope, *[event(**changes) for _ in range(count)]))


async def test_emit_says_who_and_where_by_itself(service: AuditService, emitter: FakeEmitter, operator: Person) -> None:
    call = operator.ask(contracts.EMIT)
    chosen, when = EventId.new(), NOW - timedelta(days=29)
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
    answer = await service.emit(call, Emit(events=(new, new.model_copy(update={"id": chosen, "occurred_at": when}))))
    assert [scope for scope, _ in emitter.emitted] == [operator.scope] * 2
    first, second = (told for _, told in emitter.emitted)
    assert answer.ids == (first.id, chosen)
    assert {first.actor, second.actor} == {operator.caller.principal}
    assert (first.occurred_at, second.occurred_at) == (NOW, when)
    assert first.request_id == call.request_id


async def test_emit_does_not_answer_for_what_is_not_on_disk(
    service: AuditService, emitter: FakeEmitter, operator: Person
) -> None:
    emitter.failure = AuditUnavailable()
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
    with pytest.raises(AuditUnavailable):
        await service.emit(operator.ask(contracts.EMIT), Emit(events=(new,)))


async def test_query_goes_back_page_by_page(service: AuditService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 10)
    seen, before = [], None
    while True:
        page = await service.query(operator.ask(contracts.QUERY), Query(before=before, limit=4))
        assert page.next_start == 10
        if not page.entries:
            break
        seen += [entry.index for entry in page.entries]
        before = seen[-1]
    assert seen == list(range(9, -1, -1))


async def test_tail_goes_on_without_gap_or_repeat(service: AuditService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 7)
    seen, start = [], 0
    while start < 7:
        page = await service.tail(operator.ask(contracts.TAIL), Tail(start=start, limit=3, wait_seconds=0))
        seen += [entry.index for entry in page.entries]
        start = page.next_start
    assert seen == list(range(7))


async def test_tail_waits_for_what_is_sealed(
    service: AuditService, fake_log: FakeLog, wakeups: FakeWakeups, operator: Person
) -> None:
    await seal(fake_log, operator, 2)
    waiting = asyncio.create_task(service.tail(operator.ask(contracts.TAIL), Tail(wait_seconds=5)))  # from now
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await seal(fake_log, operator, 1)
    wakeups.wake()
    page = await waiting
    assert ([entry.index for entry in page.entries], page.next_start) == ([2], 3)
    assert not wakeups.listeners


async def test_tail_is_woken_by_what_is_sealed_while_it_looks(
    service: AuditService, fake_log: FakeLog, wakeups: FakeWakeups, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fake_log.head

    async def head_then_news(tenant: object) -> object:
        answer = await original(tenant)  # type: ignore[arg-type]
        if not answer.size:
            await seal(fake_log, operator, 1)
            wakeups.wake()  # after the look at the size, before the wait
        return answer

    monkeypatch.setattr(fake_log, "head", head_then_news)
    page = await asyncio.wait_for(service.tail(operator.ask(contracts.TAIL), Tail(wait_seconds=5)), 1)
    assert page.next_start == 1


async def test_tail_ends_with_the_callers_deadline(service: AuditService, operator: Person) -> None:
    call = operator.ask(contracts.TAIL, seconds=1.1)
    page = await asyncio.wait_for(service.tail(call, Tail(wait_seconds=25)), 1)
    assert (page.entries, page.next_start) == ((), 0)


async def test_a_filter_that_matches_nothing_moves_on(
    service: AuditService, fake_log: FakeLog, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "TAIL_WINDOW", 4)
    await seal(fake_log, operator, 10)
    await seal(fake_log, operator, 1, category=Category.BRIDGE)
    query = Filter(category=Category.BRIDGE)
    call = operator.ask(contracts.TAIL)
    page = await service.tail(call, Tail(filter=query, start=0, wait_seconds=5))
    assert ([entry.index for entry in page.entries], page.next_start) == ([10], 11)
    page = await service.tail(call, Tail(filter=query, start=0, wait_seconds=0))
    assert (page.entries, page.next_start) == ((), 4)


async def test_a_tail_does_not_pass_over_a_gap(service: AuditService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 5)
    del fake_log.rows[operator.scope].entries[2]
    with pytest.raises(LogDamaged):
        await service.tail(operator.ask(contracts.TAIL), Tail(start=0))
    with pytest.raises(LogDamaged):
        await service.tail(operator.ask(contracts.TAIL), Tail(start=2, limit=1))


@pytest.mark.parametrize(("start", "limit"), [(0, 256), (250, 20), (256, 256), (511, 256), (599, 1)])
async def test_leaves_come_with_the_trees_hashes(
    service: AuditService, fake_log: FakeLog, operator: Person, start: int, limit: int
) -> None:
    await seal(fake_log, operator, 500)
    await seal(fake_log, operator, 100)
    page = await service.leaves(operator.ask(contracts.LEAVES), ReadLeaves(start=start, limit=limit))
    entries = fake_log.rows[operator.scope].entries
    assert list(page.leaves) == [entries[index] for index in range(start, min(600, start + limit))]
    assert list(page.hashes) == [leaf_hash(leaf) for leaf in page.leaves]


async def test_leaves_end_with_the_log_or_before_a_gap(
    service: AuditService, fake_log: FakeLog, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    nothing = await service.leaves(operator.ask(contracts.LEAVES), ReadLeaves(start=5))
    assert (nothing.leaves, nothing.hashes) == ((), ())
    del fake_log.rows[operator.scope].entries[3]
    page = await service.leaves(operator.ask(contracts.LEAVES), ReadLeaves(start=0))
    assert len(page.leaves) == len(page.hashes) == 3
    with pytest.raises(LogDamaged, match="Entry 3"):
        await service.leaves(operator.ask(contracts.LEAVES), ReadLeaves(start=3))
