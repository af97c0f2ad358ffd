"""`wardmesh audit mine | erase | erasures | verify-certificate`: what a person has to do with the log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.audit_erasure import open_certificate
from wardmesh.contracts.audit import Entry
from wardmesh.contracts.fields import MAX_PAGE
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.errors import CryptoError, InvalidKey
from wardmesh.crypto.note import MAX_NOTE_BYTES
from wardmesh.ids import UserId
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, local_command, mesh_command
from wardmesh_cli.commands.audit import COLUMNS, cells
from wardmesh_cli.commands.audit_proofs import KeyOption
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.output import GOOD
from wardmesh_cli.parameters import LimitOption, reading

UserArgument = Annotated[UserId, typer.Argument(parser=reading(UserId.parse), metavar="USER", help="usr_…")]


def register(group: typer.Typer) -> None:
    mesh_command(group, "mine", where=Where.EITHER)(mine)
    mesh_command(group, "erase", where=Where.EITHER)(erase)
    mesh_command(group, "erasures", where=Where.EITHER)(erasures)
    local_command(group, "verify-certificate")(verify_certificate)


async def mine(run: Run, limit: LimitOption = 100) -> None:
    """Show what you did yourself, and what was done on your behalf, newest first. Anybody may."""
    found: list[Entry] = []
    before: int | None = None
    while len(found) < limit:
        page = await run.mesh.audit.mine(before=before, limit=min(MAX_PAGE, limit - len(found)))
        found += page.entries
        before = page.next_before
        if before is None:
            break
    if run.out.as_json:
        run.out.document({"entries": found})
    else:
        run.out.table(COLUMNS, [cells(entry) for entry in found])


async def erase(
    run: Run,
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the certificate to this file.", dir_okay=False)
    ] = None,
) -> None:
    """Make a person unreadable in this scope's log, for ever. Entries, hashes and proofs stay; nobody can undo it."""
    if output is not None and output.exists():
        raise UsageFailed(f"{output} exists already.", "Name a new file.")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageFailed("Nobody is there to ask whether this is meant.", "Say --yes.")
        typer.confirm(f"Erase {user} from this scope's log? Nobody can undo it.", abort=True, err=True)
    erased = await run.mesh.audit.erase(subject=user)
    if output is not None:
        output.write_text(erased.certificate)
    if run.out.as_json:
        run.out.document(erased)
        return
    if output is None:
        run.out.raw(erased.certificate.encode())
    else:
        run.out.line(f"erased from {erased.entries} entries, certificate in {output}")
    run.out.note(f"verifier key: {erased.verifier_key}")


async def erasures(run: Run, limit: LimitOption = 100) -> None:
    """List erasures: when, of how many entries, and which entry tells of it; with --json, the certificates."""
    found = await run.mesh.audit.erasures(limit=min(limit, MAX_PAGE))
    if run.out.as_json:
        run.out.document(found)
    else:
        rows = [(each.erasure_id, each.erased_at, each.entries) for each in found.erasures]
        run.out.table(("erasure", "erased", "entries"), rows)


async def verify_certificate(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate.", exists=True, dir_okay=False)],
    key: KeyOption,
) -> None:
    """Verify a certificate of erasure: offline, with no credential. Fails unless the log's key signed it."""
    try:
        certificate = open_certificate(read_bounded(file, MAX_NOTE_BYTES), key)
    except InvalidKey as error:
        raise UsageFailed(
            f"This is no verifier key: {error}.", "It is the line that `audit checkpoint` shows."
        ) from error
    except CryptoError as error:
        raise CommandFailed(f"{file} certifies nothing: {error}.", "Ask the log for it: audit erasures.") from error
    if run.out.as_json:
        run.out.document(
            {
                "origin": certificate.origin,
                "erasure_id": certificate.erasure_id,
                "erased_at": certificate.erased_at,
                "entries": certificate.entries,
                "size": certificate.size,
                "root": certificate.root.hex(),
            }
        )
        return
    run.out.line(f"log        {certificate.origin}")
    run.out.line(f"before     {certificate.size} entries, root {base64_encode(certificate.root)}")
    run.out.line(f"erasure    {certificate.erasure_id}, of {certificate.entries} entries")
    run.out.line(f"certified  a person was erased at {certificate.erased_at.isoformat()}", GOOD)
