"""`wardmesh key`: API keys of agents and service accounts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.auth import KeyInfo
from wardmesh.ids import AgentId, KeyId, Principal, ServiceId
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.people import PAGE, named
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import UsageFailed
from wardmesh_cli.output import Styled, timestamp
from wardmesh_cli.parameters import KeyArgument, LimitOption, PrincipalOption
from wardmesh_cli.private_files import write_private

app = typer.Typer(help="API keys.", no_args_is_help=True)


@mesh_command(app, "create", where=Where.EITHER)
async def create(
    run: Run,
    agent: Annotated[str | None, typer.Option("--agent", help="The agent's name or id.")] = None,
    service_account: Annotated[
        str | None, typer.Option("--service-account", help="The service account's name or id.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What to call the key.")] = "cli",
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", "-p", help="Exactly these, again and again; else what its holder may."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long it counts.")] = 90,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the key to this file, which only you can read.")
    ] = None,
) -> None:
    """Create a key. It is shown once, here, and nowhere again."""
    if (agent is None) == (service_account is None):
        raise UsageFailed("Whose key it is must be said.", "Give --agent or --service-account.")
    holder = (
        await named(run, agent, AgentId) if agent is not None else await named(run, service_account or "", ServiceId)
    )
    permissions = tuple(permission) if permission else None
    created = await run.mesh.auth.create_key(principal=holder, name=name, permissions=permissions, lifetime_days=days)
    if output is not None:
        write_private(output, created.api_key.encode() + b"\n")
    if run.out.as_json:
        shown = created.model_dump(mode="json", exclude={"api_key"} if output is not None else None)
        run.out.document(shown)
        return
    facts: dict[str, str] = {"id": created.id, "holder": holder, "expires": timestamp(created.expires_at)}
    run.out.facts(facts | ({"file": str(output)} if output is not None else {"key": created.api_key}))
    if output is None:
        run.out.note("The key is not shown again: keep it where only its holder reads it.", "yellow")


@mesh_command(app, "list", where=Where.EITHER)
async def list_(run: Run, principal: PrincipalOption = None, limit: LimitOption = 1000) -> None:
    """List keys, without the keys themselves."""
    found = await _all(run, principal, limit)
    if run.out.as_json:
        run.out.document({"keys": found})
        return
    run.out.table(
        ("id", "principal", "name", "reaches", "expires", "state"),
        [
            (
                key.id,
                key.principal,
                key.name,
                "what its holder does" if key.permissions is None else ", ".join(key.permissions),
                key.expires_at,
                Styled("live", "green") if key.revoked_at is None else Styled("revoked", "red"),
            )
            for key in found
        ],
    )


@mesh_command(app, "revoke", where=Where.EITHER)
async def revoke(run: Run, key: KeyArgument) -> None:
    """Revoke a key and drop its live connections."""
    done = await run.mesh.auth.revoke_key(key=key)
    if run.out.as_json:
        run.out.document(done)
    else:
        run.out.line(
            f"{key} is revoked since {timestamp(done.revoked_at)}; {done.connections_closed} connections dropped"
        )


async def _all(run: Run, principal: Principal | None, limit: int) -> list[KeyInfo]:
    found: list[KeyInfo] = []
    after: KeyId | None = None
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = (await run.mesh.auth.list_keys(principal=principal, after=after, limit=size)).keys
        found.extend(page)
        if len(page) < size:
            break
        after = page[-1].id
    return found
