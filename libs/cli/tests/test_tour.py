"""A tour that shows nothing must not look like one that does."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from wardmesh.errors import NotFound, PermissionDenied
from wardmesh_cli.commands.demo import played
from wardmesh_cli.commands.up import Interruption
from wardmesh_cli.demo.tour import Evidence, NotShown, Tour, must, refused
from wardmesh_cli.output import Output


def tour(encoding: str = "utf-8") -> tuple[Tour, io.TextIOWrapper]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return Tour(Output(out=console, err=console)), stream


def told(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


async def shown() -> Evidence[int]:
    return Evidence("seven", 7, ("the very number",))


async def not_shown() -> Evidence[int]:
    must(False, "it was eight")
    return Evidence("seven", 7)


async def test_a_step_is_told_with_its_evidence() -> None:
    one, stream = tour()
    with one.chapter("Numbers"):
        assert await one.step("a number", shown()) == 7
    assert told(stream).splitlines() == ["", "1. Numbers", "  ✓  a number: seven", "     the very number"]
    assert one.steps == 1


async def test_a_step_that_shows_something_else_ends_the_tour_and_is_named() -> None:
    one, stream = tour("ascii")
    with pytest.raises(NotShown) as caught, one.chapter("Numbers"):
        await one.step("a number", not_shown())
    failure = one.failed(caught.value)
    assert (failure.chapter, failure.step, failure.reason) == ("Numbers", "a number", "it was eight")
    assert "FAILED  a number: it was eight" in told(stream)
    assert one.steps == 0


async def test_a_defect_is_named_by_its_kind_and_a_refusal_by_its_code() -> None:
    one, _ = tour()
    assert one.failed(ZeroDivisionError("division")).reason == "ZeroDivisionError: division"
    assert one.failed(NotFound("Check it.")).reason == "not_found: Check it."


async def test_refused_wants_the_very_refusal() -> None:
    async def deny() -> None:
        raise PermissionDenied

    async def allow() -> None:
        pass

    assert (await refused(deny(), "permission_denied")).code == "permission_denied"
    with pytest.raises(NotShown, match="carried out"):
        await refused(allow(), "permission_denied")
    with pytest.raises(NotShown, match="not not_found"):
        await refused(deny(), "not_found")


async def test_a_tour_that_fails_ends_with_a_failure_and_one_that_is_interrupted_with_that() -> None:
    async def fail() -> None:
        await one.step("a number", not_shown())

    async def forever() -> None:
        interruption.event.set()
        await asyncio.Event().wait()

    one, stream = tour()
    async with Interruption() as interruption:
        assert await played(one, shown_all, interruption) is None
        assert await played(one, fail, interruption) == 1
        assert await played(one, forever, interruption) == 130
    assert "✗  a number: it was eight" in told(stream)


async def shown_all() -> None:
    pass
