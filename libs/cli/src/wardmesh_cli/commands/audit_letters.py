"""`wardmesh audit dead`: what reached the log and could not be sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.audit.letters import MAX_LETTERS, DeadLetter
from wardmesh.crypto.encoding import base64_encode
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.audit_proofs import write_new
from wardmesh_cli.connecting import Where
from wardmesh_cli.output import DOUBTFUL, Styled
from wardmesh_cli.parameters import LimitOption

dead = typer.Typer(help="What reached the log and could not be sealed, as it came.", no_args_is_help=True)


def register(group: typer.Typer) -> None:
    mesh_command(dead, "list", where=Where.EITHER)(list_letters)
    mesh_command(dead, "read", where=Where.EITHER)(read)
    group.add_typer(dead, name="dead")


async def list_letters(
    run: Run,
    after: Annotated[int, typer.Option("--after", min=0, help="Only those with a larger number.")] = 0,
    limit: LimitOption = 100,
) -> None:
    """List what could not be sealed, oldest first; the log's entry about each stays, a letter for thirty days."""
    found: list[DeadLetter] = []
    place: int | None = after
    while place is not None and len(found) < limit:
        page = await run.mesh.audit.dead_letters(after=place, limit=min(MAX_LETTERS, limit - len(found)))
        found += page.letters
        place = page.next_after
    if run.out.as_json:
        run.out.document({"letters": found})
        return
    run.out.table(
        ("number", "received", "source", "reason", "bytes", "entry"),
        [
            (
                str(each.number),
                each.received_at,
                each.source,
                each.reason,
                Styled("(erased)", DOUBTFUL) if each.is_erased else str(each.size),
                each.entry,
            )
            for each in found
        ],
    )
    if place is not None:
        run.out.note(f"there may be more: wardmesh audit dead list --after {place}")


async def read(
    run: Run,
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `audit dead list` shows it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file, byte by byte.", dir_okay=False)
    ] = None,
) -> None:
    """Show what could not be sealed, as it came; on a terminal, with its control characters escaped."""
    content = await run.mesh.audit.dead_letter(number)
    if output is not None:
        write_new(output, content)
        run.out.note(f"{len(content)} bytes, in {output}")
    elif run.out.as_json:
        run.out.document({"number": number, "content": base64_encode(content)})
    elif run.out.is_terminal:
        run.out.line(content.decode("utf-8", "backslashreplace"))  # which escapes what moves a cursor
    else:
        run.out.raw(content)
