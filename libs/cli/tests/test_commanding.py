"""How a command is made of a function: options that are declared once, in a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from command_shell import Shell
from fake_mesh import World
from typer.testing import CliRunner

from wardmesh.contracts.audit import Filter, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, RequestId
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.commands.audit_filter import AgentOption

AGENT, REQUEST = AgentId.new(), RequestId.new()
MATCHED = {
    "--category": "secret_access", "--actor": str(AGENT), "--agent": str(AGENT), "--action": "secret.get",
    "--outcome": "success", "--target": "a/b", "--request": str(REQUEST), "--trace": "a" * 32, "--text": "a word",
}  # fmt: skip
FILTERED = MATCHED | {"--since": "2026-11-22", "--until": "2026-11-23"}
MATCH = Filter(
    category=Category.SECRET_ACCESS,
    actor=AGENT,
    agent=AGENT,
    action="secret.get",
    outcome=Outcome.SUCCESS,
    target="a/b",
    request_id=REQUEST,
    trace_id="a" * 32,
    text="a word",
)
FILTER = MATCH.model_copy(
    update={"since": datetime(2026, 11, 22, tzinfo=UTC), "until": datetime(2026, 11, 23, tzinfo=UTC)}
)


@dataclass(frozen=True)
class Base:
    one: Annotated[str | None, typer.Option("--first")] = None


@dataclass(frozen=True)
class Several(Base):
    agent: AgentOption = None
    many: Annotated[list[str] | None, typer.Option("--many")] = None


def ran(*words: str) -> tuple[int, list[Any]]:
    """Run a command that has `Several` between two arguments of its own."""
    group = typer.Typer()
    seen: list[Any] = []

    async def command(
        run: Run,
        name: Annotated[str, typer.Argument()],
        *,
        before: Annotated[bool, typer.Option("--before")] = False,
        several: Several,
        after: Annotated[int, typer.Option("--after")] = 7,
    ) -> None:
        seen.extend((name, before, several, after))

    local_command(group, "command")(command)
    return CliRunner().invoke(group, list(words)).exit_code, seen


def test_a_parameter_that_is_a_dataclass_stands_for_its_fields() -> None:
    agent = AgentId.new()
    words = ("a", "--first", "b", "--agent", agent, "--many", "c", "--many", "d", "--before", "--after", "8")
    assert ran(*words) == (0, ["a", True, Several("b", agent, ["c", "d"]), 8])
    assert ran("a") == (0, ["a", False, Several(), 7])
    assert ran("a", "--agent", "nobody") == (2, []), "a field's parser refuses as an option's own does"


def test_every_command_that_filters_asks_for_all_that_was_given(wardmesh: Shell, world: World) -> None:
    def done(*command: str, options: dict[str, str] = FILTERED) -> None:
        ran = wardmesh("audit", *command, *(word for pair in options.items() for word in pair))
        assert ran.status == 0, ran.err

    done("tail", "--count", "1", options=MATCHED)
    done("query")
    assert world.searched == [MATCH, FILTER]
    done("forward", "add", "siem", "https://siem.example/")
    done("forward", "edit", "siem")
    assert [world.asked_to_forward[-1].filter, world.asked_to_edit[-1].filter] == [FILTER, FILTER]
    for option in FILTERED.items():
        ran = wardmesh("audit", "export", "folder", *option)
        assert (ran.status, "Tiles are the whole log" in ran.err) == (2, True), option
