"""`wardmesh audit retention | prunings | hold`: how long entries are kept, what ended, and what stops it."""

from __future__ import annotations

from typing import Annotated

import typer

from wardmesh.contracts.audit import MAX_DAYS, MIN_DAYS, Hold, Retention
from wardmesh.contracts.operation import Category
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.parameters import LimitOption

holds = typer.Typer(help="Legal holds: while one is in force, nothing of the log is pruned.", no_args_is_help=True)

CategoryArgument = Annotated[Category, typer.Argument(metavar="CATEGORY", help="Of which entries: tool_call")]
NumberArgument = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `audit hold list` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is in the log.")]


def register(group: typer.Typer) -> None:
    mesh_command(group, "retention", where=Where.EITHER)(retention)
    mesh_command(group, "keep", where=Where.EITHER)(keep)
    mesh_command(group, "prunings", where=Where.EITHER)(prunings)
    mesh_command(holds, "place", where=Where.EITHER)(place)
    mesh_command(holds, "lift", where=Where.EITHER)(lift)
    mesh_command(holds, "list", where=Where.EITHER)(list_holds)
    group.add_typer(holds, name="hold")


async def retention(run: Run) -> None:
    """Show how long entries are kept that are sealed from now on."""
    _show(run, await run.mesh.audit.retention())


async def keep(
    run: Run,
    category: CategoryArgument,
    days: Annotated[
        int | None, typer.Option("--days", min=MIN_DAYS, max=MAX_DAYS, help="And to the end of that month.")
    ] = None,
    for_ever: Annotated[bool, typer.Option("--for-ever", help="Without an end.")] = False,
) -> None:
    """Say how long entries of a category are kept. It holds for what is sealed from now on."""
    if (days is None) is not for_ever:
        raise UsageFailed("Say either --days or --for-ever.", "What is sealed already stays as long as it was to.")
    _show(run, await run.mesh.audit.set_retention(category=category, days=days))


async def prunings(run: Run, limit: LimitOption = 100) -> None:
    """List what was pruned, or is about to be, newest first."""
    found = await run.mesh.audit.prunings(limit=limit)
    if run.out.as_json:
        run.out.document(found)
        return
    run.out.table(
        ("kept to", "entries", "first", "last", "event", "pruned"),
        [
            (
                each.kept_to.isoformat(),
                each.entries,
                each.first,
                each.last,
                each.event_id,
                "yes" if each.pruned else "soon",
            )
            for each in found.prunings
        ],
    )


async def place(run: Run, reason: ReasonOption) -> None:
    """Stop pruning: what is there now stays until the hold is lifted."""
    _show_hold(run, await run.mesh.audit.place_hold(reason=reason))


async def lift(run: Run, number: NumberArgument, reason: ReasonOption) -> None:
    """Let pruning go on; what is over by then ends soon."""
    _show_hold(run, await run.mesh.audit.lift_hold(number=number, reason=reason))


async def list_holds(run: Run, limit: LimitOption = 100) -> None:
    """List holds, those in force first."""
    found = await run.mesh.audit.holds(limit=limit)
    if run.out.as_json:
        run.out.document(found)
        return
    run.out.table(
        ("number", "reason", "placed", "by", "lifted", "because"),
        [
            (each.number, each.reason, each.placed_at, each.placed_by, each.lifted_at, each.lifted_because)
            for each in found.holds
        ],
    )


def _show(run: Run, policy: Retention) -> None:
    if run.out.as_json:
        run.out.document(policy)
        return
    run.out.table(
        ("category", "days", "at least"),
        [
            (each.category, "for ever" if each.days is None else each.days, each.floor_days)
            for each in policy.categories
        ],
    )


def _show_hold(run: Run, hold: Hold) -> None:
    if run.out.as_json:
        run.out.document(hold)
    else:
        run.out.line(f"hold {hold.number} is {'in force' if hold.lifted_at is None else 'lifted'}: {hold.reason}")
