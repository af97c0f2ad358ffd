"""Work that is under way at once: its bounds, its end, and what is said of a defect."""

from __future__ import annotations

import asyncio

import pytest

from wardmesh_audit.under_way import UnderWay


class Pieces:
    """Pieces of work that end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    async def work(self, name: str) -> None:
        self.begun.append(name)
        await self._may_end.setdefault(name, asyncio.Event()).wait()

    def end(self, name: str) -> None:
        self._may_end.setdefault(name, asyncio.Event()).set()


async def a_moment() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("weights", "at_once"),
    [
        pytest.param([1, 1, 1, 1], 3, id="so many pieces"),
        pytest.param([4, 5, 2], 2, id="so much weight"),
        pytest.param([4, 6, 1], 2, id="the weight exactly"),
        pytest.param([50, 1], 1, id="one that is heavier than all may be, alone"),
        pytest.param([1, 50], 1, id="and alone only"),
        pytest.param([0, 0, 0, 0], 3, id="what weighs nothing counts all the same"),
    ],
)
async def test_so_much_is_under_way_and_no_more(weights: list[int], at_once: int) -> None:
    pieces, under_way = Pieces(), UnderWay(pieces=3, weight=10)

    async def begin_all() -> None:
        for number, weight in enumerate(weights):
            await under_way.begin(weight, pieces.work, str(number))

    beginning = asyncio.create_task(begin_all())
    for ended in range(len(weights)):
        await a_moment()
        assert len(pieces.begun) == max(ended, min(ended + at_once, len(weights)))
        pieces.end(str(ended))
    await beginning
    await under_way.settled()
    assert pieces.begun == [str(number) for number in range(len(weights))]


async def test_it_is_settled_when_the_last_has_ended() -> None:
    pieces, under_way = Pieces(), UnderWay(pieces=2, weight=10)
    await under_way.settled()
    await under_way.begin(1, pieces.work, "one")
    await under_way.begin(1, pieces.work, "other")
    settled = asyncio.create_task(under_way.settled())
    pieces.end("other")
    await a_moment()
    assert not settled.done()
    pieces.end("one")
    await settled


async def test_a_defect_is_logged_and_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise RuntimeError("odd")

    under_way = UnderWay(pieces=1, weight=1)
    for _ in range(3):
        await under_way.begin(1, fails)
    await under_way.settled()
    assert caplog.text.count("RuntimeError: odd") == 3


async def test_what_is_cancelled_while_it_waits_for_room_is_never_begun() -> None:
    pieces, under_way = Pieces(), UnderWay(pieces=1, weight=1)
    await under_way.begin(1, pieces.work, "one")
    waiting = asyncio.create_task(under_way.begin(1, pieces.work, "other"))
    await a_moment()
    waiting.cancel()
    pieces.end("one")
    await under_way.settled()
    assert pieces.begun == ["one"]
