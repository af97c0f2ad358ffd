"""The files of a whole log's export on their way: entries, bundles and tiles, and a note of how far they are.

What always holds: the folder grows beside and is renamed when all of it is on disk, so one that has its name is whole.
Every `ENTRIES_BETWEEN_NOTES` entries, at the end of a bundle, everything so far is put on disk and then noted; what was
written behind that is cut off or written over when the export goes on. Memory holds a bundle and the tree's right edge.

On failure: `FileExistsError` if there is something in the folder; `OtherExport` if what was begun is another log's, of
another version, or has lost something.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final, Self

from wardmesh.audit_openings import OPENINGS, lines
from wardmesh.audit_pruning import KEPT, read_announcement
from wardmesh.audit_resuming import OtherExport, note_of, on_disk, opened, partial_of, remember, remembered, write_whole
from wardmesh.audit_verify import CHECKPOINT, ENTRIES, VERIFIER_KEY
from wardmesh.contracts.audit import Checkpoint, Leaves
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import TILE_WIDTH, EntryBundle, Tile, decode_tile, encode_bundle
from wardmesh.durable_files import sync_folder

ENTRIES_BETWEEN_NOTES: Final = 16 * TILE_WIDTH
"""Each note waits for the disk some thirty times; so many entries are asked for again at the most."""
VERSION: Final = 1


@dataclass(slots=True)
class Progressed:
    """How far an export got, as it is remembered."""

    version: int
    note: str
    verifier_key: str
    log_size: int
    size: int = 0
    bytes: dict[str, int] = field(default_factory=dict)
    """Of the files that grow."""
    gone: list[str] = field(default_factory=list)
    announced: list[str] = field(default_factory=list)
    erasures: int | None = None
    """How many people had been erased when it began; None before the first page."""


class _Growing:
    """A file of lines, which is there if something was written into it."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._handle = opened(path, size) if size else None
        if not size:
            path.unlink(missing_ok=True)  # begun behind the last note

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if self._handle is None:
                self._handle = opened(self._path, 0)
            self._handle.write(line)

    def on_disk(self) -> int:
        return 0 if self._handle is None else on_disk(self._handle)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


