"""`wardmesh agent | user | service-account | principal | level`: who can act, and what they may do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.auth import PrincipalInfo
from wardmesh.ids import AgentId, InvalidIdError, Principal, ServiceId, parse_principal
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.commands.secret import read_value
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.output import timestamp
from wardmesh_cli.parameters import LevelOption, LimitOption, PrincipalArgument

agent = typer.Typer(help="AI agents of a workspace.", no_args_is_help=True)
user = typer.Typer(help="People.", no_args_is_help=True)
service_account = typer.Typer(help="Backend services.", no_args_is_help=True)
principal = typer.Typer(help="Everybody who can act.", no_args_is_help=True)
level = typer.Typer(help="What somebody may do.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
PAGE = 500


@agent.callback()
@user.callback()
@service_account.callback()
@level.callback()
def group() -> None:
    """Keep a group with a single command a group."""


@mesh_command(agent, "create", where=Where.WORKSPACE)
async def create_agent(run: Run, name: NameArgument, level: LevelOption = "restricted") -> None:
    """Create an agent in the workspace. A restricted one may do only what its keys list."""
    created = await run.mesh.auth.create_agent(name=name, level=level)
    _show(run, created, f"wardmesh key create --agent {created.id} --permission secret.read")


@mesh_command(user, "create", where=Where.EITHER)
async def create_user(
    run: Run,
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    level: LevelOption = "member",
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Else from standard input, or asked for.")
    ] = None,
) -> None:
    """Create a user who holds a level in the scope."""
    password = read_value(password_file, what="password").decode().rstrip("\r\n")
    created = await run.mesh.auth.create_user(email=email, password=password, level=level)
    _show(run, created, f"wardmesh login --email {email}")


@mesh_command(service_account, "create", where=Where.EITHER)
async def create_service_account(run: Run, name: NameArgument, level: LevelOption = "member") -> None:
    """Create a service account, at home in the scope."""
    created = await run.mesh.auth.create_service_account(name=name, level=level)
    _show(run, created, f"wardmesh key create --service-account {created.id}")


@mesh_command(principal, "list", where=Where.EITHER)
async def list_principals(run: Run, limit: LimitOption = 1000) -> None:
    """List who can act in the scope, and at which level."""
    found = await all_principals(run, limit)
    if run.out.as_json:
        run.out.document({"principals": found})
    else:
        run.out.table(
            ("id", "name", "level", "scope", "since"),
            [(each.id, each.name, each.level, each.scope, each.created_at) for each in found],
        )


@mesh_command(principal, "revoke", where=Where.EITHER)
async def revoke(run: Run, principal: PrincipalArgument) -> None:
    """Refuse everything of somebody's from now on, and drop their connections."""
    done = await run.mesh.auth.revoke_principal(principal=principal)
    if run.out.as_json:
        run.out.document(done)
    else:
        run.out.line(
            f"{principal} is revoked since {timestamp(done.revoked_at)}; {done.connections_closed} connections dropped"
        )


@mesh_command(level, "set", where=Where.EITHER)
async def set_level(
    run: Run, principal: PrincipalArgument, level: Annotated[str, typer.Argument(metavar="LEVEL")]
) -> None:
    """Set what somebody may do in the scope; never more than you may."""
    changed = await run.mesh.auth.set_level(principal=principal, level=level)
    if run.out.as_json:
        run.out.document(changed)
    else:
        run.out.line(f"{changed.name} ({changed.id}) is {changed.level} in {changed.scope}")


async def all_principals(run: Run, limit: int = 10_000) -> list[PrincipalInfo]:
    """Return who can act in the scope."""
    found: list[PrincipalInfo] = []
    after: Principal | None = None
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        page = (await run.mesh.auth.list_principals(after=after, limit=size)).principals
        found.extend(page)
        if len(page) < size:
            break
        after = page[-1].id
    return found


async def named(run: Run, text: str, kind: type[AgentId | ServiceId]) -> Principal:
    """Return the principal that `text` is the id or the name of."""
    try:
        return parse_principal(text)
    except InvalidIdError:
        matching = [each.id for each in await all_principals(run) if each.name == text and isinstance(each.id, kind)]
    what, group = ("agent", "agent") if kind is AgentId else ("service account", "service-account")
    if not matching:
        raise CommandFailed(f"No {what} of this scope is called {text}.", f"Create one: wardmesh {group} create {text}")
    if len(matching) > 1:
        raise CommandFailed(f"{len(matching)} have the name {text}.", f"Name one by its id: {', '.join(matching)}")
    return matching[0]


def _show(run: Run, created: PrincipalInfo, next_step: str) -> None:
    if run.out.as_json:
        run.out.document(created)
        return
    run.out.facts({"id": created.id, "name": created.name, "level": created.level, "scope": created.scope})
    run.out.note(f"next: {next_step}", "dim")
