"""Checks an exported log, with no server and no credential: `verify_export(folder)`.

It recomputes the hash of every entry, every tile and the root, checks the checkpoint's signature, compares the readable
copy (`entries.ndjson`) byte for byte, and says what it checked. On damage it names the first entry or tile concerned.

What always holds: an export is reported as sound only if the trusted key signed its checkpoint and everything that the
signed size requires is there and is what was signed. The folder is somebody else's: nothing outside of it is read (no
symbolic link is followed, nothing but regular files is opened), no file is read beyond the size that it may have, and
memory does not grow with the log. Paths are computed from the signed size, never taken from the folder.

On failure: a `Report` with its `damage`; nothing is raised for what a folder contains. `OSError` for a disk that cannot
be read, `InvalidKey` if the caller's own key is not one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.errors import CryptoError, InconsistentLog, MalformedEncoding
from wardmesh.crypto.log_verify import verify_log
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.note import MAX_NOTE_BYTES, VerifierKey
from wardmesh.crypto.tiles import (
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    EntryBundle,
    Tile,
    bundles_of,
    decode_bundle,
)

CHECKPOINT: Final = "checkpoint"
VERIFIER_KEY: Final = "verifier-key"
ENTRIES: Final = "entries.ndjson"

MAX_KEY_BYTES: Final = 4096
MAX_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
MAX_LINE_BYTES: Final = MAX_ENTRY_BYTES + 1


@dataclass(frozen=True, slots=True)
class Damage:
    """The first thing that is wrong, and where."""

    what: str
    path: str | None = None
    """The file concerned, relative to the folder."""
    entry: int | None = None
    """The first entry concerned."""


@dataclass(slots=True)
class Report:
    """What was checked, and what was found."""

    folder: Path
    key_is_pinned: bool
    """Whether the caller named the key. If not, the export's own was used, which proves nothing about its origin."""
    verifier_key: str | None = None
    origin: str | None = None
    size: int = 0
    root: bytes = b""
    signature_checked: bool = False
    entries_checked: int = 0
    tiles_checked: int = 0
    lines_checked: int = 0
    damage: Damage | None = None

    @property
    def is_sound(self) -> bool:
        return self.damage is None

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        if self.signature_checked:
            yield f"log        {self.origin}"
            yield f"checkpoint {self.size} entries, root {base64_encode(self.root)}, signature good"
            yield f"key        {self.verifier_key}"
            if not self.key_is_pinned:
                yield "           this key came with the export: compare it with one that you have from elsewhere"
        if self.is_sound:
            yield (
                f"checked    {self.entries_checked} entries, {self.tiles_checked} tiles, the root, "
                f"{self.lines_checked} lines of {ENTRIES}"
            )
            yield "sound      nothing was changed, dropped, inserted or reordered"
        else:
            yield f"checked    {self.entries_checked} entries before the end"
            yield f"DAMAGED    {self.damage.what if self.damage else ''}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def verify_export(folder: Path, verifier_key: str | None = None) -> Report:
    """Check the export in `folder` against the log's `verifier_key`; without one, against the key that it came with."""
    report = Report(folder, key_is_pinned=verifier_key is not None)
    pinned = None if verifier_key is None else VerifierKey.parse(verifier_key)
    export = _Export(_Folder(folder), report)
    try:
        export.check(pinned)
    except _Damaged as damaged:
        report.damage = damaged.damage
    except InconsistentLog as error:
        # Where the entries could not even be read, that is what to say.
        report.damage = export.unreadable or Damage(str(error), error.tile, error.first)
    return report


class _Damaged(Exception):
    def __init__(self, what: str, path: str | None = None, entry: int | None = None) -> None:
        super().__init__(what)
        self.damage = Damage(what, path, entry)


