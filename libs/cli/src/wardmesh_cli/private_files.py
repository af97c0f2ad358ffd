"""Files that only their owner reads, and locks between commands. Needs nothing but the standard library.

What always holds: `write_private` leaves the old content, the new content or no file, never a part, and nobody else can
read it at any moment. A lock ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
OTHERS: Final = 0o077


def write_private(file: Path, content: bytes) -> None:
    """Write a file with mode 0600, atomically and durably; its folder is made, private, if it is not there."""
    file.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
