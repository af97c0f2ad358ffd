"""Files that are their owner's alone, and whole or absent. Needs nothing but the standard library.

What always holds: `write_private` leaves the old content, the new content or no file, never a part, and nobody but the
owner can read it at any moment. What was written, and that it has its name, is on disk when a function returns.

On failure: `OSError`; nothing is left behind.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def write_private(file: Path, content: bytes) -> None:
    """Write or replace a file with mode 0600, atomically and durably."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    create_private(temporary, content)
    try:
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def create_private(file: Path, content: bytes) -> None:
    """Write a new file with mode 0600; that it has its name is on disk when its folder is (`sync_folder`)."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
