"""Which entries: the options that following, searching and exporting the log share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import typer

from wardmesh.contracts.audit import Filter, Outcome
from wardmesh.ids import AgentId
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.parameters import ActorOption, CategoryOption, RequestOption, reading

AgentOption: TypeAlias = Annotated[
    AgentId | None,
    typer.Option(
        "--agent", parser=reading(AgentId.parse), metavar="AGENT", help="Only what this agent did, or was done for it."
    ),
]
ActionOption: TypeAlias = Annotated[str | None, typer.Option("--action", help="Only this action: secret.get")]
OutcomeOption: TypeAlias = Annotated[Outcome | None, typer.Option("--outcome", help="Only with this outcome.")]
TargetOption: TypeAlias = Annotated[str | None, typer.Option("--target", help="Only what was done to this.")]
TraceOption: TypeAlias = Annotated[str | None, typer.Option("--trace", help="Only of this trace: 32 hex digits.")]
TextOption: TypeAlias = Annotated[
    str | None, typer.Option("--text", help="Only with these words in action, targets, reason or details.")
]
SinceOption: TypeAlias = Annotated[
    datetime | None, typer.Option("--since", help="Only what happened from this time on (UTC).")
]
UntilOption: TypeAlias = Annotated[
    datetime | None, typer.Option("--until", help="Only what happened before this time (UTC).")
]


@dataclass(frozen=True)
class MatchOptions:
    """Options of a command that shows entries as they come: what they are about. Its fields have a filter's names."""

    category: CategoryOption = None
    actor: ActorOption = None
    agent: AgentOption = None
    action: ActionOption = None
    outcome: OutcomeOption = None
    target: TargetOption = None
    request_id: RequestOption = None
    trace_id: TraceOption = None
    text: TextOption = None


@dataclass(frozen=True)
class FilterOptions(MatchOptions):
    """Options of a command that looks for entries: also when they happened."""

    since: SinceOption = None
    until: UntilOption = None

    def filter(self) -> Filter:
        """Return the options as a filter."""
        try:
            return Filter(**vars(self) | {"since": utc(self.since), "until": utc(self.until)})
        except ValueError as error:
            wrong = ", ".join(str(each["loc"][0]) for each in getattr(error, "errors", list)()) or "a filter"
            raise UsageFailed(f"This cannot be searched for: {wrong}.", "See wardmesh audit query --help.") from None


def utc(moment: datetime | None) -> datetime | None:
    """Return a time that was given without a zone as UTC."""
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)
