"""A part of a log as a folder of files, each entry of which can be verified offline: what matches a filter, in order.

    selection.ndjson           one entry a line; or selection.csv, selection.ocsf.ndjson, selection.parquet
    proof                      hashes of the log's tree, 32 bytes each, from left to right (`wardmesh.crypto.selection`)
    checkpoint, verifier-key   the signed head that the proof leads to, and the key that the log says signed it
    export.json                which format and filter these are

`wardmesh.audit_selection_verify` checks such a folder. It shows that each entry is in the signed log, in its place and
as it was sealed; not that nothing else matched: only the whole log shows that (`audit_export`).

What always holds: the files grow in a folder beside (`FOLDER.partial`) and have their name only when they are whole. A
page is on disk before the note of how far it got is; an export that was interrupted goes on from there (call it again),
with the checkpoint that it began with, and ends in the same bytes. If somebody was erased meanwhile, it begins again,
because what it has may name that person. Memory holds one page. A Parquet file cannot grow line by line: it is made of
lines beside, when all of them are there, and made anew if that was interrupted.

On failure: `FileExistsError` if the folder is there already, `OtherExport` if what was begun in its place is another
export, `UnreadableEntry` if the log gives out what is no entry, `ParquetUnavailable` (`audit_parquet`) without pyarrow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Protocol, Self

from wardmesh import audit_parquet
from wardmesh.audit_resuming import OtherExport, note_of, on_disk, opened, partial_of, remember, remembered, write_whole
from wardmesh.audit_rows import FORMATS, Format, Row
from wardmesh.audit_verify import CHECKPOINT, VERIFIER_KEY
from wardmesh.contracts.audit import MAX_NODES, Checkpoint, Filter, Nodes, SelectedLeaves
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import HASH_BYTES, Node
from wardmesh.crypto.selection import nodes_to, perfect_subtrees

__all__ = ["OtherExport", "Progress", "Selected", "SelectionReader", "UnreadableEntry", "export_selection"]

PROOF: Final = "proof"
MANIFEST: Final = "export.json"
VERSION: Final = 2
"""The first one had no openings."""


class SelectionReader(Protocol):
    """What an export of a part reads: three operations of the audit service, as `mesh.audit` has them."""

    async def checkpoint(self) -> Checkpoint: ...
    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves: ...  # noqa: A002
    async def nodes(self, *, size: int, nodes: tuple[Node, ...]) -> Nodes: ...


Progress = Callable[[int, int], None]
"""Called with how far the log has been gone through, and how long it is."""


class UnreadableEntry(Exception):
    """The log gave out something that is no entry."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} of the log cannot be read")
        self.index = index


@dataclass(frozen=True, slots=True)
class Selected:
    """A finished export."""

    folder: Path
    entries: int
    size: int
    verifier_key: str


def _nobody(_done: int, _size: int) -> None:
    pass


async def export_selection(
    log: SelectionReader, folder: Path, kind: Format, wanted: Filter, progress: Progress = _nobody
) -> Selected:
    """Write what matches, up to the log's present checkpoint, into `folder`; go on if that was begun before."""
    if kind is Format.PARQUET:
        audit_parquet.require()
    asked = {"version": VERSION, "format": kind.value, "filter": wanted.model_dump(mode="json", exclude_none=True)}
    writer = await asyncio.to_thread(_Writer.begin, folder, kind, asked)
    with writer:
        if writer.state is None:
            signed = await log.checkpoint()
            await asyncio.to_thread(writer.start, signed)
        state = writer.known
        while state.next_start < state.size:
            page = await log.select(filter=wanted, start=state.next_start, end=state.size)
            if state.erasures is not None and page.erasures != state.erasures:
                await asyncio.to_thread(writer.begin_again, await log.checkpoint())
                state = writer.known
                continue
            state.erasures = page.erasures
            if page.next_start <= state.next_start or len(page.indexes) != len(page.leaves):
                raise MalformedEncoding("the log's answer goes no further")
            nodes: list[Node] = []
            covered = state.covered
            for index in page.indexes:
                nodes += nodes_to(covered, index)
                covered = index + 1
            hashes = await _read(log, state.size, nodes)
            openings = {each.index: each for each in page.openings}
            if damaged := [index for index, each in openings.items() if each.unopenable]:
                raise UnreadableEntry(min(damaged))
            rows = [
                Row(index, leaf, openings[index].openings if index in openings else ())
                for index, leaf in zip(page.indexes, page.leaves, strict=True)
            ]
            await asyncio.to_thread(writer.add, rows, hashes, covered, page.next_start)
            progress(state.next_start, state.size)
        rest = await _read(log, state.size, list(perfect_subtrees(state.covered, state.size)))
        await asyncio.to_thread(writer.finish, rest)
    return Selected(folder, state.entries, state.size, state.verifier_key)


