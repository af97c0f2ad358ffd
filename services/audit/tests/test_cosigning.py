"""Our logs, cosigned: witnesses that follow, are down, slow, lying or ahead of us; and what is given out meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_log import (
    NOW,
    SUBJECTS,
    FakeAlarm,
    FakeEmitter,
    FakeLog,
    FakeMemory,
    FakeWakeups,
    Person,
    candidates,
    event,
    make_person,
)
from fake_witness import FakeCosignatures, FakeDoor, FakeWitnessAlarm, FakeWitnessed

from wardmesh.audit_receipt import verify_receipt
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import AskReceipt, Checkpoint
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.note import SignedNote, VerifierKey
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.crypto.tlog_witness import AddCheckpoint, encode_lines
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import EventId, Scope
from wardmesh_audit import cosigning as rules
from wardmesh_audit.cosigning import Cosigning
from wardmesh_audit.errors import NotWitnessed, SigningRefused
from wardmesh_audit.proving import Prover
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.witness_ports import WitnessAnswer, WitnessUnreachable
from wardmesh_audit.witness_rules import Logs
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnesses import WitnessList
from wardmesh_audit.witnessing import WitnessService

NAMES = ("w1", "w2", "w3")
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}


class Trusting:
    """A list of logs with every log of a mesh's."""

    def __init__(self, signer: LogSigner) -> None:
        self._signer = signer
        self.logs: dict[str, tuple[VerifierKey, ...]] = {}

    def add(self, scope: Scope) -> None:
        self.logs[self._signer.origin(scope)] = (VerifierKey.parse(self._signer.verifier_key(scope)),)

    def current(self) -> Logs:
        return self.logs


@dataclass
class World:
    """A log, its prover, and three witnesses in this process."""

    quorum: str
    log: FakeLog = field(default_factory=FakeLog)
    memory: FakeMemory = field(default_factory=FakeMemory)
    alarm: FakeWitnessAlarm = field(default_factory=FakeWitnessAlarm)
    kept: FakeCosignatures = field(default_factory=FakeCosignatures)
    door: FakeDoor = field(default_factory=FakeDoor)
    signer: LogSigner = field(default_factory=lambda: LogSigner("ours.example", Ed25519PrivateKey.generate()))
    person: Person = field(default_factory=make_person)
    cosigning: list[Cosigning] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trusted = Trusting(self.signer)
        self.trusted.add(self.person.scope)
        self.books = {name: FakeWitnessed() for name in NAMES}
        self.memories = {name: FakeMemory() for name in NAMES}
        listed: object = self.trusted
        for name in NAMES:
            self.door.witnesses[f"https://{name}.example"] = WitnessService(
                self.books[name],
                WitnessSigner(f"{name}.example", KEYS[name]),
                listed,  # type: ignore[arg-type]  # as a file would be
                self.memories[name],
                FakeEmitter(),
                lambda: NOW,
            )
        self.policy = Policy.parse(
            "".join(
                f"witness {name} {Cosigner(f'{name}.example', KEYS[name]).verifier} https://{name}.example/\n"
                for name in NAMES
            ).encode()
            + f"group two 2 w1 w2 w3\nquorum {self.quorum}\n".encode()
        )
        self.prover = self.process()

    def process(self) -> Prover:
        """Return another process of ours, with the same database, bucket and witnesses."""
        made = Cosigning(self.policy, self.log, self.kept, self.door, self.memory, self.alarm, lambda: NOW)
        self.cosigning.append(made)
        return Prover(self.log, FakeWakeups(), self.signer, self.memory, FakeAlarm(), SUBJECTS, made)

    @property
    def scope(self) -> Scope:
        return self.person.scope

    async def seal(self, count: int) -> list[EventId]:
        events = [event() for _ in range(count)]
        await self.log.seal(self.scope, candidates(self.scope, *events))
        return [each.id for each in events]

    async def checkpoint(self, prover: Prover | None = None, seconds: float = 10) -> Checkpoint:
        ask = self.person.ask(contracts.CHECKPOINT, seconds=seconds)
        return await (prover or self.prover).checkpoint(ask, Empty())

    def who(self, note: str) -> set[str]:
        """Return whose right lines a note has; it must be signed by the log."""
        signed = open_checkpoint(note.encode(), self.signer.verifier_key(self.scope))
        return set(self.policy.look(SignedNote.parse(note.encode()), signed).at)

    def breaks(self, name: str, answer: object) -> None:
        self.door.answers[f"https://{name}.example"] = answer  # type: ignore[assignment]  # any of what it takes

    def mended(self, name: str) -> None:
        self.door.answers.pop(f"https://{name}.example")

    def asked(self, name: str) -> list[AddCheckpoint]:
        return [AddCheckpoint.parse(body) for url, body in self.door.asked if url == f"https://{name}.example"]

    async def forget(self) -> None:
        """Let every pause be over."""
        for each in self.cosigning:
            each._pauses.clear()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World("none")
    yield made
    for each in made.cosigning:
        await each.close()


