"""`wardmesh audit mine | erase | erasures | verify-certificate`: what a person has to do with the log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardmesh.audit_erasure import open_certificate, verify_erasure
from wardmesh.audit_witnesses import witness_lines
from wardmesh.contracts.audit import Entry
from wardmesh.contracts.audit.receipts import RECEIPT_WAIT_SECONDS
from wardmesh.contracts.fields import MAX_PAGE
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.note import MAX_NOTE_BYTES
from wardmesh.crypto.tlog_proof import MAX_TLOG_PROOF_BYTES
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId, UserId
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, local_command, mesh_command
from wardmesh_cli.commands.audit import COLUMNS, cells
from wardmesh_cli.commands.audit_proofs import KeyOption, MldsaKeyOption, mldsa_of, verifier_of, write_new
from wardmesh_cli.commands.audit_witnesses import WitnessOptions
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
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt", help="Write the receipt of the entry that tells of it, as witnesses saw it.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Make a person unreadable in this scope's log, for ever. Entries, hashes and proofs stay; nobody can undo it."""
    for file in (output, receipt):
        if file is not None and file.exists():
            raise UsageFailed(f"{file} exists already.", "Name a new file.")
    if output is not None and output == receipt:
        raise UsageFailed("The certificate and the receipt are two files.", "Name another one.")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageFailed("Nobody is there to ask whether this is meant.", "Say --yes.")
        typer.confirm(f"Erase {user} from this scope's log? Nobody can undo it.", abort=True, err=True)
    erased = await run.mesh.audit.erase(subject=user)
    if output is not None:
        output.write_text(erased.certificate)
    if run.out.as_json:
        run.out.document(erased)
    elif output is None:
        run.out.raw(erased.certificate.encode())
    else:
        run.out.line(f"erased from {erased.entries} entries, certificate in {output}")
    run.out.note(f"verifier key: {erased.verifier_key}")
    if receipt is not None:
        await _keep_receipt(run, erased.erasure_id, receipt)


async def _keep_receipt(run: Run, erasure: EventId, file: Path) -> None:
    try:
        given = await run.mesh.audit.receipt(event_id=erasure, wait_seconds=RECEIPT_WAIT_SECONDS)
        write_new(file, given.proof.encode())
    except (WardmeshError, CommandFailed) as error:
        why = error.what if isinstance(error, CommandFailed) else f"{error.code}, {error.detail}"
        raise CommandFailed(
            f"The person was erased, but there is no receipt of it yet: {why}",
            f"Ask for it later: wardmesh audit receipt {erasure} --output {file}",
        ) from error
    run.out.note(f"receipt: entry {given.index} of {given.size}, in {file}")


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
    *,
    key: KeyOption,
    mldsa_key: MldsaKeyOption = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt",
            help="The receipt of the entry that tells of it, which must agree.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    witnesses: WitnessOptions,
) -> None:
    """Verify a certificate of erasure: offline, with no credential. Fails unless the log's key signed it.

    With the receipt of the entry that tells of it, also that this entry is in the log; witnesses cosign that, and the
    log's ML-DSA-44 key signs it.
    """
    verifier, also, asked = verifier_of(key), mldsa_of(mldsa_key), witnesses.asked()
    if receipt is None and (asked is not None or also is not None):
        # Never pass over signatures that somebody asked for.
        raise UsageFailed(
            "A certificate is signed by the log's Ed25519 key alone; ML-DSA-44 keys and witnesses sign the log.",
            "Add --receipt: what `audit receipt` gives of the erasure's id.",
        )
    data, proven = read_bounded(file, MAX_NOTE_BYTES), None
    try:
        certificate = open_certificate(data, verifier)
    except CryptoError as error:
        raise CommandFailed(f"{file} certifies nothing: {error}.", "Ask the log for it: audit erasures.") from error
    if receipt is not None:
        try:
            proof = read_bounded(receipt, MAX_TLOG_PROOF_BYTES)
            _, proven = verify_erasure(data, proof, verifier, mldsa_key=also, policy=asked)
        except CryptoError as error:
            raise CommandFailed(
                f"{receipt} does not prove that the log tells of it: {error}.",
                f"Ask the log for it: wardmesh audit receipt {certificate.erasure_id}",
            ) from error
    if run.out.as_json:
        run.out.document(
            {
                "origin": certificate.origin,
                "erasure_id": certificate.erasure_id,
                "erased_at": certificate.erased_at,
                "entries": certificate.entries,
                "size": certificate.size,
                "root": certificate.root.hex(),
                "told_by": None if proven is None else proven.index,
                "mldsa_checked": proven is not None and proven.mldsa_checked,
                "cosigned_by": None if proven is None or proven.witnessed is None else dict(proven.witnessed.at),
            }
        )
        return
    run.out.line(f"log        {certificate.origin}")
    run.out.line(f"before     {certificate.size} entries, root {base64_encode(certificate.root)}")
    run.out.line(f"erasure    {certificate.erasure_id}, of {certificate.entries} entries")
    if proven is not None:
        signed = proven.checkpoint
        run.out.line(f"checkpoint {signed.size} entries, root {base64_encode(signed.root)}, signature good")
        if proven.mldsa_checked:
            run.out.line("           and the ML-DSA-44 key has signed it too")
        if proven.witnessed is not None:
            for line in witness_lines(proven.witnessed):
                run.out.line(line)
        run.out.line(f"told by    entry {proven.index} of the log")
    run.out.line(f"certified  a person was erased at {certificate.erased_at.isoformat()}", GOOD)
