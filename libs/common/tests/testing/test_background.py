"""What runs in the background ends with what started it, and in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from wardmesh.testing.background import Background


class Broken(Exception):
    """Something went wrong in there."""


def test_work_is_done_in_another_thread_and_its_result_comes_back() -> None:
    async def where() -> int:
        return threading.get_ident()

    with Background() as background:
        assert background.run(where()) != threading.get_ident()
        assert background.run(where()) == background.run(where())


def test_its_failure_comes_back_too() -> None:
    async def fail() -> None:
        raise Broken

    with Background() as background, pytest.raises(Broken):
        background.run(fail())


def test_a_context_is_left_also_when_the_block_fails() -> None:
    left = []

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        try:
            yield "open"
        finally:
            await asyncio.sleep(0)
            left.append(True)

    def use(background: Background) -> None:
        with background.opened(context()) as value:
            assert value == "open"
            raise Broken

    with Background() as background, pytest.raises(Broken):
        use(background)
    assert left


def test_an_interruption_cancels_the_work_and_waits_for_its_cleaning_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []
    begun = threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    with Background() as background:
        submit = background.submit

        def interrupted(work):  # type: ignore[no-untyped-def]  # a stand-in for the first call, and only that
            monkeypatch.setattr(background, "submit", submit)
            future = submit(work)
            begun.wait(10)

            def result(timeout: float | None = None) -> None:
                raise KeyboardInterrupt

            future.result = result  # type: ignore[method-assign]
            return future

        monkeypatch.setattr(background, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            background.run(work())
        assert cleaned
