"""Ends what an earlier mesh of the same folder left running, where the kernel did not.

Kept in a file: the pid of every process and the moment it started, because a pid alone may long be somebody else's.
Only called with the folder's lock held, so that whatever still matches is an orphan.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wardmesh.durable_files import write_private

GRACE_SECONDS: Final = 10.0
"""What a database may need to finish after the death of its parent."""
_POLL_SECONDS = 0.02
_PROC = Path("/proc")
_HAS_PROC = sys.platform.startswith("linux")


def record(file: Path, pids: Iterable[int]) -> None:
    """Remember which processes run."""
    marks = {str(pid): mark for pid in pids if (mark := started(pid)) is not None}
    write_private(file, json.dumps(marks).encode())


def end(file: Path) -> list[int]:
    """End what is remembered and still runs; return the pids. Interrupted first, killed after a grace."""
    try:
        marks: dict[str, str] = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return []
    alive = [int(pid) for pid, mark in marks.items() if started(int(pid)) == mark]
    for number, patience in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        remaining = [pid for pid in alive if started(pid) == marks[str(pid)]]
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        give_up = time.monotonic() + patience
        while remaining and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
            remaining = [pid for pid in remaining if started(pid) == marks[str(pid)]]
    file.unlink(missing_ok=True)
    return alive


def started(pid: int) -> str | None:
    """Return when a process started, in the system's own words; None if there is none (a zombie is none)."""
    if _HAS_PROC:
        try:
            # The name, in parentheses, may contain anything; what is looked for comes after it.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    return _ps("lstart", pid)


def program(pid: int) -> str | None:
    """Return the file name of the program that a process runs; None if there is none or it isn't ours to look at."""
    if _HAS_PROC:
        try:
            return (_PROC / str(pid) / "exe").readlink().name
        except OSError:
            return None
    listed = _ps("comm", pid)
    return None if listed is None else Path(listed).name


def _ps(column: str, pid: int) -> str | None:
    command = ["ps", "-o", f"{column}=", "-p", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no part of it is foreign
    return listed.stdout.strip() or None
