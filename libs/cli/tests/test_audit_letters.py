"""`wardmesh audit dead`: what is listed, and that what came as bytes stays bytes."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest
from command_shell import Shell
from fake_audit import NOW
from fake_mesh import World

from wardmesh.contracts.audit.letters import DeadLetter
from wardmesh.errors import NotFound
from wardmesh.ids import EventId
from wardmesh_cli.output import Output

HOSTILE = b"\x1b[2Jcleared \xff\x00"


def bury(world: World, said: bytes, *, is_erased: bool = False) -> DeadLetter:
    letter = DeadLetter(
        number=len(world.letters) + 1,
        entry=EventId.new(),
        reason="malformed_envelope",
        source="webhooks",
        received_at=NOW,
        size=len(said),
        kept=len(said),
        is_erased=is_erased,
    )
    world.letters[letter] = said
    return letter


def test_what_could_not_be_sealed_is_listed_page_by_page(wardmesh: Shell, world: World) -> None:
    for number in range(120):
        bury(world, b"x" * number, is_erased=number == 0)
    ran = wardmesh("audit", "dead", "list")
    rows = ran.out.splitlines()
    assert (ran.status, len(rows)) == (0, 101)
    assert ("(erased)" in rows[1], "webhooks" in rows[2], "malformed_envelope" in rows[2]) == (True, True, True)
    assert "--after 100" in ran.err
    rest = wardmesh("audit", "dead", "list", "--after", "100", "--json")
    assert [each["number"] for each in rest.json["letters"]] == list(range(101, 121))
    assert rest.err == ""


def test_what_a_letter_says_is_written_byte_by_byte(wardmesh: Shell, world: World, tmp_path: Path) -> None:
    number, file = str(bury(world, HOSTILE).number), tmp_path / "letter"
    ran = wardmesh("audit", "dead", "read", number, "--output", str(file))
    assert (ran.status, ran.out, file.read_bytes()) == (0, "", HOSTILE)
    assert wardmesh("audit", "dead", "read", number, "--output", str(file)).status == 2, "nothing is written over"
    assert b64decode(wardmesh("audit", "dead", "read", number, "--json").json["content"]) == HOSTILE


def test_what_a_letter_says_does_nothing_to_a_terminal(
    wardmesh: Shell, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Output, "is_terminal", True)
    shown = wardmesh("audit", "dead", "read", str(bury(world, HOSTILE).number)).out
    assert "\x1b[2J" not in shown
    assert "cleared" in shown
    assert "\\xff" in shown


def test_a_letter_that_is_not_there_is_said(wardmesh: Shell, world: World) -> None:
    world.failures["audit.dead_letter"] = NotFound("x")
    assert wardmesh("audit", "dead", "read", "7").status == 1
    assert wardmesh("audit", "dead", "read", "0").status == 2
