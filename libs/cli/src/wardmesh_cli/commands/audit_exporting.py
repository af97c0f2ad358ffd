"""Exports from the command line: what they read, how they show where they are, and what is said of those that fail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from wardmesh.audit_export import ExportIncomplete, export_log
from wardmesh.audit_parquet import ParquetUnavailable
from wardmesh.audit_rows import Format
from wardmesh.audit_selection import OtherExport, UnreadableEntry, export_selection
from wardmesh.contracts.audit import Filter
from wardmesh_cli.commanding import Run
from wardmesh_cli.failures import CommandFailed, UsageFailed

TILES: Final = "tiles"
PROGRESS_SECONDS: Final = 2.0
"""Seldom enough for a terminal that keeps what it was shown."""


class Shown:
    """Says now and then, on standard error, how far an export is."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told_at = time.monotonic()

    def __call__(self, done: int, size: int) -> None:
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._run.out.note(f"{done} of {size} entries, {100 * done // max(size, 1)} %", "dim")


async def export_whole(run: Run, folder: Path) -> None:
    """Write the whole log as tiles."""
    try:
        done = await export_log(run.mesh.audit, folder, Shown(run))
    except FileExistsError:
        raise CommandFailed(f"{folder} is not empty.", "Export into a new folder.") from None
    except OtherExport as error:
        raise CommandFailed(f"{error}.", "Repeat it as it was begun, or remove that folder.") from error
    except ExportIncomplete as error:
        raise CommandFailed(
            f"The log gave out {error.written} of the {error.size} entries that its checkpoint says.",
            f"See what is missing: wardmesh audit verify {folder}",
        ) from error
    _finished(run, done.folder, done.size, done.size, done.verifier_key)


async def export_part(run: Run, folder: Path, kind: str, wanted: Filter) -> None:
    """Write what matches, in one of the formats."""
    if kind not in list(Format):
        raise UsageFailed(f"There is no format {kind}.", f"Choose {TILES}, {', '.join(Format)}.")
    try:
        done = await export_selection(run.mesh.audit, folder, Format(kind), wanted, Shown(run))
    except FileExistsError:
        raise CommandFailed(f"{folder} is there already.", "Export into a new folder.") from None
    except ParquetUnavailable as error:
        raise CommandFailed("Parquet needs pyarrow.", "Install it: pip install 'wardmesh[parquet]'.") from error
    except OtherExport as error:
        raise CommandFailed(f"{error}.", "Repeat it as it was begun, or remove that folder.") from error
    except UnreadableEntry as error:
        raise CommandFailed(
            f"Entry {error.index} of the log cannot be read.", "Export the whole log as tiles, and verify it."
        ) from error
    _finished(run, done.folder, done.entries, done.size, done.verifier_key)


def _finished(run: Run, folder: Path, entries: int, size: int, verifier_key: str) -> None:
    out = run.out
    if out.as_json:
        out.document({"folder": str(folder), "entries": entries, "size": size, "verifier_key": verifier_key})
    else:
        out.line(f"exported {entries} entries to {folder}")
        out.note(f"next: wardmesh audit verify {folder} --key {verifier_key}", "dim")
