"""Whether the words `wardmesh …`, as we print them for people, run where they are read."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path


def activation() -> str | None:
    """Return what puts the command on a shell's path, or None where it is.

    `make up` and `make demo` run it out of a virtual environment that nobody has activated.
    """
    script = Path(sysconfig.get_path("scripts"), "activate")
    if shutil.which("wardmesh") is not None or not script.exists():
        return None
    here = Path.cwd()
    return f"source {script.relative_to(here) if script.is_relative_to(here) else script}"


def typed(command: str) -> str:
    """Return a command of ours as it can be typed here."""
    first = activation()
    return command if first is None else f"{first} && {command}"
