"""`wardmesh audit receipt | growth`, and their verification: what somebody can keep of a log and show to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError

from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.audit_witnesses import witness_lines
from wardmesh.contracts.audit import Opening
from wardmesh.contracts.audit.receipts import RECEIPT_WAIT_SECONDS
from wardmesh.contracts.fields import MAX_WAIT_SECONDS
from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.errors import BadSignature, CryptoError, NotWitnessed
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import MAX_NOTE_BYTES, SignedNote, VerifierKey
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES
from wardmesh.crypto.tlog_proof import MAX_TLOG_PROOF_BYTES
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, local_command, mesh_command
from wardmesh_cli.commands.audit_witnesses import WitnessOptions
from wardmesh_cli.connecting import Where
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.output import GOOD
from wardmesh_cli.parameters import EventArgument

_OPENINGS: Final = TypeAdapter(tuple[Opening, ...])
KeyOption = Annotated[str, typer.Option("--key", help="The log's verifier key: what `audit checkpoint` shows.")]
MldsaKeyOption = Annotated[
    str | None, typer.Option("--mldsa-key", help="Its ML-DSA-44 key, which must have signed too.")
]


def register(group: typer.Typer) -> None:
    mesh_command(group, "receipt", where=Where.EITHER)(receipt)
    local_command(group, "verify-receipt")(check_receipt)
    mesh_command(group, "growth", where=Where.EITHER)(growth)


async def receipt(
    run: Run,
    event: EventArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file (….tlog-proof).", dir_okay=False)
    ] = None,
    openings: Annotated[
        Path | None,
        typer.Option("--openings", help="Write what identifies people in it to this file.", dir_okay=False),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", min=0, max=MAX_WAIT_SECONDS, help="Seconds to wait for it to be sealed.")
    ] = RECEIPT_WAIT_SECONDS,
) -> None:
    """Get a receipt of an event: where it is in the log, and the proof (C2SP tlog-proof) that anybody can check."""
    given = await run.mesh.audit.receipt(event_id=event, wait_seconds=wait)
    if output is not None:
        write_new(output, given.proof.encode())
    if openings is not None:
        write_new(openings, _OPENINGS.dump_json(given.openings))
    if run.out.as_json:
        run.out.document(given)
        return
    if output is None:
        run.out.raw(given.proof.encode())
    else:
        run.out.line(f"entry {given.index} of {given.size}, receipt in {output}")
    run.out.note(f"verifier key: {given.verifier_key}")


async def check_receipt(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt.", exists=True, dir_okay=False)],
    *,
    key: KeyOption,
    mldsa_key: MldsaKeyOption = None,
    entry: Annotated[
        Path | None,
        typer.Option("--entry", help="The entry's bytes, else those in the receipt.", exists=True, dir_okay=False),
    ] = None,
    openings: Annotated[
        Path | None,
        typer.Option("--openings", help="What identifies people in it.", exists=True, dir_okay=False),
    ] = None,
    witnesses: WitnessOptions,
) -> None:
    """Verify a receipt: offline, with no credential. Fails unless the log's key vouches for the entry."""
    verifier, also = verifier_of(key), mldsa_of(mldsa_key)
    given = None if entry is None else read_bounded(entry, MAX_ENTRY_BYTES)
    asked = witnesses.asked()
    try:
        verified = verify_receipt(
            read_bounded(file, MAX_TLOG_PROOF_BYTES),
            verifier,
            entry=given,
            openings=_opened(openings),
            mldsa_key=also,
            policy=asked,
        )
    except CryptoError as error:
        raise CommandFailed(f"{file} proves nothing: {error}.", "Ask the log for the receipt anew.") from error
    signed = verified.checkpoint
    if run.out.as_json:
        run.out.document(
            {
                "origin": signed.origin,
                "index": verified.index,
                "size": signed.size,
                "root": signed.root.hex(),
                "entry": verified.entry.decode(errors="replace"),
                "withheld": verified.withheld,
                "mldsa_checked": verified.mldsa_checked,
                "cosigned_by": None if verified.witnessed is None else dict(verified.witnessed.at),
            }
        )
        return
    run.out.line(f"log        {signed.origin}")
    run.out.line(f"checkpoint {signed.size} entries, root {base64_encode(signed.root)}, signature good")
    if verified.mldsa_checked:
        run.out.line("           and the ML-DSA-44 key has signed it too")
    if verified.witnessed is not None:
        for line in witness_lines(verified.witnessed):
            run.out.line(line)
    run.out.line(f"entry      {verified.entry.decode(errors='replace')}")
    for opening in _opened(openings):
        run.out.line(f"opened     {opening.path} {opening.value}")
    if verified.withheld:
        run.out.line(f"withheld   {verified.withheld} fields that identify people")
    run.out.line(f"proven     it is entry {verified.index} of the log", GOOD)


