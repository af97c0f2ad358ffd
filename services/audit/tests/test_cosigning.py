"""Our logs, cosigned: witnesses that follow, are down, slow or lying; and what is given out meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cosigning_world import KEYS, NAMES, World, cosigned_log
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from makers import NOW

from wardmesh.audit_receipt import verify_receipt
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import AskReceipt
from wardmesh.contracts.operation import Empty
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.crypto.tlog_proof import TlogProof
from wardmesh.crypto.tlog_witness import AddCheckpoint, encode_lines
from wardmesh.errors import ServiceUnavailable
from wardmesh_audit import cosigning as rules
from wardmesh_audit.cosigning import Cosigning
from wardmesh_audit.errors import NotWitnessed
from wardmesh_audit.witness_ports import WitnessAnswer, WitnessUnreachable
from wardmesh_audit.witness_signing import WitnessSigner
from wardmesh_audit.witnesses import WitnessList


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with cosigned_log("none") as made:
        yield made


@pytest.fixture
async def strict() -> AsyncIterator[World]:
    async with cosigned_log("two") as made:
        yield made


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
