"""Files that only their owner reads, and locks between commands. Needs nothing but the standard library.

What always holds: what `wardmesh.durable_files` says of a file that is written. A lock ends with its process, however
that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wardmesh import durable_files
from wardmesh.durable_files import PRIVATE_FILE, PRIVATE_FOLDER

OTHERS: Final = 0o077


def write_private(file: Path, content: bytes) -> None:
    """Write a file with mode 0600, atomically and durably; its folder is made, private, if it is not there."""
    file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    durable_files.write_private(file, content)


def is_private(file: Path) -> bool:
    """Tell whether nobody but us (or root) can read or could have written `file`."""
    about = file.stat()
    return about.st_uid in {os.geteuid(), 0} and not about.st_mode & OTHERS


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep other commands that ask for the same file's lock waiting while the block runs."""
    file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    descriptor = os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
