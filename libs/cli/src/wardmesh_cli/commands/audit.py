"""`wardmesh audit`: follow the log, search it, and take it along to be verified elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.audit_ocsf import to_ocsf
from wardmesh.audit_rows import Format
from wardmesh.contracts.audit import Entry, Filter, Outcome
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.audit_exporting import TILES, export_part, export_whole
from wardmesh_cli.commands.audit_filter import FilterOptions, MatchOptions, utc
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.output import BAD, DOUBTFUL, GOOD, Styled, timestamp
from wardmesh_cli.parameters import LimitOption
from wardmesh_cli.streaming import CountOption, SecondsOption, until

app = typer.Typer(help="The append-only log.", no_args_is_help=True)

_COLOURS = {Outcome.SUCCESS: GOOD, Outcome.REFUSED: BAD, Outcome.FAILED: DOUBTFUL}
WITHHELD = "(withheld)"
COLUMNS = ("index", "time", "outcome", "category", "action", "actor", "targets", "reason")


@mesh_command(app, "tail", where=Where.EITHER)
async def tail(
    run: Run,
    matching: MatchOptions,
    start: Annotated[int | None, typer.Option("--start", min=0, help="From this index on, else from now.")] = None,
    start_time: Annotated[
        datetime | None, typer.Option("--from", help="From what was received at this time (UTC) on, else from now.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="NAME", help="Go on where the last tail of this name stopped."),
    ] = None,
    ocsf: Annotated[bool, typer.Option("--ocsf", help="One OCSF event a line, for a SIEM's collector.")] = False,
    count: CountOption = None,
    seconds: SecondsOption = None,
) -> None:
    """Show entries as they are sealed, oldest first; none is missed or repeated.

    With --resume, what has been written out is what counts as read: a collector that reads from here has everything at
    least once.
    """
    entries = run.mesh.audit.tail(
        **vars(matching),
        # A stream that begins again with a new token goes on where it was: nothing in between may be missed.
        start=run.memory.get("next", start),
        start_time=utc(start_time),
        resume=resume,
    )
    async with entries:
        try:
            async for entry in until(entries, count, seconds):
                if ocsf:
                    run.out.item(to_ocsf(entry))
                elif run.out.as_json:
                    run.out.item(entry)
                else:
                    show_entry(run, entry)
                run.memory["shown"] = entry.index
        finally:
            if (place := entries.position) is not None:
                run.memory["next"] = max(place, run.memory.get("shown", -1) + 1)


@mesh_command(app, "positions", where=Where.EITHER)
async def positions(
    run: Run,
    forget: Annotated[str | None, typer.Option("--forget", metavar="NAME", help="Forget this one.")] = None,
) -> None:
    """Show how far your tails have got (audit tail --resume NAME)."""
    if forget is not None:
        await run.mesh.audit.delete_position(name=forget)
    saved = await run.mesh.audit.list_positions()
    if run.out.as_json:
        run.out.document(saved)
    else:
        rows = [(each.name, each.next_start, each.saved_at) for each in saved.positions]
        run.out.table(("name", "next", "saved"), rows)


@mesh_command(app, "query", where=Where.EITHER)
async def query(run: Run, asked: FilterOptions, limit: LimitOption = 100) -> None:
    """Search the log, newest first."""
    found = [entry async for entry in run.mesh.audit.search(asked.filter(), limit=limit)]
    if run.out.as_json:
        run.out.document({"entries": found})
    else:
        run.out.table(COLUMNS, [cells(entry) for entry in found])


@mesh_command(app, "checkpoint", where=Where.EITHER)
async def checkpoint(run: Run) -> None:
    """Show a signed checkpoint of the log (C2SP tlog-checkpoint), to be kept where nobody here can change it."""
    signed = await run.mesh.audit.checkpoint()
    if run.out.as_json:
        run.out.document(signed)
    else:
        run.out.raw(signed.note.encode())
        run.out.note(f"verifier key: {signed.verifier_key}")
        if signed.mldsa_key is not None:
            run.out.note(f"ML-DSA-44 key: {signed.mldsa_key}")


@mesh_command(app, "export", where=Where.EITHER)
async def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new one.", file_okay=False)],
    *,
    kind: Annotated[
        str, typer.Option("--format", help="tiles (the whole log), or what matches as ndjson, csv, ocsf or parquet.")
    ] = TILES,
    asked: FilterOptions,
) -> None:
    """Write the log, or what matches, as files that anybody can verify without us.

    One that was interrupted goes on when the command is repeated.
    """
    wanted = asked.filter()
    if kind != TILES:
        await export_part(run, folder, kind, wanted)
    elif wanted == Filter():
        await export_whole(run, folder)
    else:
        raise UsageFailed("Tiles are the whole log.", f"Choose --format {', '.join(Format)}, or leave out the filter.")


def cells(entry: Entry) -> tuple[int | datetime | Styled | str | None, ...]:
    """Return an entry as the cells of a row."""
    event = entry.event
    return (
        entry.index,
        event.occurred_at,
        Styled(event.outcome, _COLOURS[event.outcome]),
        event.category,
        event.action,
        _actor(entry),
        ", ".join(event.targets) or None,
        event.reason,
    )


def _actor(entry: Entry) -> str:
    """Return who acted; somebody who was erased is nobody who could be named."""
    return WITHHELD if "/actor" in entry.withheld else entry.event.actor


def show_entry(run: Run, entry: Entry) -> None:
    """Show an entry in one line."""
    event = entry.event
    parts = [str(entry.index), timestamp(event.occurred_at), event.outcome, event.action, _actor(entry), *event.targets]
    line = "  ".join(parts) + (f"  ({event.reason})" if event.reason else "")
    run.out.line(line, "" if event.outcome is Outcome.SUCCESS else _COLOURS[event.outcome])