async def _read(log: SelectionReader, size: int, nodes: Sequence[Node]) -> bytes:
    found: list[bytes] = []
    for start in range(0, len(nodes), MAX_NODES):
        part = tuple(nodes[start : start + MAX_NODES])
        hashes = (await log.nodes(size=size, nodes=part)).hashes
        if len(hashes) != len(part) or any(len(value) != HASH_BYTES for value in hashes):
            raise MalformedEncoding("the log's answer has not one hash a node")
        found += hashes
    return b"".join(found)


@dataclass(slots=True)
class _State:
    """How far an export got, as it is remembered."""

    asked: dict[str, Any]
    note: str
    verifier_key: str
    size: int
    next_start: int = 0
    covered: int = 0
    """So many leaves of the tree the proof has dealt with."""
    entries: int = 0
    data_bytes: int = 0
    proof_bytes: int = 0
    erasures: int | None = None
    """How many people had been erased when it began; None before the first page."""


@dataclass(slots=True)
class _Writer:
    """The files of an export on their way."""

    folder: Path
    partial: Path
    kind: Format
    asked: dict[str, Any]
    state: _State | None = None
    _data: IO[bytes] = field(init=False)
    _proof: IO[bytes] = field(init=False)

    @classmethod
    def begin(cls, folder: Path, kind: Format, asked: dict[str, Any]) -> Self:
        folder = folder.absolute()
        if folder.exists():
            raise FileExistsError(f"{folder} is there already; export into a new folder")
        partial = partial_of(folder)
        partial.mkdir(parents=True, exist_ok=True)
        writer = cls(folder, partial, kind, asked)
        writer.state = writer._remembered()
        state = writer.state
        writer._data = opened(writer._lines, 0 if state is None else state.data_bytes)
        writer._proof = opened(partial / PROOF, 0 if state is None else state.proof_bytes)
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._proof.close()

    @property
    def known(self) -> _State:
        if self.state is None:
            raise RuntimeError("the export has not been started")
        return self.state

    def start(self, signed: Checkpoint) -> None:
        self.state = _State(self.asked, signed.note, signed.verifier_key, signed.size)
        self._data.write(FORMATS[self.kind].head)
        self._remember()

    def begin_again(self, signed: Checkpoint) -> None:
        for file in (self._data, self._proof):
            file.seek(0)
            file.truncate()
        self.start(signed)

    def add(self, rows: Sequence[Row], hashes: bytes, covered: int, next_start: int) -> None:
        encode = FORMATS[self.kind].encode
        for row in rows:
            try:
                self._data.write(encode(row))
            except ValueError as error:
                raise UnreadableEntry(row.index) from error
        self._proof.write(hashes)
        state = self.known
        state.entries += len(rows)
        state.covered, state.next_start = covered, next_start
        self._remember()

    def finish(self, hashes: bytes) -> None:
        state = self.known
        # Not remembered: if this is interrupted, these hashes are asked for again.
        self._proof.write(hashes)
        on_disk(self._proof)
        if self.kind is Format.PARQUET:
            self._data.seek(0)
            audit_parquet.write(map(FORMATS[self.kind].decode, self._data), self.partial / FORMATS[self.kind].file)
        summary = {**self.asked, "file": FORMATS[self.kind].file, "size": state.size, "entries": state.entries}
        write_whole(self.partial / VERIFIER_KEY, f"{state.verifier_key}\n".encode())
        write_whole(self.partial / CHECKPOINT, state.note.encode())
        write_whole(self.partial / MANIFEST, json.dumps(summary, indent=2, sort_keys=True).encode() + b"\n")
        self.partial.rename(self.folder)
        note_of(self.partial).unlink()
        if self.kind is Format.PARQUET:
            self._lines.unlink()

    def _remember(self) -> None:
        """Put what was written on disk, and then the note of how far that is."""
        state = self.known
        state.data_bytes, state.proof_bytes = on_disk(self._data), on_disk(self._proof)
        remember(self.partial, state)

    def _remembered(self) -> _State | None:
        state = remembered(self.partial, _State)
        if state is None:
            # Interrupted before the first note, or never begun.
            if {file.name for file in self.partial.iterdir()} <= {FORMATS[self.kind].file, PROOF}:
                return None
            raise OtherExport(f"{self.partial} is no export that could be gone on with")
        if state.asked != self.asked:
            raise OtherExport(f"{self.partial} was begun with another format or filter")
        return state

    @property
    def _lines(self) -> Path:
        """Where lines grow; those that a Parquet file is made of are not a part of the export."""
        if self.kind is Format.PARQUET:
            return self.partial.with_name(f"{self.partial.name}.ndjson")
        return self.partial / FORMATS[self.kind].file
