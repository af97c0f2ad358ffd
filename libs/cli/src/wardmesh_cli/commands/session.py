"""`wardmesh login | logout | whoami`: who one is to the mesh."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.client.mesh import API_KEY_VARIABLE, URL_VARIABLE
from wardmesh.contracts import auth
from wardmesh.crypto.sealing import HolderKey
from wardmesh.ids import WorkspaceId
from wardmesh.tls import CA_FILE_VARIABLE
from wardmesh_cli import profile as profiles
from wardmesh_cli.commanding import Run, local_command, mesh_command
from wardmesh_cli.commands.secret import read_value
from wardmesh_cli.connecting import Where, tls_of
from wardmesh_cli.door import open_door
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.output import timestamp
from wardmesh_cli.parameters import WORKSPACE, OrganizationOption
from wardmesh_cli.private_files import locked
from wardmesh_cli.profile import Login, Profile


async def login(
    run: Run,
    email: Annotated[str | None, typer.Option("--email", help="Else it is asked for.")] = None,
    organization: OrganizationOption = None,
    workspace: Annotated[
        WorkspaceId | None,
        typer.Option("--workspace", "-w", parser=WORKSPACE, metavar="WORKSPACE", help="What commands are about then."),
    ] = None,
    http_url: Annotated[str | None, typer.Option("--http-url", help="The gateway, else the profile's.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="NATS addresses, else the profile's.")] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help="The authority to trust.", dir_okay=False)] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Else from standard input, or asked for.")
    ] = None,
) -> None:
    """Log in with a password; commands then act as you, for as long as the session lasts."""
    file = _file_to_write(run)
    before = profiles.load(file) if file.is_file() else None
    gateway = http_url or (before.http_url if before else None)
    address = url or (before.url if before else None)
    where = organization or (before.organization if before else None)
    if gateway is None or address is None or where is None:
        raise UsageFailed(
            "Where to log in is not known.",
            "Give --http-url, --url and --organization, or run this beside a .wardmesh/.",
        )
    authority = ca_file or (before.ca_file if before else None)
    address_of_user = email or _ask("email")
    password = read_value(password_file, what="password").decode().rstrip("\r\n")
    holder = HolderKey.generate()
    request = auth.LogIn(
        organization=where, email=address_of_user, password=password, scope=workspace, holder_key=holder.public_bytes
    )
    tls = None if authority is None else tls_of(authority)
    async with open_door(gateway, tls=tls, transport=run.around.http) as door:
        session = await door.call(auth.LOG_IN, request)
    with locked(file):
        kept = before if before is not None and before.organization == where else None
        profiles.save(
            file,
            (kept or Profile(url=address)).model_copy(
                update={
                    "url": address,
                    "http_url": gateway,
                    "organization": where,
                    "workspace": workspace or (kept.workspace if kept else None),
                    "ca_file": authority and authority.absolute(),
                    "login": Login.of(session, holder),
                }
            ),
        )
    if run.out.as_json:
        run.out.document({"principal": session.principal, "scope": session.scope, "session": session.session})
    else:
        run.out.line(f"logged in as {session.principal}; the session is kept in {file}")
        run.out.note(f"it ends when unused until {timestamp(session.refresh_expires_at)}; to end it: wardmesh logout")


async def logout(run: Run) -> None:
    """Forget the login that is kept here; commands act with the profile's API key again, if it has one."""
    file = run.around.profile_file(run.data)
    if file is None:
        raise CommandFailed("There is no profile here.", "Nothing had to be forgotten.")
    with locked(file):
        present = profiles.load(file)
        profiles.save(file, present.model_copy(update={"login": None}))
    if run.out.as_json:
        run.out.document({"logged_in": False, "api_key": present.api_key is not None})
    else:
        run.out.line("logged out" + ("; the profile's API key is used again" if present.api_key else ""))


async def whoami(run: Run) -> None:
    """Say who you are to the mesh, and what you may do."""
    identity = await run.mesh.auth.who_am_i()
    if run.out.as_json:
        run.out.document(identity)
        return
    run.out.facts(
        {
            "principal": identity.principal,
            "organization": identity.organization,
            "scope": identity.scope,
            "level": identity.level,
            "permissions": ", ".join(identity.permissions) or None,
            "acting for": identity.acting_for,
        }
    )


async def env(run: Run) -> None:
    """Print what a backend in development needs, for the shell: eval "$(wardmesh env)"."""
    file = run.around.profile_file(run.data)
    present = None if file is None else profiles.load(file)
    if present is None or present.workspace_key is None:
        raise CommandFailed("There is no key for a backend here.", "Run `wardmesh up` first, or `wardmesh key create`.")
    values = {URL_VARIABLE: present.url, API_KEY_VARIABLE: present.workspace_key}
    if present.ca_file is not None:
        values[CA_FILE_VARIABLE] = str(present.ca_file)
    if run.out.as_json:
        run.out.document(values)
    else:
        for name, value in values.items():
            run.out.line(f"export {name}={shlex.quote(value)}")


def register(app: typer.Typer) -> None:
    """Add these commands, which are in no group."""
    local_command(app, "env", with_data=True)(env)
    local_command(app, "login", with_data=True)(login)
    local_command(app, "logout", with_data=True)(logout)
    mesh_command(app, "whoami", where=Where.EITHER)(whoami)


def _file_to_write(run: Run) -> Path:
    if run.data is not None:
        return run.data / profiles.FILE
    return profiles.nearest(run.around.folder, run.around.environ) or profiles.own_file(run.around.environ)


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise UsageFailed(f"The {what} is not known.", f"Give --{what}.")
    return str(typer.prompt(what))
