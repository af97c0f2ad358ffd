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
an entry that was changed in the database differs from its tile and can be named. The files grow in a folder beside
(`FOLDER.partial`), and have their name only when they are whole and on disk. An export that was interrupted goes on
when it is called again, with the checkpoint that it began with, and ends in the same bytes. If entries are pruned while
they are being read, it goes on to where the log says so; if somebody is erased, it begins again, because what it has
may name that person. Nothing is believed that the server says; verifying does that.

On failure: `ExportIncomplete` if the log gives out fewer entries than its checkpoint says; what there was is in the
folder, with the checkpoint, so that verifying names the first entry that is missing. `FileExistsError` if the folder
has something in it, `OtherExport` if what was begun in its place is another log's, or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wardmesh.audit_export_files import Writer
from wardmesh.audit_resuming import OtherExport
from wardmesh.audit_verify import Damage, Report, verify_export
from wardmesh.contracts.audit import MAX_LEAVES, Checkpoint, Leaves
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES, TILE_WIDTH

__all__ = [
    "Damage",
    "ExportIncomplete",
    "Exported",
    "LogReader",
    "OtherExport",
    "Progress",
    "Report",
    "export_log",
    "verify_export",
]


class LogReader(Protocol):
    """What an export reads: two operations of the audit service, as `mesh.audit` has them."""

    async def checkpoint(self) -> Checkpoint:
        """Return the signed head."""

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
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
    """Write the log's entries, its tree and its checkpoint into `folder`, new or empty; go on if that was begun."""
    present = await log.checkpoint()
    writer = await asyncio.to_thread(Writer.begin, folder, present)
    with writer:
        whole = await _copy(log, writer, progress)
        while whole and writer.unannounced:
            newer = await log.checkpoint()
            if newer.size <= writer.checkpoint.size:
                break  # nothing says so: verifying names what is missing
            writer.checkpoint = newer
            whole = await _copy(log, writer, progress)
        await asyncio.to_thread(writer.finish)
    checkpoint = writer.checkpoint
    if writer.size < checkpoint.size:
        raise ExportIncomplete(folder, writer.size, checkpoint.size)
    return Exported(folder, checkpoint.size, checkpoint.verifier_key)


async def _copy(log: LogReader, writer: Writer, progress: Progress) -> bool:
    """Write entries up to the checkpoint's size; tell whether the log gave out all of them."""
    while writer.size < (size := writer.checkpoint.size):
        # Never over the end of a bundle: it is where an export can go on.
        limit = min(MAX_LEAVES, size - writer.size, TILE_WIDTH - writer.size % TILE_WIDTH)
        page = await log.leaves_page(start=writer.size, limit=limit)
        if writer.erasures not in (None, page.erasures):
            await asyncio.to_thread(writer.begin_again, await log.checkpoint())
            continue
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
