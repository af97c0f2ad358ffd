"""`wardmesh event`: publish domain events, and follow them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.output import timestamp, timestamp_json
from wardmesh_cli.streaming import CountOption, GroupOption, SecondsOption, bounded, shown

app = typer.Typer(help="Domain events of a workspace.", no_args_is_help=True)

DataFileOption = Annotated[Path | None, typer.Option("--file", help="Take the JSON from this file.", dir_okay=False)]


@mesh_command(app, "publish", where=Where.WORKSPACE)
async def publish(
    run: Run,
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Words joined by dots: order.shipped")],
    content: Annotated[
        str | None, typer.Argument(metavar="JSON", help="The event's data, else standard input.")
    ] = None,
    file: DataFileOption = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Publishing the same id again changes nothing.")] = None,
) -> None:
    """Publish an event; it is on disk when this says so."""
    published = await run.mesh.events.publish(type_, read_json(content, file), id=event_id)
    if run.out.as_json:
        run.out.document({"id": published})
    else:
        run.out.line(f"published {published}")


@mesh_command(app, "tail", where=Where.WORKSPACE)
async def tail(
    run: Run,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Source and type: stripe.invoice.*, app.order.>, or > for all.")
    ] = ">",
    group: GroupOption = "cli",
    count: CountOption = None,
    seconds: SecondsOption = None,
) -> None:
    """Show events as they come. Each is acknowledged once shown; a group's next reader goes on after it."""
    run.memory["streaming"] = True
    async for event in bounded(run.mesh.events.subscribe(pattern, group=group), count, seconds):
        async with event:
            if run.out.as_json:
                run.out.item(
                    {
                        "id": event.id,
                        "source": event.source,
                        "type": event.type,
                        "time": timestamp_json(event.time),
                        "delivery": event.delivery,
                        **shown(event.body, event.content_type),
                    }
                )
            else:
                body = event.body.decode("utf-8", "replace")
                run.out.line(f"{timestamp(event.time)}  {event.source}.{event.type}  {event.id}  {body}")


def read_json(text: str | None, file: Path | None) -> Any:
    """Return JSON from an argument, a file or standard input."""
    if text is not None and file is not None:
        raise UsageFailed("The data is given twice.", "Give it as an argument or in a file.")
    try:
        if text is None:
            text = (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
        return json.loads(text)
    except OSError as error:
        raise CommandFailed(f"{file} can't be read ({error.strerror}).", "Check its name and whose it is.") from error
    except ValueError as error:
        raise UsageFailed("The data is not JSON.", "Quote it for the shell: '{\"order\": 7}'") from error
