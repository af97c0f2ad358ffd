"""Checks an exported part of a log, with no server and no credential: `verify_selection(folder)`.

What always holds: a selection is reported as sound only if the trusted key signed its checkpoint, and whoever else was
asked for, every line follows from the bytes of an entry, and every entry has its place in the signed tree. The folder
is somebody else's: no symbolic link is followed, nothing but regular files is opened, nothing is read beyond what it
may have, memory does not grow.

On failure: a `SelectionReport` with its `damage`, which names the first entry concerned where the proof can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from wardmesh import audit_parquet
from wardmesh.audit_files import FileRefused, Folder
from wardmesh.audit_openings import NotOpened, check_openings
from wardmesh.audit_rows import FORMATS, Format, Row, Rows
from wardmesh.audit_selection import MANIFEST, PROOF, VERSION
from wardmesh.audit_verify import CHECKPOINT, MAX_KEY_BYTES, VERIFIER_KEY, Damage, Report
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.merkle import HASH_BYTES, leaf_hash
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import MAX_NOTE_BYTES, VerifierKey
from wardmesh.crypto.selection import SelectedTree
from wardmesh.crypto.tlog_policy import Policy

MAX_MANIFEST_BYTES: Final = 64 * 1024
MAX_ROW_BYTES: Final = 1024 * 1024
"""An entry of 64 KiB in a cell of its own, escaped, and everything that is made of it."""


def is_selection(folder: Path) -> bool:
    """Tell whether a folder is a part of a log, and not the whole."""
    return (folder / MANIFEST).is_file()


@dataclass(slots=True)
class SelectionReport(Report):
    """What was checked of a part of a log."""

    def lines(self) -> Iterator[str]:
        yield from self.signed_lines()
        if self.is_sound:
            yield f"checked    {self.entries_checked} entries, their lines, and their proof to the root"
            if self.opened or self.withheld:
                yield f"people     {self.opened} fields are what was sealed, {self.withheld} are withheld"
            whole = self.entries_checked == self.size
            yield (
                "sound      nothing was changed, dropped, inserted or reordered"
                if whole
                else "sound      each entry is in the log, in its place, unchanged; not shown is what else matched"
            )
        else:
            yield f"checked    {self.entries_checked} entries before the end"
            yield f"DAMAGED    {self.damage.what if self.damage else ''}"


_END: Final = (None, False)


class _Damaged(Exception):
    def __init__(self, what: str, path: str, entry: int | None = None) -> None:
        super().__init__(what)
        self.damage = Damage(what, path, entry)


def verify_selection(
    folder: Path, verifier_key: str | None = None, *, mldsa_key: str | None = None, policy: Policy | None = None
) -> SelectionReport:
    """Check the selection in `folder` against the log's `verifier_key`; without one, against the one beside it.

    With `mldsa_key`, that ML-DSA-44 key MUST have signed it too; with `policy`, its quorum of witnesses.
    """
    report = SelectionReport(str(folder), key_is_pinned=verifier_key is not None)
    pinned = None if verifier_key is None else VerifierKey.parse(verifier_key)
    also = None if mldsa_key is None else MldsaKey.parse(mldsa_key)
    try:
        _check(Folder(folder), pinned, also, policy, report)
    except _Damaged as damaged:
        report.damage = damaged.damage
    except FileRefused as refused:
        report.damage = Damage(refused.what, refused.path)
    return report


def _check(
    folder: Folder, pinned: VerifierKey | None, also: MldsaKey | None, policy: Policy | None, report: SelectionReport
) -> None:
    try:
        key = pinned or VerifierKey.parse(_read(folder, VERIFIER_KEY, MAX_KEY_BYTES).decode("ascii", "replace").strip())
        checkpoint = report.open(_read(folder, CHECKPOINT, MAX_NOTE_BYTES), key, also, policy)
    except CryptoError as error:
        raise _Damaged(f"{CHECKPOINT}: {error}", CHECKPOINT) from error
    kind = _format_of(_read(folder, MANIFEST, MAX_MANIFEST_BYTES))
    rows = FORMATS[kind]
    with ExitStack() as files:
        proof = files.enter_context(_open(folder, PROOF))
        lines = files.enter_context(_open(folder, rows.file))

        def next_hash() -> bytes:
            value = proof.read(HASH_BYTES)
            if len(value) != HASH_BYTES:
                raise _Damaged(f"{PROOF} ends too early", PROOF)
            return value

        tree = SelectedTree(checkpoint.size, next_hash)
        found = audit_parquet.read(lines) if kind is Format.PARQUET else _rows_of(rows, lines)
        while True:
            number = report.entries_checked
            try:
                row, follows = next(found, _END)
                if row is None:
                    break
                expected = tree.leaf(row.index)
            except (ValueError, RecursionError, CryptoError) as error:
                raise _Damaged(f"{rows.file}: its entry number {number} cannot be read", rows.file) from error
            if leaf_hash(row.leaf) != expected:
                raise _Damaged(f"entry {row.index} is not what was sealed", rows.file, row.index)
            try:
                withheld = check_openings(row.leaf, row.openings)
            except NotOpened as error:
                raise _Damaged(f"entry {row.index}: {error}", rows.file, row.index) from error
            if not follows:
                raise _Damaged(
                    f"{rows.file}: the line of entry {row.index} says something else than it", rows.file, row.index
                )
            report.entries_checked += 1
            report.opened, report.withheld = report.opened + len(row.openings), report.withheld + withheld
        if tree.root() != checkpoint.root:
            raise _Damaged(f"{PROOF} does not lead to the signed root", PROOF)
        if proof.read(1):
            raise _Damaged(f"{PROOF} goes on behind its end", PROOF)


def _rows_of(rows: Rows, lines: IO[bytes]) -> Iterator[tuple[Row, bool]]:
    """Yield what each line says, and whether all of the line follows from the entry."""
    if lines.read(len(rows.head)) != rows.head:
        raise _Damaged(f"{rows.file} does not begin as it must", rows.file)
    while line := lines.readline(MAX_ROW_BYTES):
        row = rows.decode(line)
        yield row, rows.encode(row) == line


def _format_of(manifest: bytes) -> Format:
    try:
        document = json.loads(manifest)
        version, kind = document["version"], Format(document["format"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"{MANIFEST} is none that can be read", MANIFEST) from error
    if version != VERSION:
        raise _Damaged(f"{MANIFEST} is of another version than {VERSION}", MANIFEST)
    return kind


def _read(folder: Folder, name: str, max_bytes: int) -> bytes:
    content = folder.read(name, max_bytes)
    if content is None:
        raise _Damaged(f"{name} is missing", name)
    return content


def _open(folder: Folder, name: str) -> IO[bytes]:
    handle = folder.open(name)
    if handle is None:
        raise _Damaged(f"{name} is missing", name)
    return handle
