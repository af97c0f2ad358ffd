"""Signing and proving, past the gates, on a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fake_log import FakeLog
from fake_ports import SUBJECTS, FakeAlarm, FakeMemory, FakeWakeups
from makers import Person, candidates, event, make_person

from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import AskReceipt, AuditEvent, Prove, ProveGrowth, Receipt
from wardmesh.contracts.operation import Empty, Level
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.errors import BadProof
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.crypto.mldsa import MldsaKey, check_signed
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.errors import NotSealed, Overloaded, ServiceUnavailable
from wardmesh.ids import EventId
from wardmesh_audit.domain import Stored, decode_leaf
from wardmesh_audit.errors import LogDamaged, NoSuchEntry, SigningRefused
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.proving import Prover
from wardmesh_audit.signing import LogSigner


@pytest.fixture
def alarm() -> FakeAlarm:
    return FakeAlarm()


@pytest.fixture
def prover(fake_log: FakeLog, wakeups: FakeWakeups, signer: LogSigner, memory: FakeMemory, alarm: FakeAlarm) -> Prover:
    return Prover(fake_log, wakeups, signer, memory, alarm, SUBJECTS)


async def seal(log: FakeLog, person: Person, count: int, **changes: object) -> list[AuditEvent]:
    events = [event(**changes) for _ in range(count)]
    await log.seal(person.scope, candidates(person.scope, *events))
    return events


async def ask(prover: Prover, person: Person, event_id: EventId, wait_seconds: float = 0) -> Receipt:
    return await prover.receipt(person.ask(contracts.RECEIPT), AskReceipt(event_id=event_id, wait_seconds=wait_seconds))


async def test_a_checkpoint_is_that_of_the_committed_head(
    prover: Prover, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    empty = await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert open_checkpoint(empty.note.encode(), empty.verifier_key).root == EMPTY_ROOT
    await seal(fake_log, operator, 300)
    answer = await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    opened = open_checkpoint(answer.note.encode(), answer.verifier_key)
    head = fake_log.rows[operator.scope].head
    assert (opened.origin, opened.size, opened.root) == (f"wardmesh.test/{operator.scope}", 300, head.root)
    assert answer.size == 300
    assert memory.values[operator.scope][0] == fake_log.rows[operator.scope].signed
    again = await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert again == answer


async def test_one_logs_checkpoint_does_not_pass_for_anothers(prover: Prover, person: Callable[..., Person]) -> None:
    one, other = person(), person()
    first = await prover.checkpoint(one.ask(contracts.CHECKPOINT), Empty())
    second = await prover.checkpoint(other.ask(contracts.CHECKPOINT), Empty())
    with pytest.raises(Exception, match="no trusted key"):
        open_checkpoint(first.note.encode(), second.verifier_key)


async def test_a_restored_database_is_not_signed(
    prover: Prover, fake_log: FakeLog, alarm: FakeAlarm, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert alarm.raised == []
    newer = fake_log.rows.pop(operator.scope)  # with all that the database remembers
    with pytest.raises(SigningRefused):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    await seal(fake_log, operator, 9)
    with pytest.raises(SigningRefused):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert alarm.raised == [operator.scope, operator.scope]
    fake_log.rows[operator.scope] = newer
    await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert alarm.raised == []


async def test_the_database_remembers_where_the_bucket_is_lost(
    prover: Prover, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    memory.values.clear()
    signed = fake_log.rows[operator.scope].signed
    fake_log.rows[operator.scope] = type(fake_log.rows[operator.scope])(signed=signed)
    await seal(fake_log, operator, 9)
    with pytest.raises(SigningRefused):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_nothing_is_given_out_that_is_not_remembered(
    prover: Prover, fake_log: FakeLog, memory: FakeMemory, operator: Person
) -> None:
    await seal(fake_log, operator, 1)
    memory.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_two_signers_do_not_overtake_each_other(
    prover: Prover, fake_log: FakeLog, memory: FakeMemory, signer: LogSigner, operator: Person
) -> None:
    await seal(fake_log, operator, 5)
    memory.overtaken_by = signer.sign(operator.scope, fake_log.rows[operator.scope].head)
    answer = await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert answer.size == 5
    # Somebody who signed another tree of this log: the second look finds it.
    await seal(fake_log, operator, 1)
    memory.overtaken_by = SignedHead(6, bytes(32), b"")
    with pytest.raises(SigningRefused):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_signers_that_never_get_a_turn_say_so(
    prover: Prover, fake_log: FakeLog, memory: FakeMemory, operator: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seal(fake_log, operator, 1)
    monkeypatch.setattr(memory, "last", lambda _scope: asyncio.sleep(0, (None, 99)))
    with pytest.raises(Overloaded):
        await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())


async def test_proofs_verify(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 300)
    head = fake_log.rows[operator.scope].head
    leaves = fake_log.rows[operator.scope].leaves
    for index in (0, 255, 256, 299):
        proof = await prover.prove(operator.ask(contracts.PROVE), Prove(index=index, size=300))
        verify_inclusion(index, 300, leaves[index][1], proof.hashes, head.root)
    for index, size in ((300, 300), (0, 301), (5, 5)):
        with pytest.raises(NoSuchEntry):
            await prover.prove(operator.ask(contracts.PROVE), Prove(index=index, size=size))


async def test_growth_is_proven_between_any_two_sizes(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    kept = []
    for step in (1, 255, 1, 400):
        await seal(fake_log, operator, step)
        kept.append(await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty()))
    for old in kept:
        for new in kept:
            request = ProveGrowth(old_size=old.size, size=new.size)
            if old.size > new.size:
                with pytest.raises(NoSuchEntry):
                    await prover.consistency(operator.ask(contracts.CONSISTENCY), request)
                continue
            proof = await prover.consistency(operator.ask(contracts.CONSISTENCY), request)
            verify_growth(old.note.encode(), new.note.encode(), proof.hashes, new.verifier_key)
            with pytest.raises(BadProof):
                verify_growth(old.note.encode(), new.note.encode(), (*proof.hashes, bytes(32)), new.verifier_key)
    with pytest.raises(NoSuchEntry):
        await prover.consistency(operator.ask(contracts.CONSISTENCY), ProveGrowth(old_size=1, size=658))


async def test_a_receipt_proves_itself(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    events = [*await seal(fake_log, operator, 300), *await seal(fake_log, operator, 45)]
    for index in (0, 255, 256, 344):
        receipt = await ask(prover, operator, events[index].id)
        verified = verify_receipt(receipt.proof.encode(), receipt.verifier_key)
        assert (verified.index, receipt.index, receipt.size) == (index, index, 345)
        assert verified.entry == fake_log.rows[operator.scope].entries[index]


async def test_receipts_share_a_checkpoint_until_the_log_has_outgrown_it(
    prover: Prover, fake_log: FakeLog, operator: Person
) -> None:
    first, second = await seal(fake_log, operator, 2)
    assert (await ask(prover, operator, first.id)).size == 2
    (third,) = await seal(fake_log, operator, 1)
    one, two = await ask(prover, operator, first.id), await ask(prover, operator, second.id)
    assert one.size == two.size == 2
    assert TlogProof.parse(one.proof.encode()).checkpoint == TlogProof.parse(two.proof.encode()).checkpoint
    assert (await ask(prover, operator, third.id)).size == 3


async def test_who_writes_has_receipts_of_its_own_events_and_of_no_others(prover: Prover, fake_log: FakeLog) -> None:
    member = make_person(level=Level.MEMBER)
    (own,) = await seal(fake_log, member, 1, actor=member.caller.principal)
    (foreign,) = await seal(fake_log, member, 1)
    receipt = await ask(prover, member, own.id)
    assert verify_receipt(receipt.proof.encode(), receipt.verifier_key).index == 0
    with pytest.raises(NotSealed) as refused:
        await ask(prover, member, foreign.id)
    with pytest.raises(NotSealed) as absent:
        await ask(prover, member, EventId.new())
    assert refused.value.to_problem() == absent.value.to_problem()
    assert (await ask(prover, make_person(member.scope), foreign.id)).index == 1


async def test_another_tenants_event_is_not_there(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    (theirs,) = await seal(fake_log, make_person(), 1)
    with pytest.raises(NotSealed):
        await ask(prover, operator, theirs.id)


async def test_a_receipt_waits_for_its_event_to_be_sealed(
    prover: Prover, fake_log: FakeLog, wakeups: FakeWakeups, operator: Person
) -> None:
    emitted = event()
    asking = asyncio.create_task(ask(prover, operator, emitted.id, 8))
    while not wakeups.listeners:
        await asyncio.sleep(0)
    await fake_log.seal(operator.scope, candidates(operator.scope, emitted))
    wakeups.wake()
    assert (await asking).index == 0


async def test_a_receipt_that_waits_ends_with_its_service(
    prover: Prover, wakeups: FakeWakeups, operator: Person
) -> None:
    asking = asyncio.create_task(ask(prover, operator, EventId.new(), 25))
    while not wakeups.listeners:
        await asyncio.sleep(0)
    prover.end_waits()
    wakeups.wake()
    with pytest.raises(NotSealed):
        await asking


async def test_an_entry_without_its_bytes_is_proven_to_readers(prover: Prover, fake_log: FakeLog) -> None:
    member = make_person(level=Level.MEMBER)
    (pruned,) = await seal(fake_log, member, 1, actor=member.caller.principal)
    leaf = fake_log.rows[member.scope].entries.pop(0)
    receipt = await ask(prover, make_person(member.scope), pruned.id)
    assert verify_receipt(receipt.proof.encode(), receipt.verifier_key, entry=leaf).index == 0
    with pytest.raises(NotSealed):
        await ask(prover, member, pruned.id)  # whose it was cannot be seen any more


async def test_no_receipt_is_given_of_a_damaged_log(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    events = await seal(fake_log, operator, 5)
    await ask(prover, operator, events[0].id)
    rows = fake_log.rows[operator.scope]
    rows.entries[1] = rows.entries[1].replace(b"success", b"refused")
    assert decode_leaf(Stored(1, rows.entries[1])).event.outcome is contracts.Outcome.REFUSED
    with pytest.raises(LogDamaged, match="Entry 1"):
        await ask(prover, operator, events[1].id)
    rows.leaves[3] = (rows.leaves[3][0], bytes(32))
    with pytest.raises(LogDamaged):
        await ask(prover, operator, events[2].id)


async def test_no_receipt_is_given_of_a_fork(prover: Prover, fake_log: FakeLog, operator: Person) -> None:
    await seal(fake_log, operator, 3)
    await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    fake_log.rows.clear()
    events = await seal(fake_log, operator, 5)
    with pytest.raises(SigningRefused):
        await ask(prover, operator, events[0].id)
    with pytest.raises(SigningRefused):
        await ask(prover, operator, events[4].id)


async def test_an_mldsa_key_signs_beside_and_a_head_is_signed_once(
    fake_log: FakeLog, wakeups: FakeWakeups, memory: FakeMemory, operator: Person, tmp_path: Path
) -> None:
    ed25519, mldsa = Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate()
    for name, key in (("ed25519", ed25519), ("mldsa", mldsa)):
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    await seal(fake_log, operator, 5)
    before = Prover(fake_log, wakeups, LogSigner("wardmesh.test", ed25519), memory, FakeAlarm(), SUBJECTS)
    assert (await before.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())).mldsa_key is None
    both = LogSigner.from_files("wardmesh.test", tmp_path / "ed25519", tmp_path / "mldsa")
    prover = Prover(fake_log, wakeups, both, memory, FakeAlarm(), SUBJECTS)
    answer = await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty())
    assert answer.mldsa_key is not None
    opened = open_checkpoint(answer.note.encode(), answer.verifier_key)
    check_signed(answer.note.encode(), opened, MldsaKey.parse(answer.mldsa_key))
    assert await prover.checkpoint(operator.ask(contracts.CHECKPOINT), Empty()) == answer
    with pytest.raises(ValueError, match="expected an ML-DSA-44 key"):
        LogSigner.from_files("wardmesh.test", tmp_path / "ed25519", tmp_path / "ed25519")
