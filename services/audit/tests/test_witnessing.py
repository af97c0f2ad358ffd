"""This mesh as a witness, past the gates, with its books in memory and in PostgreSQL: attacked by whoever asks it."""

from __future__ import annotations

import asyncio

import pytest
from fake_ports import FakeEmitter, FakeMemory
from fake_witness import FakeWitnessed, FixedLogs, OtherLog, Outbox, ask, signer
from makers import NOW

from wardmesh.contracts.audit import Cosigned
from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.cosignature import cosigned, parse_witness_key, with_lines
from wardmesh.crypto.note import Signature, SignedNote
from wardmesh.crypto.tlog_witness import AddCheckpoint, parse_lines
from wardmesh.errors import AuditUnavailable, ServiceUnavailable
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh_audit.errors import BooksDiffer, Inconsistent, MalformedCheckpoint, NotAWitness, NotTheLogs, UnknownLog
from wardmesh_audit.proofs import SignedHead
from wardmesh_audit.store_witness import PostgresWitnessed
from wardmesh_audit.witness_ports import WitnessedStore
from wardmesh_audit.witness_rules import Latest
from wardmesh_audit.witnessing import WitnessService

SIGNER = signer()
KEYS = [parse_witness_key(key) for key in SIGNER.verifier_keys]


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> WitnessedStore:
    return FakeWitnessed() if request.param == "fake" else PostgresWitnessed(request.getfixturevalue("database"))


@pytest.fixture
def log() -> OtherLog:
    return OtherLog(f"other.example/{WorkspaceId.new()}")


@pytest.fixture
def witness(store: WitnessedStore, log: OtherLog, emitter: FakeEmitter) -> WitnessService:
    return made(store, log, emitter)


def made(
    store: WitnessedStore, log: OtherLog, emitter: FakeEmitter, memory: FakeMemory | None = None
) -> WitnessService:
    logs: object = FixedLogs(log)
    return WitnessService(store, SIGNER, logs, memory or FakeMemory(), emitter, lambda: NOW)  # type: ignore[arg-type]  # as a file would be


def is_cosigned(answer: Cosigned, checkpoint: Checkpoint, log: OtherLog) -> bool:
    note = with_lines(log.note(checkpoint.size), parse_lines(answer.lines.encode()))
    return set(cosigned(note, checkpoint, KEYS).values()) == {int(NOW.timestamp())}


async def test_a_log_is_cosigned_as_it_grows(witness: WitnessService, log: OtherLog) -> None:
    old = 0
    for size in (0, 1, 7, 7, 300):
        answer = await ask(witness, log.request(old, size))
        assert answer.known_size is None
        assert is_cosigned(answer, log.checkpoint(size), log)
        old = size


async def test_who_does_not_know_where_the_witness_is_is_told(witness: WitnessService, log: OtherLog) -> None:
    await ask(witness, log.request(0, 7))
    assert await ask(witness, log.request(0, 9)) == Cosigned(known_size=7)
    assert await ask(witness, log.request(3, 5)) == Cosigned(known_size=7)  # an old checkpoint, replayed
    assert is_cosigned(await ask(witness, log.request(7, 9)), log.checkpoint(9), log)


