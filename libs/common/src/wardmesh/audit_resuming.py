"""Files of an export on their way: on disk before it is noted how far they are, and cut back to that when it goes on.

What always holds: what `note` says is on disk when it is said, also after a power failure; a file that grows is opened
behind what is known to be whole in it; no symbolic link is followed.

On failure: `OtherExport` for what was begun by somebody else, or has lost something since.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeVar

PARTIAL = "partial"
StateT = TypeVar("StateT")


class OtherExport(Exception):
    """What was begun in this place is another export, or of another version."""


def partial_of(folder: Path) -> Path:
    """Return where an export grows until it is whole."""
    return folder.with_name(f"{folder.name}.{PARTIAL}")


def note_of(partial: Path) -> Path:
    """Return the file that says how far an export got."""
    return partial.with_name(f"{partial.name}.json")


def remember(partial: Path, state: Any) -> None:
    """Note how far an export got; `state` is a dataclass of what JSON can say."""
    write_whole(note_of(partial), json.dumps(asdict(state)).encode())


def remembered(partial: Path, kind: type[StateT]) -> StateT | None:
    """Return how far an export got, or None where nothing says so; raise `OtherExport` for what is no such note."""
    file = note_of(partial)
    try:
        return kind(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise OtherExport(f"{file} is no note of how far an export got") from error


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
