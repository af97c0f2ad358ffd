"""Writing and giving out leaves, past the gates, on a log in memory."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fake_log import FakeLog
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeEmitter
from makers import NOW, Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Emit, NewAuditEvent, ReadLeaves
from wardmesh.contracts.operation import Category
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.errors import AuditUnavailable
from wardmesh.ids import EventId
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.service import AuditService


@pytest.fixture
def service(fake_log: FakeLog, emitter: FakeEmitter) -> AuditService:
    return AuditService(fake_log, emitter, lambda: NOW, SUBJECTS, FakePeople(fake_log))


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
