"""A scope's whole log as a folder of static files, in a standard format (C2SP tlog-tiles).

    checkpoint                 the signed head: origin, size and root
    verifier-key               the key that the log says signed it; compare it with one that you have from elsewhere
    tile/<L>/<N>[.p/<W>]       the tree
    tile/entries/<N>[.p/<W>]   the entries, 256 in a file
    entries.ndjson             the same entries for people: line n (from 0) is entry n, the very bytes that are hashed
    kept.ndjson                which entries are not kept for ever (`wardmesh.audit_pruning`)
    openings.ndjson            what identifies people, and what proves that it was sealed (`wardmesh.audit_openings`)

An entry that was pruned is an empty line, and an entry of no bytes in its bundle; its hash is in the tree.
`wardmesh.audit_verify` checks such a folder; so can other people's tools.

What always holds: the hashes of the lowest tiles are those that the log's tree holds, not computed from the entries, so
an entry that was changed in the database differs from its tile and can be named. `checkpoint` is written last: a folder
without one is an export that did not finish. If entries are pruned while they are being read, the export goes on to
where the log says so. Nothing is believed that the server says; verifying does that.

On failure: `ExportIncomplete` if the log gives out fewer entries than its checkpoint says; what there was is in the
folder, with the checkpoint, so that verifying names the first entry that is missing. `FileExistsError` if the folder
has something in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, Protocol

from wardmesh.audit_openings import OPENINGS, lines
from wardmesh.audit_pruning import KEPT, read_announcement
from wardmesh.audit_verify import CHECKPOINT, ENTRIES, VERIFIER_KEY, Damage, Report, verify_export
from wardmesh.contracts.audit import MAX_LEAVES, Checkpoint, Leaves
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES, TILE_WIDTH, EntryBundle, encode_bundle

__all__ = [
    "Damage",
    "ExportIncomplete",
    "Exported",
    "LogReader",
    "Progress",
    "Report",
    "export_log",
    "verify_export",
]


class LogReader(Protocol):
    """What an export reads: two operations of the audit service, as `mesh.audit` has them."""

    async def checkpoint(self) -> Checkpoint:
        """Return the signed head."""

    async def leaves(self, *, start: int, limit: int) -> Leaves:
        """Return leaves from `start` on, at most `limit`, and the tree's hashes for them."""


Progress = Callable[[int, int], None]
"""Called with how many entries are written, and how many there are."""


class ExportIncomplete(Exception):
    """The log gave out fewer entries than its checkpoint says, or none that an export could hold."""

    def __init__(self, folder: Path, written: int, size: int) -> None:
        super().__init__(f"{folder}: the log ends at entry {written}, and its checkpoint says that it has {size}")
        self.folder = folder
        self.written = written
        self.size = size


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export."""

    folder: Path
    size: int
    verifier_key: str


def _nobody(_written: int, _size: int) -> None:
    pass


async def export_log(log: LogReader, folder: Path, progress: Progress = _nobody) -> Exported:
    """Write the log's entries, its tree and its present checkpoint into `folder`, which must be new or empty."""
    await asyncio.to_thread(_make_empty, folder)
    checkpoint = await log.checkpoint()
    with await asyncio.to_thread(_Writer, folder) as writer:
        whole = await _copy(log, writer, checkpoint.size, progress)
        while whole and writer.unannounced:
            newer = await log.checkpoint()
            if newer.size <= checkpoint.size:
                break  # nothing says so: verifying names what is missing
            checkpoint = newer
            whole = await _copy(log, writer, checkpoint.size, progress)
        await asyncio.to_thread(writer.finish, checkpoint)
    if writer.size < checkpoint.size:
        raise ExportIncomplete(folder, writer.size, checkpoint.size)
    return Exported(folder, checkpoint.size, checkpoint.verifier_key)


async def _copy(log: LogReader, writer: _Writer, size: int, progress: Progress) -> bool:
    """Write entries up to `size`; tell whether the log gave out all of them."""
    while writer.size < size:
        limit = min(MAX_LEAVES, size - writer.size)
        page = await log.leaves(start=writer.size, limit=limit)
        if not 0 < len(page.leaves) <= limit or not all(map(_fits, page.leaves)):
            return False
        if len(page.hashes) != len(page.leaves) or any(len(value) != HASH_BYTES for value in page.hashes):
            raise MalformedEncoding("the log's answer has not one hash a leaf")
        await asyncio.to_thread(writer.add, page)
        progress(writer.size, size)
    return True


def _fits(leaf: bytes) -> bool:
    """Tell whether a leaf can be one line and one entry of a bundle; every leaf that the log makes can."""
    return len(leaf) <= MAX_ENTRY_BYTES and b"\n" not in leaf


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; export into a new folder")


class _Writer:
    """Writes entries and tiles as they come; memory holds one bundle and the tree's right edge."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._builder = TileBuilder()
        self._bundle: list[bytes] = []
        self._bundles = 0
        self._lines: IO[bytes] = (folder / ENTRIES).open("xb")
        self._kept: IO[bytes] | None = None
        self._openings: IO[bytes] | None = None
        self._gone: set[date] = set()
        self._announced: set[date] = set()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        for file in (self._kept, self._openings):
            if file is not None:
                file.close()

    @property
    def size(self) -> int:
        return self._builder.size

    @property
    def unannounced(self) -> bool:
        """Whether entries are gone of which nothing that is written says that they were pruned."""
        return not self._gone <= self._announced

    def add(self, page: Leaves) -> None:
        leaves, hashes = page.leaves, page.hashes
        for index, leaf in enumerate(leaves, self.size):
            if (said := read_announcement(leaf, index)) is not None:
                self._announced.add(said.kept_to)
            elif not leaf:
                self._gone.update(run.kept_to for run in page.kept if run.first <= index <= run.last)
        if page.kept and self._kept is None:
            self._kept = (self._folder / KEPT).open("xb")
        if self._kept is not None:
            self._kept.writelines(run.model_dump_json().encode() + b"\n" for run in page.kept)
        if page.openings and self._openings is None:
            self._openings = (self._folder / OPENINGS).open("xb")
        if self._openings is not None:
            self._openings.writelines(lines(page.openings))
        self._lines.writelines(leaf + b"\n" for leaf in leaves)
        self._bundle.extend(leaves)
        while len(self._bundle) >= TILE_WIDTH:
            self._write_bundle(self._bundle[:TILE_WIDTH])
            del self._bundle[:TILE_WIDTH]
        for tile, content in self._builder.add(hashes):
            self._write(tile.path, content)

    def finish(self, checkpoint: Checkpoint) -> None:
        if self._bundle:
            self._write_bundle(self._bundle)
        for tile, content in self._builder.partial_tiles():
            self._write(tile.path, content)
        self._lines.flush()
        for file in (self._kept, self._openings):
            if file is not None:
                file.flush()
        self._write(VERIFIER_KEY, f"{checkpoint.verifier_key}\n".encode())
        self._write(CHECKPOINT, checkpoint.note.encode())

    def _write_bundle(self, entries: Sequence[bytes]) -> None:
        self._write(EntryBundle(self._bundles, len(entries)).path, encode_bundle(entries))
        self._bundles += 1

    def _write(self, path: str, content: bytes) -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as handle:
            handle.write(content)
