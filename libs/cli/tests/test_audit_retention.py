"""`wardmesh audit retention | keep | prunings | hold`: what is asked for, and what is shown."""

from __future__ import annotations

from datetime import date

import pytest
from command_shell import Shell
from fake_audit import NOW
from fake_mesh import World

from wardmesh.contracts.audit import Pruning
from wardmesh.contracts.operation import Category
from wardmesh.ids import EventId


def test_a_category_is_kept_for_days_or_for_ever(wardmesh: Shell, world: World) -> None:
    shown = wardmesh("audit", "keep", "tool_call", "--days", "30").out.splitlines()
    assert shown[0].split() == ["CATEGORY", "DAYS", "AT", "LEAST"]
    assert ["tool_call", "30", "1"] in [line.split() for line in shown]
    assert ["authentication", "for", "ever", "90"] in [line.split() for line in shown]
    assert wardmesh("audit", "retention").out.splitlines() == shown
    days = {each["category"]: each["days"] for each in wardmesh("audit", "retention", "--json").json["categories"]}
    assert days["tool_call"] == 30
    assert wardmesh("audit", "keep", "tool_call", "--for-ever").status == 0
    assert world.days == {Category.TOOL_CALL: None}


@pytest.mark.parametrize("arguments", [(), ("--days", "30", "--for-ever"), ("--days", "0"), ("--days", "4000")])
def test_for_how_long_is_said_once_and_within_bounds(wardmesh: Shell, world: World, arguments: tuple[str, ...]) -> None:
    assert wardmesh("audit", "keep", "tool_call", *arguments).status == 2
    assert world.days == {}


def test_a_hold_is_placed_listed_and_lifted(wardmesh: Shell, world: World) -> None:
    assert wardmesh("audit", "hold", "place").status == 2, "a hold has a reason"
    assert wardmesh("audit", "hold", "place", "--reason", "a lawsuit").out == "hold 1 is in force: a lawsuit\n"
    assert wardmesh("audit", "hold", "list").out.splitlines()[1].split()[:3] == ["1", "a", "lawsuit"]
    assert wardmesh("audit", "hold", "lift", "1", "--reason", "over").out == "hold 1 is lifted: a lawsuit\n"
    assert wardmesh("audit", "hold", "list", "--json").json["holds"][0]["lifted_because"] == "over"
    assert wardmesh("audit", "hold", "lift", "2", "--reason", "over").status == 1


def test_what_was_pruned_is_listed(wardmesh: Shell, world: World) -> None:
    event = EventId.new()
    world.prunings = [
        Pruning(
            kept_to=date(2026, 11, 1), first=0, last=9, entries=4, digest=bytes(32), event_id=event, announced_at=NOW,
            pruned=True,
        )
    ]  # fmt: skip
    row = wardmesh("audit", "prunings").out.splitlines()[1].split()
    assert row == ["2026-11-01", "4", "0", "9", event, "yes"]
    assert wardmesh("audit", "prunings", "--json").json["prunings"][0]["entries"] == 4