@pytest.fixture
async def strict() -> AsyncIterator[World]:
    made = World("two")
    yield made
    for each in made.cosigning:
        await each.close()


async def test_a_checkpoint_is_cosigned_by_all_and_asked_for_once(world: World) -> None:
    await world.seal(5)
    first = await world.checkpoint()
    assert world.who(first.note) == set(NAMES)
    assert await world.checkpoint() == first
    assert await world.checkpoint(world.process()) == first  # it is kept where every process finds it
    assert {name: len(world.asked(name)) for name in NAMES} == dict.fromkeys(NAMES, 1)
    await world.seal(300)
    second = await world.checkpoint()
    assert (second.size, world.who(second.note)) == (305, set(NAMES))
    assert [request.old_size for request in world.asked("w1")] == [0, 5]


async def test_that_a_log_is_empty_is_no_quorums_word(world: World, strict: World) -> None:
    assert (await world.checkpoint()).size == 0
    with pytest.raises(NotWitnessed):
        await strict.checkpoint()
    assert world.door.asked == strict.door.asked == []


async def test_receipts_have_the_lines_too(strict: World) -> None:
    (first, *_) = await strict.seal(9)
    receipt = await strict.prover.receipt(strict.person.ask(contracts.RECEIPT), AskReceipt(event_id=first))
    assert verify_receipt(receipt.proof.encode(), receipt.verifier_key).index == 0
    assert strict.who(TlogProof.parse(receipt.proof.encode()).checkpoint.decode()) == set(NAMES)


FAILURES = {
    "down": WitnessUnreachable("ConnectError"),
    "broken": WitnessAnswer(500, b"oops"),
    "redirects": WitnessAnswer(302, b""),
    "knows no such log": WitnessAnswer(404, b""),
    "does not trust our key": WitnessAnswer(403, b""),
    "empty": WitnessAnswer(200, b""),
    "garbage": WitnessAnswer(200, b"\xff\xfe"),
    "another key's line": lambda _: lines_of(Cosigner("w1.example", Ed25519PrivateKey.generate())),
    "a wrong line": WitnessAnswer(200, f"— w1.example {'A' * 96}==\n".encode()),
    "another log's checkpoint": lambda _: lines_of(Cosigner("w1.example", KEYS["w1"]), origin="another.example"),
    "a clock far ahead": lambda body: lines_of(Cosigner("w1.example", KEYS["w1"]), body, ahead=3600),
    "a size that is none": WitnessAnswer(409, b"many"),
    "a size that goes in circles": lambda body: WitnessAnswer(
        409, b"%d\n" % (1 + AddCheckpoint.parse(body).old_size % 3)
    ),
    "the size it was given": lambda body: WitnessAnswer(409, b"%d\n" % AddCheckpoint.parse(body).old_size),
}


def lines_of(signer: Cosigner, body: bytes | None = None, *, origin: str = "", ahead: int = 0) -> WitnessAnswer:
    checkpoint = rules.Checkpoint(origin or "x", 1, bytes(32)) if body is None else AddCheckpoint.parse(body).checkpoint
    return WitnessAnswer(200, encode_lines((signer.sign(checkpoint, int(NOW.timestamp()) + ahead),)))