async def growth(
    run: Run,
    kept: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="One that was kept earlier.", exists=True, dir_okay=False)
    ],
    *,
    key: Annotated[
        str | None, typer.Option("--key", help="The log's verifier key, from elsewhere than the mesh.")
    ] = None,
    mldsa_key: MldsaKeyOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the present checkpoint here.", dir_okay=False)
    ] = None,
    witnesses: WitnessOptions,
) -> None:
    """Check that the log only grew since a checkpoint that was kept: nothing before it was changed or dropped."""
    pinned, also = None if key is None else verifier_of(key), mldsa_of(mldsa_key)
    asked = witnesses.asked()
    note = read_bounded(kept, MAX_NOTE_BYTES)
    try:
        old_size = Checkpoint.parse_text(SignedNote.parse(note).text).size
    except CryptoError as error:
        raise UsageFailed(f"{kept} is no checkpoint: {error}.", "Name what `audit checkpoint` once showed.") from error
    present = await run.mesh.audit.checkpoint()
    hashes: tuple[bytes, ...] = ()
    if old_size <= present.size:
        hashes = (await run.mesh.audit.consistency(old_size=old_size, size=present.size)).hashes
    try:
        old, new = verify_growth(
            note, present.note.encode(), hashes, pinned or present.verifier_key, mldsa_key=also, policy=asked
        )
    except NotWitnessed as error:
        raise CommandFailed(
            f"The present checkpoint is not witnessed: {error}.", "See who is behind: wardmesh audit witness list"
        ) from error
    except BadSignature as error:
        raise CommandFailed(
            f"{kept} and the present checkpoint are not both signed as they must be: {error}.",
            "Compare the keys with yours from elsewhere. If they are right, keep that file: this is another log.",
        ) from error
    except CryptoError as error:
        raise CommandFailed(
            f"The log is not what {kept} says it was: {error}.",
            "Keep that file: it shows that the log was changed, or that it is another log's.",
        ) from error
    if output is not None:
        write_new(output, present.note.encode())
    if run.out.as_json:
        run.out.document(
            {
                "origin": new.origin,
                "old_size": old.size,
                "size": new.size,
                "root": new.root.hex(),
                "mldsa_checked": also is not None,
            }
        )
    else:
        grown = f"{new.origin} grew from {old.size} to {new.size} entries"
        run.out.line(f"sound      {grown}; nothing before was changed", GOOD)
        if also is not None:
            run.out.line("           and the ML-DSA-44 key has signed that too")
        if pinned is None:
            run.out.note(f"verifier key, as the mesh has it: {present.verifier_key}")


def _opened(file: Path | None) -> tuple[Opening, ...]:
    if file is None:
        return ()
    try:
        return _OPENINGS.validate_json(read_bounded(file, MAX_TLOG_PROOF_BYTES))
    except ValidationError:
        raise UsageFailed(f"{file} has no openings.", "Name what `audit receipt --openings` wrote.") from None


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; raise what is to be shown where that cannot be."""
    try:
        with path.open("xb") as handle:
            handle.write(content)
    except FileExistsError:
        raise UsageFailed(f"{path} exists already.", "Name a new file.") from None
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}.", "Name another file.") from error


def verifier_of(key: str) -> VerifierKey:
    """Return the log's key in its text form as the key that it is."""
    try:
        return VerifierKey.parse(key)
    except CryptoError as error:
        raise UsageFailed(
            f"This is no verifier key: {error}.", "It is the line that `audit checkpoint` shows."
        ) from error


def mldsa_of(key: str | None) -> MldsaKey | None:
    """Return its ML-DSA-44 key, likewise, if one is named."""
    try:
        return None if key is None else MldsaKey.parse(key)
    except CryptoError as error:
        raise UsageFailed(
            f"This is no ML-DSA-44 key: {error}.", "It is the line that `audit checkpoint` shows beside the other."
        ) from error