class Writer:
    """Writes entries and tiles as they come."""

    def __init__(self, folder: Path, partial: Path, state: Progressed) -> None:
        self._folder = folder
        self._partial = partial
        self._files: dict[str, _Growing] = {}
        self._go_on(state)

    def _go_on(self, state: Progressed) -> None:
        self.checkpoint = Checkpoint(note=state.note, verifier_key=state.verifier_key, size=state.log_size)
        self.erasures = state.erasures
        self._builder = TileBuilder.resumed(state.size, self._read_tile)
        self._bundle: list[bytes] = []
        self._bundles = state.size // TILE_WIDTH
        self._noted = state.size
        self._unsafe: list[Path] = []
        """Files that may not be on disk yet."""
        self._gone = set(map(date.fromisoformat, state.gone))
        self._announced = set(map(date.fromisoformat, state.announced))
        try:
            for name in (ENTRIES, KEPT, OPENINGS):
                self._files[name] = _Growing(self._partial / name, state.bytes.get(name, 0))
        except BaseException:
            self.close()
            raise

    @classmethod
    def begin(cls, folder: Path, present: Checkpoint) -> Self:
        """Begin an export of a log that is now at `present`, or go on with one."""
        folder = folder.absolute()
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; export into a new folder")
        partial = partial_of(folder)
        partial.mkdir(parents=True, exist_ok=True)
        state = _remembered(partial)
        if state is None:
            if any(partial.iterdir()):
                raise OtherExport(f"{partial} is no export that could be gone on with")
            state = _at_beginning(present)
            remember(partial, state)
        elif _origin(state.note) != _origin(present.note):
            raise OtherExport(f"{partial} was begun with another log")
        if not state.size:
            _empty(partial)
        try:
            return cls(folder, partial, state)
        except (CryptoError, OSError, ValueError) as error:
            raise OtherExport(f"{partial} has lost something that was written to it") from error

    def begin_again(self, present: Checkpoint) -> None:
        """Forget all that is written: it may name somebody who has been erased."""
        self.close()
        state = _at_beginning(present)
        remember(self._partial, state)
        _empty(self._partial)
        self._go_on(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    @property
    def size(self) -> int:
        return self._builder.size

    @property
    def unannounced(self) -> bool:
        """Whether entries are gone of which nothing that is written says that they were pruned."""
        return not self._gone <= self._announced

    def add(self, page: Leaves) -> None:
        """Write the next leaves, none of them behind the end of the bundle that the first is in."""
        leaves, hashes = page.leaves, page.hashes
        self.erasures = page.erasures
        for index, leaf in enumerate(leaves, self.size):
            if (said := read_announcement(leaf, index)) is not None:
                self._announced.add(said.kept_to)
            elif not leaf:
                self._gone.update(run.kept_to for run in page.kept if run.first <= index <= run.last)
        self._files[ENTRIES].write(leaf + b"\n" for leaf in leaves)
        self._files[KEPT].write(run.model_dump_json().encode() + b"\n" for run in page.kept)
        self._files[OPENINGS].write(lines(page.openings))
        self._bundle.extend(leaves)
        for tile, content in self._builder.add(hashes):
            self._write(tile.path, content)
        if len(self._bundle) == TILE_WIDTH:
            self._write_bundle(self._bundle)
            self._bundle.clear()
            if self.size - self._noted >= ENTRIES_BETWEEN_NOTES:
                self._remember()

    def finish(self) -> None:
        """Write what is left, put all of it on disk, and give it its name."""
        # Not noted: if this is interrupted, it is done again from the last note.
        if self._bundle:
            self._write_bundle(self._bundle)
        for tile, content in self._builder.partial_tiles():
            self._write(tile.path, content)
        if not self.size:
            self._files[ENTRIES].write((b"",))  # a log of nothing has no lines, and the file of them
        self._all_on_disk()
        write_whole(self._partial / VERIFIER_KEY, f"{self.checkpoint.verifier_key}\n".encode())
        write_whole(self._partial / CHECKPOINT, self.checkpoint.note.encode())
        for folder, _, _ in os.walk(self._partial):
            sync_folder(Path(folder))
        self._partial.rename(self._folder)
        sync_folder(self._folder.parent)
        note_of(self._partial).unlink()

    def _write_bundle(self, entries: Sequence[bytes]) -> None:
        self._write(EntryBundle(self._bundles, len(entries)).path, encode_bundle(entries))
        self._bundles += 1

    def _write(self, path: str, content: bytes) -> None:
        file = self._partial / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with opened(file, 0) as handle:
            handle.write(content)
        self._unsafe.append(file)

    def _read_tile(self, tile: Tile) -> Sequence[bytes]:
        return decode_tile((self._partial / tile.path).read_bytes(), width=TILE_WIDTH)

    def _all_on_disk(self) -> dict[str, int]:
        for file in self._unsafe:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        self._unsafe.clear()
        return {name: growing.on_disk() for name, growing in self._files.items()}

    def _remember(self) -> None:
        sizes = self._all_on_disk()
        signed = self.checkpoint
        gone, announced = (sorted(day.isoformat() for day in days) for days in (self._gone, self._announced))
        state = Progressed(
            VERSION, signed.note, signed.verifier_key, signed.size, self.size, sizes, gone, announced, self.erasures
        )
        remember(self._partial, state)
        self._noted = self.size


def _at_beginning(present: Checkpoint) -> Progressed:
    return Progressed(VERSION, present.note, present.verifier_key, present.size)


def _empty(partial: Path) -> None:
    for each in partial.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _remembered(partial: Path) -> Progressed | None:
    state = remembered(partial, Progressed)
    if state is not None and state.version != VERSION:
        raise OtherExport(f"{note_of(partial)} is of another version than {VERSION}")
    return state


def _origin(note: str) -> str:
    return note.partition("\n")[0]
