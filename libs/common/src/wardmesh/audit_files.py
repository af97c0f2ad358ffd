"""Where an exported log is read from: somebody else's files, in a folder or behind a URL.

What always holds: nothing that a reader gives out has been verified, and it is never more than was asked for. In a
folder nothing outside of it is read: no symbolic link is followed, and nothing but a regular file is opened.

On failure: `FileRefused` for a file that cannot be what it should be; None for one that is not there; `OSError` for a
disk that cannot be read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Protocol


class FileRefused(Exception):
    """A file is not one that an export can have."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(what)
        self.what = what
        self.path = path


class Files(Protocol):
    """An export, as files named by their paths in it."""

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a file's content, or None if there is none. MUST NOT take in more than `max_bytes` and a little."""

    def open(self, path: str) -> IO[bytes] | None:
        """Open a file of any size for reading it in pieces, or return None if there is none."""

    def take(self, path: str, size: int, max_bytes: int) -> IO[bytes] | None:
        """Open a file about the first `size` entries of a log, or return None if there is none.

        A server may make it as it is asked for, and wait for no reader: it MUST be whole, and not longer than
        `max_bytes`, when this returns, and MUST NOT be held in memory if it is large.
        """

    def exists(self, path: str) -> bool:
        """Tell whether a file is there, if that costs nothing; else False."""


class Folder:
    """The port `Files` on a folder that may be hostile."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: set[str] = set()

    def read(self, path: str, max_bytes: int) -> bytes | None:
        with_size = self._find(path)
        if with_size is None:
            return None
        if with_size > max_bytes:
            raise FileRefused(f"{path} is larger than it can be ({max_bytes} bytes)", path)
        with (self._root / path).open("rb") as handle:
            return handle.read(max_bytes + 1)

    def open(self, path: str) -> IO[bytes] | None:
        return None if self._find(path) is None else (self._root / path).open("rb")

    def take(self, path: str, size: int, max_bytes: int) -> IO[bytes] | None:
        return self.open(path)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def _find(self, path: str) -> int | None:
        """Return the size of a regular file that is reached through folders only."""
        parent, _, _ = path.rpartition("/")
        parts = parent.split("/") if parent else []
        for end in range(1, len(parts) + 1):
            folder = "/".join(parts[:end])
            if folder in self._folders:
                continue
            mode = self._mode(folder)
            if mode is None:
                return None
            if not stat.S_ISDIR(mode.st_mode):
                raise FileRefused(f"{folder} is not a folder", folder)
            self._folders.add(folder)
        found = self._mode(path)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise FileRefused(f"{path} is not a regular file", path)
        return found.st_size

    def _mode(self, path: str) -> os.stat_result | None:
        try:
            return (self._root / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