class _Folder:
    """Reads files of a folder that may be hostile."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: set[str] = set()

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """Return a file's content, or None if there is no such file."""
        with_size = self._find(path)
        if with_size is None:
            return None
        if with_size > max_bytes:
            raise _Damaged(f"{path} is larger than it can be ({max_bytes} bytes)", path)
        with (self._root / path).open("rb") as handle:
            return handle.read(max_bytes + 1)

    def open(self, path: str) -> IO[bytes] | None:
        """Open a file of any size, or return None if there is no such file."""
        return None if self._find(path) is None else (self._root / path).open("rb")

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
                raise _Damaged(f"{folder} is not a folder", folder)
            self._folders.add(folder)
        found = self._mode(path)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _Damaged(f"{path} is not a regular file", path)
        return found.st_size

    def _mode(self, path: str) -> os.stat_result | None:
        try:
            return (self._root / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(slots=True)
class _Export:
    """One pass over the entries, with the readable copy beside them."""

    folder: _Folder
    report: Report
    unreadable: Damage | None = None
    """Why the entries ended before their signed number."""
    _line_damage: Damage | None = field(default=None, init=False)

    def check(self, pinned: VerifierKey | None) -> None:
        report = self.report
        note = self.folder.read(CHECKPOINT, MAX_NOTE_BYTES)
        if note is None:
            raise _Damaged(f"{CHECKPOINT} is missing: the export did not finish", CHECKPOINT)
        key = pinned or self._own_key()
        try:
            checkpoint = open_checkpoint(note, key)
        except CryptoError as error:
            raise _Damaged(f"{CHECKPOINT}: {error}", CHECKPOINT) from error
        report.verifier_key, report.signature_checked = str(key), True
        report.origin, report.size, report.root = checkpoint.origin, checkpoint.size, checkpoint.root

        lines = self.folder.open(ENTRIES)
        if lines is None:
            raise _Damaged(f"{ENTRIES} is missing", ENTRIES)
        with lines:
            entries = self._entries(checkpoint, lines)
            verified = verify_log(entries, note, key, stored=self._tile)
            report.tiles_checked = verified.tiles
            if self._line_damage is None and lines.read(1):
                self._line_damage = Damage(f"{ENTRIES} goes on after the last entry", ENTRIES, checkpoint.size)
        report.damage = self._line_damage

    def _own_key(self) -> VerifierKey:
        text = self.folder.read(VERIFIER_KEY, MAX_KEY_BYTES)
        if text is None:
            raise _Damaged(f"{VERIFIER_KEY} is missing: name the log's key", VERIFIER_KEY)
        try:
            return VerifierKey.parse(text.decode("ascii", errors="replace").removesuffix("\n"))
        except CryptoError as error:
            raise _Damaged(f"{VERIFIER_KEY}: {error}", VERIFIER_KEY) from error

    def _tile(self, tile: Tile) -> bytes | None:
        return self.folder.read(tile.path, MAX_TILE_BYTES)

    def _entries(self, checkpoint: Checkpoint, lines: IO[bytes]) -> Iterator[bytes]:
        for signed in bundles_of(checkpoint.size):
            bundle = self._stored_bundle(signed)
            if bundle is None:
                return
            first = bundle.index * TILE_WIDTH
            content = self.folder.read(bundle.path, MAX_BUNDLE_BYTES)
            try:
                entries = decode_bundle(content or b"", width=bundle.width)
            except MalformedEncoding as error:
                self.unreadable = Damage(f"{bundle.path} (from entry {first}): {error}", bundle.path, first)
                return
            for index, entry in enumerate(entries, first):
                self._compare(index, entry, lines)
                self.report.entries_checked += 1
                yield entry

    def _stored_bundle(self, signed: EntryBundle) -> EntryBundle | None:
        """Return the bundle that is there: that of the signed size, or of an export that ended within it."""
        widths = range(signed.width, 0, -1)
        candidates = (EntryBundle(signed.index, width) for width in widths)
        return next((bundle for bundle in candidates if self.folder.exists(bundle.path)), None)

    def _compare(self, index: int, entry: bytes, lines: IO[bytes]) -> None:
        if self._line_damage is None:
            line = lines.readline(MAX_LINE_BYTES)
            if line != entry + b"\n":
                self._line_damage = Damage(f"line {index} of {ENTRIES} is not entry {index}", ENTRIES, index)
                self.report.lines_checked = index
            else:
                self.report.lines_checked += 1
