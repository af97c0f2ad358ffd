"""`wardmesh workspace`: the organization's workspaces."""

from __future__ import annotations

from typing import Annotated

import typer

from wardmesh.contracts.auth import Workspace
from wardmesh.ids import WorkspaceId
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.connecting import Where
from wardmesh_cli.parameters import LimitOption

app = typer.Typer(help="The organization's workspaces.", no_args_is_help=True)
_PAGE = 500


@mesh_command(app, "create", where=Where.ORGANIZATION)
async def create(run: Run, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Create a workspace."""
    created = await run.mesh.auth.create_workspace(name=name)
    if run.out.as_json:
        run.out.document(created)
    else:
        run.out.facts({"id": created.id, "name": created.name})


@mesh_command(app, "list", where=Where.ORGANIZATION)
async def list_(run: Run, limit: LimitOption = 1000) -> None:
    """List the workspaces."""
    found: list[Workspace] = []
    after: WorkspaceId | None = None
    while len(found) < limit:
        size = min(_PAGE, limit - len(found))
        page = (await run.mesh.auth.list_workspaces(after=after, limit=size)).workspaces
        found.extend(page)
        if len(page) < size:
            break
        after = page[-1].id
    if run.out.as_json:
        run.out.document({"workspaces": found})
    else:
        run.out.table(("id", "name", "created"), [(each.id, each.name, each.created_at) for each in found])
