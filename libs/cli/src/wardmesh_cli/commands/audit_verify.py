"""`wardmesh audit verify`: an export in a folder, or a log behind a URL, believed in nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from wardmesh.audit_parquet import ParquetUnavailable
from wardmesh.audit_selection_verify import is_selection, verify_selection
from wardmesh.audit_verify import Progress, Report, UnusableCheckpoint, verify_export, verify_files
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.note import MAX_NOTE_BYTES
from wardmesh.crypto.tlog_policy import Policy
from wardmesh_cli.bounded_files import read_bounded
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.commands.audit_proofs import MldsaKeyOption
from wardmesh_cli.commands.audit_witnesses import WitnessOptions
from wardmesh_cli.failures import FAILED, CommandFailed, UsageFailed
from wardmesh_cli.output import BAD, GOOD, QUIET
from wardmesh_cli.web_files import WebFiles

SHOW_EVERY: Final = 100_000
"""Entries between two words about how far it is: a second or less."""
MAX_TOKEN_BYTES: Final = 8192


def register(group: typer.Typer) -> None:
    local_command(group, "verify")(verify)


async def verify(
    run: Run,
    export: Annotated[str, typer.Argument(metavar="EXPORT|URL", help="A folder, or what stands before /checkpoint.")],
    *,
    key: Annotated[
        str | None, typer.Option("--key", help="The log's verifier key, from elsewhere than the export.")
    ] = None,
    mldsa_key: MldsaKeyOption = None,
    witnesses: WitnessOptions,
    since: Annotated[
        list[Path] | None,
        typer.Option("--since", help="A checkpoint that was kept; may be repeated.", exists=True, dir_okay=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="An access token, for a gateway's URL.", exists=True, dir_okay=False),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="The authority that a URL's server is trusted by.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Verify a log: offline, with no credential. Fails if anything was changed, dropped or added."""
    kept = {str(path): read_bounded(path, MAX_NOTE_BYTES) for path in since or ()}
    asked = witnesses.asked()
    try:
        report = _verified(run, export, (key, mldsa_key), asked, kept, token_file, ca_file)
    except UnusableCheckpoint as error:
        raise UsageFailed(f"{error}.", "Name a checkpoint of this log, and the key that signed it.") from error
    except CryptoError as error:
        raise UsageFailed(
            f"This is no verifier key: {error}.", "It is the line that `audit checkpoint` shows."
        ) from error
    if run.out.as_json:
        run.out.document(
            {
                "sound": report.is_sound,
                "origin": report.origin,
                "size": report.size,
                "root": report.root.hex(),
                "key": report.verifier_key,
                "key_is_pinned": report.key_is_pinned,
                "mldsa_checked": report.mldsa_checked,
                "cosigned_by": None if report.witnessed is None else dict(report.witnessed.at),
                "not_cosigned_by": None if report.witnessed is None else list(report.witnessed.missing),
                "entries_checked": report.entries_checked,
                "tiles_checked": report.tiles_checked,
                "pruned": report.pruned,
                "announced_by": list(report.announced_by),
                "checkpoints_checked": list(report.checkpoints_checked),
                "damage": report.damage and asdict(report.damage),
            }
        )
    else:
        for line in report.lines():
            run.out.line(line, BAD if line.startswith("DAMAGED") else GOOD if line.startswith("sound") else "")
    if not report.is_sound:
        raise typer.Exit(FAILED)


def _verified(
    run: Run,
    export: str,
    keys: tuple[str | None, str | None],
    policy: Policy | None,
    kept: Mapping[str, bytes],
    token_file: Path | None,
    ca_file: Path | None,
) -> Report:
    progress = _progress(run)
    key, mldsa_key = keys
    if export.startswith(("http://", "https://")):
        # Read anew for each request: a token lasts minutes, and a long log longer.
        token = _no_token if token_file is None else lambda: read_bounded(token_file, MAX_TOKEN_BYTES).decode().strip()
        with closing(WebFiles(export, token, ca_file=ca_file, transport=run.around.web)) as files:
            return verify_files(files, export, key, mldsa_key=mldsa_key, policy=policy, kept=kept, progress=progress)
    folder = Path(export)
    if not folder.is_dir():
        raise UsageFailed(f"{export} is no folder.", "Name an export's folder, or an address (https://…).")
    if is_selection(folder):
        if kept:
            raise UsageFailed("A part of a log cannot show that the log only grew.", "Leave out --since.")
        try:
            return verify_selection(folder, key, mldsa_key=mldsa_key, policy=policy)
        except ParquetUnavailable as error:
            raise CommandFailed(
                "This export is Parquet.", "Install pyarrow: pip install 'wardmesh[parquet]'."
            ) from error
    return verify_export(folder, key, mldsa_key=mldsa_key, policy=policy, kept=kept, progress=progress)


def _no_token() -> None:
    return None


def _progress(run: Run) -> Progress:
    """Say on standard error how far it is, now and then; nothing where it is soon over."""
    shown = 0

    def progress(checked: int, size: int) -> None:
        nonlocal shown
        if checked - shown >= SHOW_EVERY:
            shown = checked
            run.out.note(f"{checked} of {size} entries", QUIET)

    return progress