@pytest.mark.parametrize("how", FAILURES)
async def test_a_witness_that_fails_keeps_nothing_back_and_is_left_alone(
    world: World, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.seal(5)
    world.breaks("w1", FAILURES[how])
    given = await world.checkpoint()
    assert world.who(given.note) == {"w2", "w3"}
    asked = len(world.asked("w1"))
    assert 1 <= asked <= rules.MAX_CONFLICTS
    assert "w1" in caplog.text
    await world.checkpoint()
    assert len(world.asked("w1")) == asked  # not again so soon
    assert world.alarm.raised == set()
    world.mended("w1")
    await world.forget()
    assert world.who((await world.checkpoint()).note) == set(NAMES)


async def test_a_witness_that_is_down_for_long_is_shown_and_asked_ever_less(world: World) -> None:
    world.breaks("w1", WitnessUnreachable("ConnectError"))
    pauses = []
    for number in range(9):
        await world.seal(1)
        assert (world.cosigning[0].degraded() is None) == (number < 3)
        await world.checkpoint()
        (url,) = {url for url, scope in world.cosigning[0]._pauses if scope is None}
        _, seconds = world.cosigning[0]._pauses[url, None]
        pauses.append(seconds)
        world.cosigning[0]._pauses[url, None] = (0.0, seconds)  # it is over
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    assert world.cosigning[0].degraded() == "witnesses that cannot be reached: w1"
    world.mended("w1")
    assert world.who((await world.checkpoint()).note) == set(NAMES)
    assert world.cosigning[0].degraded() is None


async def test_a_policy_that_asks_for_a_quorum_gives_out_nothing_without(strict: World) -> None:
    await strict.seal(5)
    for name in ("w1", "w2"):
        strict.breaks(name, WitnessUnreachable("ConnectError"))
    with pytest.raises(NotWitnessed) as refused:
        await strict.checkpoint()
    assert refused.value.status == 503
    strict.mended("w2")
    await strict.forget()
    assert strict.who((await strict.checkpoint()).note) == {"w2", "w3"}


async def test_a_slow_witness_is_waited_for_within_a_bound_and_its_line_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "WAIT_SECONDS", 0.05)
    await world.seal(5)
    world.door.hold = asyncio.Event()
    began = asyncio.get_running_loop().time()
    assert world.who((await world.checkpoint()).note) == set()
    assert asyncio.get_running_loop().time() - began < 2
    await world.checkpoint()
    assert len(world.door.asked) == len(NAMES)  # one question, however often we are asked meanwhile
    world.door.hold.set()
    async with asyncio.timeout(5):
        while world.who((await world.checkpoint()).note) != set(NAMES):
            await asyncio.sleep(0.01)
    assert len(world.door.asked) == len(NAMES)


async def test_a_witness_that_never_answers_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "WAIT_SECONDS", 5.0)
    monkeypatch.setattr(rules, "ASK_SECONDS", 0.05)
    world.door.hold = asyncio.Event()
    await world.seal(5)
    assert world.who((await world.checkpoint()).note) == set()
    assert world.cosigning[0]._under_way == {}


async def test_who_has_little_time_is_not_kept_waiting(world: World) -> None:
    await world.seal(5)
    world.door.hold = asyncio.Event()
    async with asyncio.timeout(1):
        await world.checkpoint(seconds=0.5)


async def test_callers_share_one_question_and_what_is_under_way_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_UNDER_WAY", 2)
    await world.seal(5)
    notes = await asyncio.gather(*(world.checkpoint() for _ in range(20)))
    assert {frozenset(world.who(each.note)) for each in notes} == {frozenset({"w1", "w2"})}
    assert len(world.door.asked) == 2
    assert world.who((await world.checkpoint()).note) == set(NAMES)


async def test_what_a_witness_forgot_is_shown_to_it_again(world: World) -> None:
    for count in (5, 4, 3):
        await world.seal(count)
        await world.checkpoint()
    origin = world.signer.origin(world.scope)
    world.books["w1"].latest.clear()
    world.memories["w1"].values.clear()
    await world.seal(2)
    assert world.who((await world.checkpoint()).note) == set(NAMES)
    assert [request.old_size for request in world.asked("w1")][-2:] == [12, 0]
    assert world.books["w1"].latest[origin].size == 14
    assert world.alarm.raised == set()


async def test_another_process_of_ours_that_was_faster_is_no_fork(strict: World) -> None:
    await strict.seal(5)
    other = strict.process()
    inner = strict.door.add_checkpoint
    first = asyncio.Lock()

    async def overtake(url: str, body: bytes) -> WitnessAnswer:
        if AddCheckpoint.parse(body).checkpoint.size == 5:
            async with first:
                if strict.log.rows[strict.scope].head.size == 5:
                    await strict.seal(4)
                    assert strict.who((await strict.checkpoint(other)).note) == set(NAMES)
        return await inner(url, body)

    strict.door.add_checkpoint = overtake  # type: ignore[method-assign]  # in between
    given = await strict.checkpoint()
    assert (given.size, strict.who(given.note)) == (9, set(NAMES))
    assert strict.alarm.raised == set()


async def test_a_database_and_a_bucket_that_went_back_are_found_out_by_the_witnesses(strict: World) -> None:
    """Everything of ours forgot: only a witness can tell that what is signed now is a fork."""
    await strict.seal(9)
    await strict.checkpoint()
    strict.log.rows.clear()
    strict.memory.values.clear()
    strict.kept.rows.clear()
    prover = strict.process()
    await strict.seal(5)
    with pytest.raises(NotWitnessed):  # fewer entries than the witnesses know
        await strict.checkpoint(prover)
    assert strict.alarm.raised == {(strict.scope, name) for name in NAMES}
    await strict.seal(4)
    await strict.forget()
    with pytest.raises(NotWitnessed):  # as many, and other ones
        await strict.checkpoint(prover)
    await strict.seal(7)
    await strict.forget()
    with pytest.raises(NotWitnessed):  # more, on another beginning
        await strict.checkpoint(prover)
    assert strict.alarm.raised == {(strict.scope, name) for name in NAMES}
    for books in strict.books.values():
        assert books.latest[strict.signer.origin(strict.scope)].size == 9


