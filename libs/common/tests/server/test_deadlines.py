"""Deadlines: what takes too long is ended, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from wardmesh.errors import DeadlineExceeded
from wardmesh.server.deadlines import Deadlines


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    deadlines = Deadlines()
    deadlines.start()
    yield deadlines
    deadlines.stop()


def soon(seconds: float = 0.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_what_takes_too_long_is_ended_and_the_task_lives_on(deadlines: Deadlines) -> None:
    with pytest.raises(DeadlineExceeded), deadlines.until(soon()):
        await asyncio.sleep(60)
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_what_is_done_in_time_is_left_alone(deadlines: Deadlines) -> None:
    with deadlines.until(soon(0.01)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.15)  # past its time, and past several looks


async def test_only_the_late_one_of_many_is_ended(deadlines: Deadlines) -> None:
    async def work(ends_in: float) -> str:
        with deadlines.until(soon(ends_in)):
            await asyncio.sleep(0.2)
            return "done"

    results = await asyncio.gather(*[work(60), work(0), work(60)], return_exceptions=True)
    assert [type(result) for result in results] == [str, DeadlineExceeded, str]


async def test_a_cancellation_of_somebody_elses_goes_on(deadlines: Deadlines) -> None:
    async def work() -> None:
        with deadlines.until(soon(60)):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_not_covered_up(deadlines: Deadlines) -> None:
    async def converts() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    with pytest.raises(ZeroDivisionError), deadlines.until(soon()):
        await converts()


async def test_after_stop_nothing_is_ended() -> None:
    deadlines = Deadlines()
    deadlines.start()
    deadlines.stop()
    with deadlines.until(soon()):
        await asyncio.sleep(0.15)
