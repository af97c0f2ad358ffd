"""Writing and proving, past the gates, on a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from fake_log import NOW, FakeEmitter, FakeLog, FakeMemory, Person, candidates, event

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Emit, NewAuditEvent, Prove, ReadLeaves
from wardmesh.contracts.operation import Category, Empty
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.merkle import EMPTY_ROOT, leaf_hash
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.errors import AuditUnavailable, Overloaded, ServiceUnavailable
from wardmesh.ids import EventId
from wardmesh_audit.errors import LogDamaged, NoSuchEntry, SigningRefused
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner


@pytest.fixture
def service(fake_log: FakeLog, emitter: FakeEmitter, signer: LogSigner, memory: FakeMemory) -> AuditService:
    return AuditService(fake_log, emitter, signer, memory, lambda: NOW)


async def seal(log: FakeLog, person: Person, count: int, **changes: object) -> None:
    await log.seal(person.scope, candidates(person.scope, *[event(**changes) for _ in range(count)]))


async def test_emit_says_who_and_where_by_itself(service: AuditService, emitter: FakeEmitter, operator: Person) -> None:
    call = operator.ask(contracts.EMIT)
    chosen, when = EventId.new(), datetime(2026, 1, 1, tzinfo=UTC)
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


async def test_a_checkpoint_is_that_of_the_committed_head(
    service: AuditService, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    empty = await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert open_checkpoint(empty.note.encode(), empty.verifier_key).root == EMPTY_ROOT
    await seal(fake_log, operator, 300)
    answer = await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    opened = open_checkpoint(answer.note.encode(), answer.verifier_key)
    head = fake_log.rows[operator.scope].head
    assert (opened.origin, opened.size, opened.root) == (f"wardmesh.test/{operator.scope}", 300, head.root)
    assert answer.size == 300
    assert memory.values[operator.scope][0] == fake_log.rows[operator.scope].signed
    again = await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert again == answer


async def test_one_logs_checkpoint_does_not_pass_for_anothers(
    service: AuditService, person: Callable[..., Person]
) -> None:
    one, other = person(), person()
    first = await service.checkpoint(one.ask(contracts.CHECKPOINT), Empty())
    second = await service.checkpoint(other.ask(contracts.CHECKPOINT), Empty())
    with pytest.raises(Exception, match="no trusted key"):
        open_checkpoint(first.note.encode(), second.verifier_key)


async def test_a_restored_database_is_not_signed(service: AuditService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 5)
    await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    fake_log.rows.clear()  # with all that the database remembers
    with pytest.raises(SigningRefused):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    await seal(fake_log, operator, 9)
    with pytest.raises(SigningRefused):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_the_database_remembers_where_the_bucket_is_lost(
    service: AuditService, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    memory.values.clear()
    signed = fake_log.rows[operator.scope].signed
    fake_log.rows[operator.scope] = type(fake_log.rows[operator.scope])(signed=signed)
    await seal(fake_log, operator, 9)
    with pytest.raises(SigningRefused):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_nothing_is_given_out_that_is_not_remembered(
    service: AuditService, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    await seal(fake_log, operator, 1)
    memory.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_two_signers_do_not_overtake_each_other(
    service: AuditService, fake_log: FakeLog, memory: FakeMemory, signer: LogSigner, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    memory.overtaken_by = signer.sign(operator.scope, fake_log.rows[operator.scope].head)
    answer = await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert answer.size == 5
    # Somebody who signed another tree of this log: the second look finds it.
    await seal(fake_log, operator, 1)
    memory.overtaken_by = SignedHead(6, bytes(32), b"")
    with pytest.raises(SigningRefused):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_signers_that_never_get_a_turn_say_so(
    service: AuditService, fake_log: FakeLog, memory: FakeMemory, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(fake_log, operator, 1)
    monkeypatch.setattr(memory, "last", lambda _scope: asyncio.sleep(0, (None, 99)))
    with pytest.raises(Overloaded):
        await service.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


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


async def test_proofs_verify(service: AuditService, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 300)
    head = fake_log.rows[operator.scope].head
    leaves = fake_log.rows[operator.scope].leaves
    for index in (0, 255, 256, 299):
        proof = await service.prove(operator.ask(contracts.PROVE), Prove(index=index, size=300))
        verify_inclusion(index, 300, leaves[index][1], proof.hashes, head.root)
    for index, size in ((300, 300), (0, 301), (5, 5)):
        with pytest.raises(NoSuchEntry):
            await service.prove(operator.ask(contracts.PROVE), Prove(index=index, size=size))
