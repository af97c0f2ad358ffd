"""Witnesses and our books that differ: who has forgotten, who went back, and what nobody's word alone decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cosigning_world import NAMES, World, cosigned_log

from wardmesh.crypto.tlog_witness import AddCheckpoint
from wardmesh_audit.errors import NotWitnessed, SigningRefused
from wardmesh_audit.witness_ports import WitnessAnswer


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with cosigned_log("none") as made:
        yield made


@pytest.fixture
async def strict() -> AsyncIterator[World]:
    async with cosigned_log("two") as made:
        yield made


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
