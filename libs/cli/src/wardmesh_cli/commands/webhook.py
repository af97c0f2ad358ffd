"""`wardmesh webhook source`: whose events the door lets in, and how they are signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.webhooks import Scheme, Source
from wardmesh_cli import profile as profiles
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.secret import read_value
from wardmesh_cli.connecting import Where

app = typer.Typer(help="Other people's events, by HTTP.", no_args_is_help=True)
source = typer.Typer(help="Who may send, and how they sign.", no_args_is_help=True)
app.add_typer(source, name="source")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="One word: stripe")]


@mesh_command(source, "create", where=Where.WORKSPACE)
async def create(
    run: Run,
    name: NameArgument,
    scheme: Annotated[Scheme, typer.Option("--scheme", help="How they sign.")],
    secret_file: Annotated[
        Path | None, typer.Option("--secret-file", help="The signing secret; else from standard input, or asked for.")
    ] = None,
) -> None:
    """Open the door for a source."""
    secret = read_value(secret_file, what="signing secret").decode().rstrip("\r\n")
    created = await run.mesh.webhooks.create_source(name=name, scheme=scheme, signing_secret=secret)
    if run.out.as_json:
        run.out.document(created)
    else:
        run.out.facts({"name": created.name, "scheme": created.scheme, "url": _address(run, created)})
        run.out.note(f"next: wardmesh event tail '{created.name}.>'", "dim")


@mesh_command(source, "list", where=Where.WORKSPACE)
async def list_(run: Run) -> None:
    """List the sources."""
    found = await run.mesh.webhooks.list_sources()
    if run.out.as_json:
        run.out.document(found)
    else:
        run.out.table(
            ("name", "scheme", "url", "created"),
            [(each.name, each.scheme, _address(run, each), each.created_at) for each in found.sources],
        )


@mesh_command(source, "delete", where=Where.WORKSPACE)
async def delete(run: Run, name: NameArgument) -> None:
    """Close the door for a source."""
    await run.mesh.webhooks.delete_source(name=name)
    if run.out.as_json:
        run.out.document({"name": name})
    else:
        run.out.line(f"nothing is accepted from {name} any more")


def _address(run: Run, found: Source) -> str:
    """Return where the source sends to, as far as this side knows."""
    file = None if run.target is None else run.target.profile_file
    ingest = None if file is None else profiles.load(file).ingest_url
    return f"{(ingest or '').rstrip('/')}{found.path}"
