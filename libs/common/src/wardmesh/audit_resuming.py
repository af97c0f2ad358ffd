"""Files of an export on their way: on disk before it is noted how far they are, and cut back to that when it goes on.

What always holds: what `note` says is on disk when it is said, also after a power failure; a file that grows is opened
behind what is known to be whole in it; no symbolic link is followed.

On failure: `OtherExport` for what was begun by somebody else, or has lost something since.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

PARTIAL = "partial"


class OtherExport(Exception):
    """What was begun in this place is another export, or of another version."""


def partial_of(folder: Path) -> Path:
    """Return where an export grows until it is whole."""
    return folder.with_name(f"{folder.name}.{PARTIAL}")


def note_of(partial: Path) -> Path:
    """Return the file that says how far an export got."""
    return partial.with_name(f"{partial.name}.json")


def opened(file: Path, size: int) -> IO[bytes]:
    """Open a file behind what is known to be whole in it, and cut off the rest."""
    handle = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
    if os.fstat(handle.fileno()).st_size < size:
        handle.close()
        raise OtherExport(f"{file} has less than was written to it")
    handle.truncate(size)
    handle.seek(size)
    return handle


def on_disk(handle: IO[bytes]) -> int:
    """Put what was written on disk, and return how much that is."""
    handle.flush()
    os.fsync(handle.fileno())
    return handle.tell()


def write_whole(file: Path, content: bytes) -> None:
    """Replace a file: all of it, on disk, or nothing."""
    new = file.with_name(f"{file.name}.new")
    with new.open("wb") as handle:
        handle.write(content)
        on_disk(handle)
    new.replace(file)
