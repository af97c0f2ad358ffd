"""Which processes run for a folder: asked of the kernel, not of who started them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

WAIT_SECONDS = 20.0


def processes_of(folder: Path) -> dict[int, str]:
    """Return every process whose arguments, environment or working folder name `folder`: pid → command. Not ours."""
    return {
        int(entry.name): command
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid() and (command := _names(entry, str(folder)))
    }


async def no_processes_of(folder: Path) -> None:
    """Wait until no process runs for `folder`; a database finishes what it writes."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while processes_of(folder):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"still running: {processes_of(folder)}") from None


def uids_of(pid: int) -> set[int]:
    """Return the real, effective, saved and file system uid of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(uid) for line in lines if line.startswith("Uid:") for uid in line.split()[1:]}


def _names(entry: Path, folder: str) -> str:
    try:
        if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return ""
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        told = command + (entry / "environ").read_bytes().decode(errors="replace") + str((entry / "cwd").readlink())
    except OSError:
        return ""  # it has ended, or is somebody else's
    return command if folder in told else ""
