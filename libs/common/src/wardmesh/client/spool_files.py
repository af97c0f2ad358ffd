"""A spool on disk: events that were accepted and not sent yet, in order.

    lock                one process at a time has the folder
    owner               whose events they are: a scope and a principal
    00000001.events     segments, oldest first; a line is `<crc32 in hex> <event as JSON>`
    refused.events      what the log does not take, each with the reason; for people
    damaged.events      lines whose checksum is wrong, as they were found; for people

What always holds: `append` returns only after its lines are on disk. A line is sent before it is removed, so a crash in
between sends it again, under the id that it had. A line that was torn by a crash was never acknowledged, and is cut
off; any other that is not whole is kept in `damaged.events`, and holds up none behind it. The folder and its files are
their owner's alone. All files together stay under a bound.

On failure: `SpoolFull` at the bound or on a full disk; `SpoolUnusable` for a folder that is in use, readable by others,
another principal's, or on a disk that fails. Everything here blocks; `spool` calls it in threads.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

from wardmesh.client.spool_errors import SpoolFull, SpoolUnusable
from wardmesh.ids import Principal, Scope

MAX_SPOOL_BYTES: Final = 64 * 1024 * 1024
"""Some 200,000 events: hours of an agent, and not yet a nuisance to anybody's disk."""
SEGMENT_BYTES: Final = 1024 * 1024
"""What may be sent again after a crash: the log drops it, but somebody has to carry it."""
VERSION: Final = 1
_OTHERS: Final = 0o077
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Batch(NamedTuple):
    """Events from the oldest segment, and where they end in it."""

    bodies: tuple[bytes, ...]
    segment: int
    end: int


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What is in a folder; `oldest` is when its oldest segment was last written to, as a Unix time."""

    events: int
    size_bytes: int
    refused: int
    damaged: int
    oldest: float | None


class SpoolFolder:
    """A folder, opened by this process. Methods may be called from several threads."""

    def __init__(self, folder: Path, lock: IO[bytes], max_bytes: int) -> None:
        self._folder = folder
        self._lock_file = lock
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._active: IO[bytes] | None = None
        self._read_to = 0
        self._broken = False
        self._segments = [int(file.stem) for file in _segments(folder)]
        self._next = max(self._segments, default=0) + 1
        if self._segments:
            _cut_torn_line(self._path(self._segments[-1]))
        self._size = sum(file.stat().st_size for file in folder.iterdir())

    @classmethod
    def open(cls, folder: Path, scope: Scope, principal: Principal, *, max_bytes: int = MAX_SPOOL_BYTES) -> SpoolFolder:
        """Take the folder, making it if it is not there."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = folder.stat()
            if about.st_uid != os.geteuid() or about.st_mode & _OTHERS:
                raise SpoolUnusable(f"{folder}: the spool must be a folder of this user alone (chmod 700).")
            lock = _lock(folder)
            try:
                _claim(folder, f"{VERSION} {scope} {principal}\n".encode())
                return cls(folder, lock, max_bytes)
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise SpoolUnusable(f"{folder}: the spool cannot be used ({_name_of(error)}).") from error

    def append(self, bodies: Sequence[bytes]) -> None:
        """Keep events, in order; return when they are on disk."""
        lines = b"".join(map(_line, bodies))
        with self._guard:
            if self._broken:
                raise SpoolUnusable("The spool's disk has failed; what it acknowledged before may be checked by hand.")
            if self._size + len(lines) > self._max_bytes:
                raise SpoolFull
            try:
                active = self._active or self._begin_segment()
                start = active.tell()
                try:
                    active.write(lines)
                    active.flush()
                except OSError:
                    # What was written of it must not stay: a line that is half there would be joined to the next.
                    active.truncate(start)
                    active.seek(start)
                    raise
                self._sync(active.fileno())
            except OSError as error:
                if error.errno in _FULL:
                    raise SpoolFull from error
                raise SpoolUnusable(f"The spool cannot be written ({_name_of(error)}).") from error
            self._size += len(lines)
            if active.tell() >= SEGMENT_BYTES:
                self._end_segment()

    def read(self, items: int, size: int) -> Batch | None:
        """Return the oldest events, at least one and at most `items` of `size` bytes, or None if there are none."""
        with self._guard:
            while self._segments:
                segment = self._segments[0]
                bodies: list[bytes] = []
                taken, end = 0, self._read_to
                with self._path(segment).open("rb") as file:
                    file.seek(end)
                    for line in file:
                        body = _body(line)
                        if body is None and not bodies:
                            self._keep("damaged.events", line.rstrip(b"\n") + b"\n")
                            self._read_to = end = end + len(line)
                            continue
                        if body is None or (bodies and (len(bodies) >= items or taken + len(body) + 1 > size)):
                            break
                        bodies.append(body)
                        taken += len(body) + 1
                        end += len(line)
                if bodies:
                    return Batch(tuple(bodies), segment, end)
                self._remove(segment)
            return None

    def done(self, batch: Batch) -> None:
        """Forget events that are in the log, or that were refused and kept."""
        with self._guard:
            if self._segments[:1] != [batch.segment]:
                return
            self._read_to = batch.end
            if batch.end >= self._path(batch.segment).stat().st_size:
                self._remove(batch.segment)

    def refuse(self, body: bytes, code: str) -> None:
        """Keep an event that the log does not take, for people to look at."""
        with self._guard:
            self._keep("refused.events", b"%s %s\n" % (code.encode(), body))

    def close(self) -> None:
        """Give the folder up; what is in it stays."""
        with self._guard:
            self._end_segment()
            self._lock_file.close()

    def _begin_segment(self) -> IO[bytes]:
        path = self._path(self._next)
        self._active = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._segments.append(self._next)
        self._next += 1
        self._sync_folder()
        return self._active

    def _end_segment(self) -> None:
        if self._active is not None:
            self._active.close()
            self._active = None

    def _remove(self, segment: int) -> None:
        if self._active is not None and segment == self._segments[-1]:
            self._end_segment()
        path = self._path(segment)
        self._size -= path.stat().st_size
        path.unlink()
        self._sync_folder()
        self._segments.remove(segment)
        self._read_to = 0

    def _keep(self, name: str, line: bytes) -> None:
        path = self._folder / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(line)
            file.flush()
            self._sync(file.fileno())
        self._size += len(line)

    def _sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            # The kernel may have dropped what it could not write: nothing that comes after can be trusted.
            self._broken = True
            raise

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.events"


