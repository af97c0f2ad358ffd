"""The keys of people, as files in a folder that is no database's: destroying one is what erasing a person means.

    id                 which folder this is; the database remembers it, so that no other is taken for it
    secret             32 random bytes, by which the names below are made: they tell nothing
    people/HMAC        {"scope":…,"subject":…,"key":…}, by scope and user; a line for each whose key was made at once
    pseudonyms/HMAC    the same file (hard links), by scope and pseudonym
    retired/HMAC       the same file, moved here from people: it opens what it has sealed, and seals nothing more
    erasures/HMAC      an erasure of that user that has been begun (`erasing`)
    lock-NN            held while keys of a scope are made and destroyed; there are a few for all scopes

What always holds:
- A key is on disk, with its name, before anybody gets it. Files are whole or absent, and only their owner reads them.
- A person has one key in a scope, however many processes ask at once.
- What was destroyed is overwritten before its names go, and no process goes on using it: each use compares the file
  with the one that was read (`to_seal` leaves that to `in_use`). So is what a crash left of keys that nobody was given,
  at the first start an hour later.
- A key has a name at every moment between its making and its destruction: it is retired by renaming.
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
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar

from wardmesh.crypto.encoding import length_prefixed
from wardmesh.durable_files import PRIVATE_FILE, PRIVATE_FOLDER, create_private, sync_folder, write_private
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import EventId, Scope, UserId
from wardmesh_audit.errors import KeysDamaged
from wardmesh_audit.openings import KEY_BYTES, SubjectKey
from wardmesh_audit.ports import PendingErasure

CACHED_KEYS: Final = 8_192
"""Some megabytes. Whoever is not among them costs a file that is read, some tens of microseconds."""
BUNDLE: Final = 64
"""Keys in one file, if they are made at once: a disk takes as long for one as for all."""
LOCKS: Final = 64
LEFTOVER_SECONDS: Final = 3600.0
MAX_FILE_BYTES: Final = BUNDLE * 256
_SECRET_BYTES: Final = 32
_ID: Final = "id"
_LOCK: Final = "lock"
_SECRET: Final = "secret"  # noqa: S105 - a file's name
_PEOPLE: Final = "people"
_PSEUDONYMS: Final = "pseudonyms"
_RETIRED: Final = "retired"
_ERASURES: Final = "erasures"
_FOLDERS: Final = (_PEOPLE, _PSEUDONYMS, _RETIRED, _ERASURES)

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
            with _locked(folder / _LOCK):
                if not (folder / _ID).exists():
                    write_private(folder / _SECRET, os.urandom(_SECRET_BYTES))
                    write_private(folder / _ID, secrets.token_hex(16).encode())
            secret, folder_id = _read(folder / _SECRET), _read(folder / _ID)
            if secret is None or len(secret) != _SECRET_BYTES or not folder_id:
                raise KeysDamaged
            keys = cls(folder, secret, folder_id.decode("ascii", "replace"))
            keys._sweep()
        except OSError as error:
            raise ServiceUnavailable("The folder of people's keys cannot be used.") from error
        return keys

    async def get_or_make(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: self._get_or_make(scope, subjects))

    async def to_seal(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        known = {who: self._known.get((_PEOPLE, scope, who)) for who in subjects}
        there = {who: each.key for who, each in known.items() if each is not None}
        strangers = [who for who in subjects if who not in there]
        return {**there, **await self.get_or_make(scope, strangers)} if strangers else there

    async def in_use(self, scope: Scope, keys: Collection[SubjectKey]) -> bool:
        def look() -> bool:
            # At all of them: what is gone is forgotten, so that the next who asks does not get it again.
            return [self._load((_PEOPLE, scope, key.subject)) for key in keys] == list(keys)

        return await self._off_the_loop(look)

    async def find(self, scope: Scope, subjects: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: self._all(_PEOPLE, scope, subjects))

    async def named(self, scope: Scope, pseudonyms: Collection[UserId]) -> Mapping[UserId, SubjectKey]:
        return await self._off_the_loop(lambda: self._all(_PSEUDONYMS, scope, pseudonyms))

    async def begun(self, scope: Scope, subject: UserId) -> PendingErasure | None:
        return await self._off_the_loop(lambda: self._begun(scope, subject))

    async def begin(self, scope: Scope, subject: UserId, erasure: PendingErasure) -> None:
        said = json.dumps(asdict(erasure)).encode()
        await self._off_the_loop(lambda: write_private(self._path((_ERASURES, scope, subject)), said))

    async def retire(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        return await self._off_the_loop(lambda: self._retire(scope, subject))

    async def retired(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        return await self._off_the_loop(lambda: self._load((_RETIRED, scope, subject)))

    async def destroy(self, scope: Scope, key: SubjectKey) -> None:
        await self._off_the_loop(lambda: self._destroy(scope, key))

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

    def _get_or_make(self, scope: Scope, subjects: Collection[UserId]) -> dict[UserId, SubjectKey]:
        found = {who: self._remembered((_PEOPLE, scope, who)) for who in subjects}
        there = {who: key for who, key in found.items() if key is not None}
        strangers = [who for who, key in found.items() if key is None]
        return there | self._make(scope, strangers) if strangers else there

    def _make(self, scope: Scope, subjects: Collection[UserId]) -> dict[UserId, SubjectKey]:
        """Return the keys of people whom this process has not met, and make those that nobody has."""
        with _locked(self._lock(scope)):
            keys = {who: self._load((_PEOPLE, scope, who)) for who in subjects}
            there = {who: key for who, key in keys.items() if key is not None}
            new = [SubjectKey(who, os.urandom(KEY_BYTES)) for who in subjects if who not in there]
            if new:
                self._write_bundles(scope, new)
            # Where a crash came between: without this name nothing that is sealed could be opened.
            for who, key in there.items():
                link = self._path((_PSEUDONYMS, scope, key.pseudonym))
                if not link.exists():
                    os.link(self._path((_PEOPLE, scope, who)), link)
                    sync_folder(link.parent)
            return there | {key.subject: key for key in new}

    def _write_bundles(self, scope: Scope, keys: Sequence[SubjectKey]) -> None:
        """Put keys into files with a name for each key and pseudonym: an fsync for each file, and two of folders."""
        bundles: dict[Path, Sequence[SubjectKey]] = {}
        for start in range(0, len(keys), BUNDLE):
            part = keys[start : start + BUNDLE]
            said = (json.dumps({"scope": scope, "subject": key.subject, "key": key.secret.hex()}) for key in part)
            bundle = self._folder / _PEOPLE / f".{secrets.token_hex(8)}"
            create_private(bundle, "".join(f"{line}\n" for line in said).encode())
            bundles[bundle] = part
        for bundle, part in bundles.items():
            for key in part:
                path = self._path((_PEOPLE, scope, key.subject))
                path.unlink(missing_ok=True)  # what a crash left of one that was being destroyed
                os.link(bundle, path)
        sync_folder(self._folder / _PEOPLE)
        for bundle, part in bundles.items():
            for key in part:
                os.link(bundle, self._path((_PSEUDONYMS, scope, key.pseudonym)))
        sync_folder(self._folder / _PSEUDONYMS)
        for bundle in bundles:
            bundle.unlink()

    def _retire(self, scope: Scope, subject: UserId) -> SubjectKey | None:
        name, retired = (_PEOPLE, scope, subject), (_RETIRED, scope, subject)
        with _locked(self._lock(scope)):
            if (before := self._load(retired)) is not None:
                return before
            _unlink(self._path(retired))  # what a crash left of one that was being destroyed
            key = self._load(name)
            self._known.pop(name, None)
            if key is not None:
                self._path(name).rename(self._path(retired))
                sync_folder(self._folder / _RETIRED)
                sync_folder(self._folder / _PEOPLE)
            return key

    def _destroy(self, scope: Scope, key: SubjectKey) -> None:
        with _locked(self._lock(scope)):
            for name in ((_RETIRED, scope, key.subject), (_PEOPLE, scope, key.subject)):
                if self._load(name) == key:
                    self._known.pop(name, None)
                    # First of all, and under all names at once: a crash leaves zeros, which are no key.
                    _overwrite(self._path(name), key.secret.hex().encode())
                    self._known.pop((_PSEUDONYMS, scope, key.pseudonym), None)
                    _unlink(self._path((_PSEUDONYMS, scope, key.pseudonym)))
                    _unlink(self._path(name))

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
        if mark is None or content is None:
            return None
        folder, _, who = name
        for line in content.splitlines():
            if b"\0" in line:  # destroyed, or about to be
                continue
            try:
                said = json.loads(line)
                key = SubjectKey(UserId.parse(said["subject"]), bytes.fromhex(said["key"]))
            except (ValueError, KeyError, TypeError) as error:
                raise KeysDamaged from error
            if who == (key.pseudonym if folder == _PSEUDONYMS else key.subject):
                break
        else:
            return None
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
            return PendingErasure(
                EventId.parse(said["erasure_id"]),
                int(said["entries"]),
                str(said.get("mark", "")),
                int(said.get("gone", 0)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise KeysDamaged from error

    def _sweep(self) -> None:
        """Remove what crashes left; what is younger may be somebody's who is at it."""
        for file in (file for folder in _FOLDERS for file in (self._folder / folder).glob(".*")):
            with suppress(FileNotFoundError):
                about = file.stat()
                if about.st_mtime < time.time() - LEFTOVER_SECONDS:
                    if about.st_nlink == 1:  # nobody was ever given what is in it
                        file.write_bytes(bytes(about.st_size))
                    else:
                        self._overwrite_unnamed(file)
                    file.unlink()

    def _overwrite_unnamed(self, bundle: Path) -> None:
        """Overwrite the keys that a crash left without a name: nobody has them, and each says whose it was to be."""
        inode = bundle.stat().st_ino
        for line in (_read(bundle) or b"").splitlines():
            if b"\0" in line:
                continue
            try:
                said = json.loads(line)
                # In this order: a key goes from the one to the other.
                names = [self._path((folder, said["scope"], said["subject"])) for folder in (_PEOPLE, _RETIRED)]
                value = str(said["key"]).encode()
            except (ValueError, KeyError, TypeError):
                continue  # said to whoever reads it
            if all((mark := _mark_of(name)) is None or mark.inode != inode for name in names):
                _overwrite(bundle, value)

    def _lock(self, scope: Scope) -> Path:
        """Return what to lock while a scope's keys are made or destroyed; others need not wait for its disk."""
        hashed = hmac.digest(self._secret, length_prefixed(_LOCK.encode(), scope.encode()), "sha256")
        return self._folder / f"{_LOCK}-{hashed[0] % LOCKS:02d}"

    def _path(self, name: _Name) -> Path:
        folder, scope, who = name
        hashed = hmac.digest(self._secret, length_prefixed(folder.encode(), scope.encode(), who.encode()), "sha256")
        return self._folder / folder / hashed.hex()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
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


def _overwrite(path: Path, value: bytes) -> None:
    """Put zeros in the place of the line that has `value`, and wait until they are on the disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        place = 0
        for line in os.pread(descriptor, MAX_FILE_BYTES, 0).splitlines(keepends=True):
            if value in line:
                os.pwrite(descriptor, bytes(len(line.rstrip(b"\n"))), place)
            place += len(line)
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


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)