async def test_without_a_quorum_the_alarm_is_raised_and_nothing_is_stopped_by_a_witnesss_word(world: World) -> None:
    await world.seal(5)
    world.breaks("w1", WitnessAnswer(409, b"1000\n"))
    assert world.who((await world.checkpoint()).note) == {"w2", "w3"}
    assert world.alarm.raised == {(world.scope, "w1")}
    world.mended("w1")
    await world.forget()
    assert world.who((await world.checkpoint()).note) == set(NAMES)
    assert world.alarm.raised == set()


async def test_a_database_that_alone_went_back_is_still_refused_first(strict: World) -> None:
    await strict.seal(9)
    await strict.checkpoint()
    strict.log.rows.clear()
    await strict.seal(5)
    with pytest.raises(SigningRefused):
        await strict.checkpoint(strict.process())


async def test_a_damaged_tree_is_no_witness_that_contradicts(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.seal(6)
    await world.checkpoint()
    await world.seal(5)
    signed = world.signer.sign(world.scope, world.log.rows[world.scope].head)
    leaves = world.log.rows[world.scope].leaves
    leaves[5] = (leaves[5][0], bytes(32))
    given = await world.cosigning[0].collect(world.scope, signed, 5)
    assert world.who(given.note.decode()) == set()
    assert world.alarm.raised == set()
    assert "could not be asked for" in caplog.text


async def test_what_cannot_be_kept_is_not_given_out(world: World) -> None:
    await world.seal(5)
    inner = world.kept.keep

    async def fail(*_: object) -> None:
        raise ServiceUnavailable

    world.kept.keep = fail  # type: ignore[method-assign]
    assert world.who((await world.checkpoint()).note) == set()
    world.kept.keep = inner  # type: ignore[method-assign]
    assert world.who((await world.checkpoint()).note) == set(NAMES)  # asked again, from the size that it says


async def test_a_damaged_line_is_not_given_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.seal(5)
    await world.checkpoint()
    rows = world.kept.rows[world.scope]
    for key, (line, time) in rows.items():
        if line.name == "w1.example":
            rows[key] = (
                type(line)(line.name, line.key_id, line.signature[:-1] + bytes([line.signature[-1] ^ 1])),
                time,
            )
    assert world.who((await world.checkpoint(world.process())).note) == {"w2", "w3"}
    assert "damaged" in caplog.text


async def test_the_list_of_witnesses_says_who_is_behind(world: World) -> None:
    await world.seal(5)
    await world.checkpoint()
    world.breaks("w3", WitnessUnreachable("ConnectError"))
    await world.seal(2)
    await world.checkpoint()
    shown = await WitnessList(world.policy, world.kept, None).show(world.person.ask(contracts.WITNESSES), Empty())
    assert {each.name: each.size for each in shown.witnesses} == {"w1": 7, "w2": 7, "w3": 5}
    assert (shown.quorum, shown.own_keys) == ("none", ())
    own = WitnessSigner("me", KEYS["w1"])
    nobody = await WitnessList(Policy(), world.kept, own).show(world.person.ask(contracts.WITNESSES), Empty())
    assert nobody.own_keys == own.verifier_keys


def test_every_witness_of_ours_has_an_address() -> None:
    key = Cosigner("w", KEYS["w1"]).verifier
    for line in (f"witness w {key}\n", f"witness w {key} ftp://w.example/\n"):
        with pytest.raises(ValueError, match="where it is asked"):
            rules.places_of(Policy.parse(f"{line}quorum w\n".encode()))


async def test_two_keys_at_one_address_are_asked_once(world: World) -> None:
    keys = "".join(
        f"witness {name} {Cosigner(f'{name}.example', KEYS[name]).verifier} https://w1.example\n"
        for name in ("w1", "w2")
    )
    policy = Policy.parse(f"{keys}group any1 any w1 w2\nquorum any1\n".encode())
    assert [place.url for place in rules.places_of(policy)] == ["https://w1.example"]
    cosigning = Cosigning(policy, world.log, world.kept, world.door, world.memory, world.alarm, lambda: NOW)
    await world.seal(5)
    signed = world.signer.sign(world.scope, world.log.rows[world.scope].head)
    assert (await cosigning.collect(world.scope, signed, 5)).is_enough
    assert len(world.door.asked) == 1