def inspect(folder: Path) -> SpoolState:
    """Return what is in a spool, without taking it; raise `OSError` if it cannot be read."""
    segments = _segments(folder)
    return SpoolState(
        events=sum(1 for file in segments for line in _lines(file) if _body(line) is not None),
        size_bytes=sum(file.stat().st_size for file in folder.iterdir()),
        refused=sum(1 for _ in _lines(folder / "refused.events")),
        damaged=sum(1 for _ in _lines(folder / "damaged.events")),
        oldest=segments[0].stat().st_mtime if segments else None,
    )


def _segments(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.events") if file.stem.isdecimal())


def _lines(file: Path) -> Iterator[bytes]:
    # What is drained meanwhile is gone, and that is what this is asked about.
    with suppress(FileNotFoundError), file.open("rb") as opened:
        yield from opened


def _line(body: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _body(line: bytes) -> bytes | None:
    """Return the event of a whole line, or None."""
    checksum, space, body = line[:8], line[8:9], line[9:-1]
    return body if space == b" " and line[-1:] == b"\n" and checksum == b"%08x" % zlib.crc32(body) else None


def _cut_torn_line(segment: Path) -> None:
    """Remove what a crash left of a line: it was never acknowledged."""
    with segment.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())


def _lock(folder: Path) -> IO[bytes]:
    try:
        import fcntl
    except ImportError:
        raise SpoolUnusable("A spool needs the locks of a POSIX system.") from None
    file = os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SpoolUnusable(f"{folder}: another process has this spool; give each its own folder.") from None
    return file


def _claim(folder: Path, owner: bytes) -> None:
    """Write whose events are here, or see that they are of the same."""
    file = folder / "owner"
    if file.exists():
        found = file.read_bytes()
        if found == owner:
            return
        if found and _segments(folder):
            raise SpoolUnusable(f"{folder}: the events here are another principal's; drain them as that one first.")
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(owner)
        opened.flush()
        os.fsync(opened.fileno())


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")
