"""The keys of people, as files in a folder that is no database's: destroying one is what erasing a person means.

    id                 which folder this is; the database remembers it, so that no other is taken for it
    secret             32 random bytes, by which the names below are made: they tell nothing
    people/HMAC        {"scope":…,"subject":…,"key":…}, by scope and user
    pseudonyms/HMAC    the same file (a hard link), by scope and pseudonym
    erasures/HMAC      an erasure of that user that has been begun (`erasing`)
    lock               held while files are made and destroyed

What always holds:
- A key is on disk, with its name, before anybody gets it. Files are whole or absent, and only their owner reads them.
- A person has one key in a scope, however many processes ask at once.
- What was destroyed is overwritten before it is unlinked, whatever names it has, and no process goes on using it: each
  use compares the file with the one that was read.
- What the processes remember is bounded.

Overwriting reaches the file, not what a disk, a file system that copies on write, or a backup kept of it: see
docs/operations.md.

On failure: `ServiceUnavailable` for a folder that cannot be read or written: nothing is sealed that could not be
forgotten. `KeysDamaged` (an `InternalError`) for a file that is no key.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar

from wardmesh.crypto.encoding import length_prefixed
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import EventId, Scope, UserId
from wardmesh_audit.errors import KeysDamaged
from wardmesh_audit.openings import KEY_BYTES, SubjectKey
from wardmesh_audit.ports import PendingErasure

CACHED_KEYS: Final = 8_192
"""Some megabytes. Whoever is not among them costs a file that is read, some tens of microseconds."""
MAX_FILE_BYTES: Final = 1024
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
_SECRET_BYTES: Final = 32
_ID: Final = "id"
_SECRET: Final = "secret"  # noqa: S105 - a file's name
_PEOPLE: Final = "people"
_PSEUDONYMS: Final = "pseudonyms"
_ERASURES: Final = "erasures"
_FOLDERS: Final = (_PEOPLE, _PSEUDONYMS, _ERASURES)

T = TypeVar("T")


class _Mark(NamedTuple):
    """What tells a file from any other that ever had its name, and from itself when it was overwritten."""

    inode: int
    modified: int
    size: int


class _Known(NamedTuple):
    path: Path
    mark: _Mark
    key: SubjectKey


_Name: TypeAlias = tuple[str, Scope, UserId]
"""A file, before its name is hashed: the folder, the scope, and the user or the pseudonym."""


class KeyFolder:
    """The port `SubjectKeys` on a folder, which any number of processes share."""

    def __init__(self, folder: Path, secret: bytes, folder_id: str, *, cached: int = CACHED_KEYS) -> None:
        self._folder = folder
        self._secret = secret
        self._cached = cached
        self._known: OrderedDict[_Name, _Known] = OrderedDict()
        self.folder_id = folder_id

    @classmethod
    def open(cls, folder: Path) -> KeyFolder:
        """Return the keys in a folder, which is made if there is none; raise `ServiceUnavailable` if it is no use."""
        try:
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for name in _FOLDERS:
                (folder / name).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            with _locked(folder):
                if not (folder / _ID).exists():
                    _write(folder / _SECRET, os.urandom(_SECRET_BYTES))
                    _write(folder / _ID, secrets.token_hex(16).encode())
            secret, folder_id = _read(folder / _SECRET), _read(folder / _ID)
        except OSError as error:
            raise ServiceUnavailable("The folder of people's keys cannot be used.") from error
        if secret is None or len(secret) != _SECRET_BYTES or not folder_id:
            raise KeysDamaged
        return cls(folder, secret, folder_id.decode("ascii", "replace"))

    async def get_or_make(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: {who: self._get_or_make(scope, who) for who in subjects})

    async def find(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: self._all(_PEOPLE, scope, subjects))

    async def named(self, scope: Scope, pseudonyms: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: self._all(_PSEUDONYMS, scope, pseudonyms))

    async def begun(self, scope: Scope, subject: UserId) -> PendingErasure | None:
        return await self._off_the_loop(lambda: self._begun(scope, subject))

    async def begin(self, scope: Scope, subject: UserId, erasure: PendingErasure) -> None:
        said = json.dumps({"erasure_id": erasure.erasure_id, "entries": erasure.entries}).encode()
        await self._off_the_loop(lambda: _write(self._path((_ERASURES, scope, subject)), said))

    async def destroy(self, scope: Scope, subject: UserId) -> None:
        await self._off_the_loop(lambda: self._destroy(scope, subject))

    async def end(self, scope: Scope, subject: UserId) -> None:
        await self._off_the_loop(lambda: _unlink(self._path((_ERASURES, scope, subject))))

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        """Do it in a thread: the folder may be another machine's."""

        def translated() -> T:
            try:
                return work()
            except OSError as error:
                raise ServiceUnavailable("The folder of people's keys does not answer.") from error

        return await asyncio.to_thread(translated)

    def _all(self, folder: str, scope: Scope, ids: Collection[UserId]) -> dict[UserId, SubjectKey]:
        found = ((each, self._load((folder, scope, each))) for each in ids)
        return {each: key for each, key in found if key is not None}

    def _get_or_make(self, scope: Scope, subject: UserId) -> SubjectKey:
        return self._remembered((_PEOPLE, scope, subject)) or self._make(scope, subject)

    def _make(self, scope: Scope, subject: UserId) -> SubjectKey:
        name = _PEOPLE, scope, subject
        path = self._path(name)
        with _locked(self._folder):
            key = self._load(name)
            if key is None:
                _unlink(path)  # what a crash left of one that was being destroyed
                key = SubjectKey(subject, os.urandom(KEY_BYTES))
                said = json.dumps({"scope": scope, "subject": subject, "key": key.secret.hex()}).encode()
                _write(path, said)
            # Also where a crash came between: without this name nothing that is sealed could be opened.
            other = self._path((_PSEUDONYMS, scope, key.pseudonym))
            if not other.exists():
                os.link(path, other)
                _sync(other.parent)
            return key

    def _destroy(self, scope: Scope, subject: UserId) -> None:
        name = _PEOPLE, scope, subject
        path = self._path(name)
        with _locked(self._folder):
            key = self._load(name)
            self._known.pop(name, None)
            # First of all, and under both names at once: a crash leaves a file of zeros, which is no key.
            _overwrite(path)
            if key is not None:
                self._known.pop((_PSEUDONYMS, scope, key.pseudonym), None)
                _unlink(self._path((_PSEUDONYMS, scope, key.pseudonym)))
            _unlink(path)

    def _remembered(self, name: _Name) -> SubjectKey | None:
        """Return the key if it was read before and the file is still the same."""
        known = self._known.get(name)
        return known.key if known is not None and _mark_of(known.path) == known.mark else None

    def _load(self, name: _Name) -> SubjectKey | None:
        if (remembered := self._remembered(name)) is not None:
            return remembered
        self._known.pop(name, None)
        path = self._path(name)
        mark, content = _mark_of(path), _read(path)
        if mark is None or content is None or not content.strip(b"\0"):  # being destroyed, or by a crash almost
            return None
        try:
            said = json.loads(content)
            key = SubjectKey(UserId.parse(said["subject"]), bytes.fromhex(said["key"]))
        except (ValueError, KeyError, TypeError) as error:
            raise KeysDamaged from error
        self._known[name] = _Known(path, mark, key)
        while len(self._known) > self._cached:
            with suppress(KeyError):  # another thread was quicker
                self._known.popitem(last=False)
        return key

    def _begun(self, scope: Scope, subject: UserId) -> PendingErasure | None:
        content = _read(self._path((_ERASURES, scope, subject)))
        if content is None:
            return None
        try:
            said = json.loads(content)
            return PendingErasure(EventId.parse(said["erasure_id"]), int(said["entries"]))
        except (ValueError, KeyError, TypeError) as error:
            raise KeysDamaged from error

    def _path(self, name: _Name) -> Path:
        folder, scope, who = name
        hashed = hmac.digest(self._secret, length_prefixed(folder.encode(), scope.encode(), who.encode()), "sha256")
        return self._folder / folder / hashed.hex()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mark_of(path: Path) -> _Mark | None:
    try:
        about = os.stat(path)  # noqa: PTH116 - each use of a key waits for it
    except FileNotFoundError:
        return None
    return _Mark(about.st_ino, about.st_mtime_ns, about.st_size)


def _overwrite(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole and on disk before it has its name."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
