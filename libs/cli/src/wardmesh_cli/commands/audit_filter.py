"""Which entries: the options that following, searching and exporting the log share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer

from wardmesh.contracts.audit import Filter, Outcome
from wardmesh.ids import AgentId
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.parameters import reading

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


def filter_of(*, since: datetime | None = None, until: datetime | None = None, **fields: Any) -> Filter:
    """Return the options as a filter."""
    try:
        return Filter(since=utc(since), until=utc(until), **fields)
    except ValueError as error:
        wrong = ", ".join(str(each["loc"][0]) for each in getattr(error, "errors", list)()) or "a filter"
        raise UsageFailed(f"This cannot be searched for: {wrong}.", "See wardmesh audit query --help.") from None


def utc(moment: datetime | None) -> datetime | None:
    """Return a time that was given without a zone as UTC."""
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)
