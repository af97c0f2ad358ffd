"""Keeps the logs of an always-up mesh from filling the disk.

A process writes to its standard output for as long as it lives, so its file can't be exchanged for another: what is in
it is copied beside it (`auth.log.1`, in place of the one before), and then it is emptied. The file is open for
appending, so the next line is its first.

What always holds: a log and its predecessor have `MAX_LOG_BYTES` each, and what came between two looks. A line that is
written between the copy's end and the emptying is lost; what is of weight is in the audit log, which nothing empties.

On failure: `OSError`; the log stays as it was.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from wardmesh.durable_files import PRIVATE_FILE

MAX_LOG_BYTES: Final = 16 * 1024 * 1024
LOOK_SECONDS: Final = 2.0


def predecessor(log_file: Path) -> Path:
    """Return where the older part of a log is."""
    return log_file.with_name(f"{log_file.name}.1")


def bound(log_file: Path, *, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Move what is in a log to its predecessor if it is over the limit; tell whether it was."""
    try:
        if log_file.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    older = predecessor(log_file)
    older.unlink(missing_ok=True)  # first: where the disk is nearly full, this is what makes room
    try:
        with log_file.open("rb") as source, os.fdopen(_create(older), "wb") as copy:
            shutil.copyfileobj(source, copy, 1024 * 1024)
    except OSError:
        older.unlink(missing_ok=True)
        raise
    os.truncate(log_file, 0)
    return True


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
