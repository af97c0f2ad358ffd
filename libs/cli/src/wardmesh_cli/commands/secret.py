"""`wardmesh secret`: values, and who may read them.

A value comes from standard input, a file or a hidden prompt, never from the command line, which others on the machine
can see and the shell remembers.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.contracts.secrets import SecretInfo
from wardmesh_cli.commanding import Run, mesh_command
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.parameters import LimitOption, PrincipalArgument, PrincipalOption
from wardmesh_cli.private_files import write_private

app = typer.Typer(help="Secrets of a workspace.", no_args_is_help=True)

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="Names joined by slashes: openai/api-key")]
PatternArgument = Annotated[str, typer.Argument(metavar="PATTERN", help="A path, or with a final /* all below it.")]


@mesh_command(app, "put", where=Where.WORKSPACE)
async def put(
    run: Run,
    path: PathArgument,
    value_file: Annotated[
        Path | None, typer.Option("--value-file", help="Take the value from this file, exactly as it is.")
    ] = None,
) -> None:
    """Store a new version of a secret: from standard input (without one final newline), a file, or a prompt."""
    stored = await run.mesh.secrets.put(path, read_value(value_file))
    if run.out.as_json:
        run.out.document(stored)
    else:
        run.out.line(f"stored {stored.path}, version {stored.version}")


@mesh_command(app, "get", where=Where.WORKSPACE)
async def get(
    run: Run,
    path: PathArgument,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Else the newest.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file, which only you can read.")
    ] = None,
) -> None:
    """Read a secret. It is opened here; in a pipe it is written exactly as it was stored."""
    value = await run.mesh.secrets.get_bytes(path, version=version)
    if output is not None:
        write_private(output, value)
        run.out.note(f"written to {output}")
    elif run.out.as_json:
        run.out.document({"path": path, **_in_json(value)})
    else:
        run.out.raw(value)


@mesh_command(app, "list", where=Where.WORKSPACE)
async def list_(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only paths that begin so.")] = "",
    limit: LimitOption = 1000,
) -> None:
    """List the names of secrets."""
    found: list[SecretInfo] = []
    after: str | None = None
    while len(found) < limit:
        size = min(500, limit - len(found))
        page = (await run.mesh.secrets.list(prefix=prefix, after=after, limit=size)).secrets
        found.extend(page)
        if len(page) < size:
            break
        after = page[-1].path
    if run.out.as_json:
        run.out.document({"secrets": found})
    else:
        run.out.table(
            ("path", "versions", "created", "updated"),
            [(secret.path, secret.versions, secret.created_at, secret.updated_at) for secret in found],
        )


@mesh_command(app, "grant", where=Where.WORKSPACE)
async def grant(run: Run, pattern: PatternArgument, principal: PrincipalArgument) -> None:
    """Let somebody read what matches a pattern."""
    given = await run.mesh.secrets.grant(pattern=pattern, principal=principal)
    if run.out.as_json:
        run.out.document(given)
    else:
        run.out.line(f"{given.principal} may read {given.pattern}")


@mesh_command(app, "revoke", where=Where.WORKSPACE)
async def revoke(run: Run, pattern: PatternArgument, principal: PrincipalArgument) -> None:
    """Take a grant back."""
    await run.mesh.secrets.revoke_grant(pattern=pattern, principal=principal)
    if run.out.as_json:
        run.out.document({"pattern": pattern, "principal": principal})
    else:
        run.out.line(f"{principal} holds no grant for {pattern} any more")


@mesh_command(app, "grants", where=Where.WORKSPACE)
async def grants(run: Run, principal: PrincipalOption = None, limit: LimitOption = 500) -> None:
    """List who may read what."""
    found = await run.mesh.secrets.list_grants(principal=principal, limit=min(limit, 500))
    if run.out.as_json:
        run.out.document(found)
    else:
        run.out.table(
            ("pattern", "principal", "granted by", "since"),
            [(each.pattern, each.principal, each.granted_by, each.created_at) for each in found.grants],
        )


def read_value(file: Path | None, *, what: str = "value") -> bytes:
    """Return a secret from a file, from standard input, or from whoever sits at the terminal."""
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise CommandFailed(f"{file} can't be read ({error.strerror}).", "Check its name and whose it is.") from (
                error
            )
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=True)).encode()
    content = sys.stdin.buffer.read()
    value = content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content
    if not value:
        raise CommandFailed(f"Standard input holds no {what}.", "Pipe it in, or name a file.")
    return value


def _in_json(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}