async def test_a_crash_between_the_books_and_the_answer_costs_a_question(
    store: WitnessedStore, log: OtherLog, emitter: FakeEmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as crash:
        crash.setattr(SIGNER, "sign", die)
        with pytest.raises(KeyError, match="killed"):
            await ask(made(store, log, emitter), log.request(0, 7))
    again = made(store, log, emitter)  # another process, with the same books
    assert await ask(again, log.request(0, 7)) == Cosigned(known_size=7)
    assert is_cosigned(await ask(again, log.request(7, 7)), log.checkpoint(7), log)
    assert await ask(again, log.branched(3, "x").request(7, 7)) == Cosigned(known_size=7)  # not the other one


async def test_of_two_trees_of_one_size_exactly_one_is_cosigned(
    store: WitnessedStore, log: OtherLog, emitter: FakeEmitter
) -> None:
    await ask(made(store, log, emitter), log.request(0, 3))
    branches = [log.branched(3, str(number)) for number in range(6)]
    answers = await asyncio.gather(*(ask(made(store, log, emitter), each.request(3, 8)) for each in branches))
    won = [place for place, answer in enumerate(answers) if answer.lines]
    assert len(won) == 1
    assert {answer.known_size for place, answer in enumerate(answers) if place not in won} == {8}
    assert is_cosigned(answers[won[0]], branches[won[0]].checkpoint(8), branches[won[0]])


async def test_a_fork_is_not_cosigned_and_is_evidence(
    witness: WitnessService, log: OtherLog, emitter: FakeEmitter, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(witness, log.request(0, 8))
    fork = log.branched(5, "x")
    assert await ask(witness, fork.request(8, 8, ())) == Cosigned(known_size=8)
    with pytest.raises(Inconsistent):
        await ask(witness, fork.request(8, 12))
    (scope, event), *_ = emitter.emitted
    assert (scope, event.action, event.reason) == (OrgId.nil(), "log.cosign", "forked")
    assert event.targets == (log.signer.verifier.name,)
    assert str(event.details["note"]).encode() == fork.note(8).encode()  # with the signature: nobody can deny it
    assert "two trees of 8 entries" in caplog.text
    emitter.failure = AuditUnavailable()
    assert await ask(witness, fork.request(8, 8, ())) == Cosigned(known_size=8)


async def test_strangers_and_forgers_are_refused(witness: WitnessService, log: OtherLog) -> None:
    with pytest.raises(UnknownLog):
        await ask(witness, OtherLog("unknown.example/log").request(0, 3))
    renamed = Checkpoint("unknown.example/log", 3, log.checkpoint(3).root)
    with pytest.raises(UnknownLog):  # signed by a key that is known, for another log
        await ask(witness, AddCheckpoint(0, (), SignedNote(renamed.text(), log.note(3).signatures)).encode())
    key = log.signer.verifier
    forged = SignedNote(log.note(3).text, (Signature(key.name, key.key_id, bytes(64)),))
    with pytest.raises(NotTheLogs):
        await ask(witness, AddCheckpoint(0, (), forged).encode())
    moved = SignedNote(log.note(4).text, log.note(3).signatures)
    with pytest.raises(NotTheLogs):
        await ask(witness, AddCheckpoint(0, (), moved).encode())
    with pytest.raises(MalformedCheckpoint):
        await ask(witness, b"old 0\n\nnothing")
    with pytest.raises(MalformedCheckpoint):
        await ask(witness, log.request(3, 3).replace(b"old 3", b"old 4"))
    with pytest.raises(Inconsistent):
        await ask(witness, log.request(0, 3, (bytes(32),)))


async def test_what_is_cosigned_is_recorded_in_the_meshs_own_log(witness: WitnessService, log: OtherLog) -> None:
    outbox = Outbox()
    await ask(witness, log.request(0, 7), outbox)
    await ask(witness, log.request(0, 7), outbox)  # only told where it is
    for scope, event in outbox.sent:
        assert (scope, event.action, event.targets) == (OrgId.nil(), "log.cosign", (log.signer.verifier.name,))
        assert event.details["size"] == 7
    assert len(outbox.sent) <= 1  # the fake has no transaction to commit it with


async def test_nothing_is_cosigned_that_is_not_in_the_books(log: OtherLog, emitter: FakeEmitter) -> None:
    store = FakeWitnessed()
    store.failure = ServiceUnavailable()
    witness = made(store, log, emitter)
    with pytest.raises(ServiceUnavailable):
        await ask(witness, log.request(0, 3))
    assert store.latest == {}


async def test_books_that_went_back_are_not_believed(log: OtherLog, emitter: FakeEmitter) -> None:
    """The witness's own database was restored: what is remembered outside of it is as good as what it says."""
    store, memory = FakeWitnessed(), FakeMemory()
    witness = made(store, log, emitter, memory)
    await ask(witness, log.request(0, 7))
    before = dict(store.latest)
    await ask(witness, log.request(7, 9))
    store.latest = dict(before)
    fork = log.branched(7, "x")
    for request in (fork.request(7, 9), fork.request(7, 12), log.request(7, 12)):
        assert await ask(witness, request) == Cosigned(known_size=9)
    with pytest.raises(Inconsistent):
        await ask(witness, fork.request(9, 12))
    assert store.latest == before
    assert is_cosigned(await ask(witness, log.request(9, 12)), log.checkpoint(12), log)
    assert store.latest[log.signer.verifier.name].size == 12


async def test_what_is_not_remembered_outside_is_not_cosigned(log: OtherLog, emitter: FakeEmitter) -> None:
    store, memory = FakeWitnessed(), FakeMemory()
    witness = made(store, log, emitter, memory)
    memory.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await ask(witness, log.request(0, 7))
    assert store.latest == {}
    await ask(witness, log.request(0, 7))
    memory.overtaken_by = SignedHead(9, log.checkpoint(9).root, b"")  # by another process, which came later
    assert is_cosigned(await ask(witness, log.request(7, 8)), log.checkpoint(8), log)
    assert await ask(witness, log.request(8, 9)) == Cosigned(known_size=9)
    store.latest[log.signer.verifier.name] = Latest(9, bytes(32))
    with pytest.raises(BooksDiffer):
        await ask(witness, log.request(9, 12))


async def test_a_mesh_without_a_list_is_no_witness(log: OtherLog, emitter: FakeEmitter) -> None:
    silent = WitnessService(FakeWitnessed(), None, None, FakeMemory(), emitter, lambda: NOW)
    with pytest.raises(NotAWitness):
        await ask(silent, log.request(0, 3))


async def test_extension_lines_are_cosigned_with_the_rest(witness: WitnessService, log: OtherLog) -> None:
    checkpoint = log.checkpoint(3, "an extension", "and another")
    note = SignedNote(checkpoint.text(), (log.signer.sign(checkpoint.text()),))
    answer = await ask(witness, AddCheckpoint(0, (), note).encode())
    line, *_ = parse_lines(answer.lines.encode())
    assert set(cosigned(with_lines(note, [line]), checkpoint, KEYS)) == set(KEYS)
