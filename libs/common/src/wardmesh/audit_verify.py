"""Checks an exported log, with no server and no credential: `verify_export(folder)`, or `verify_files` for any place.

It recomputes the hash of every entry, every tile and the root, checks the checkpoint's signature, compares the readable
copy (`entries.ndjson`) byte for byte where there is one, checks that the log was at every earlier size what a
checkpoint says that somebody kept, and says what it checked. On damage it names the first entry or tile concerned.
An entry that was pruned is one whose end the log itself announced; any other that is missing is damage. Where the files
are a log that goes on (a gateway's), what was pruned while it was read is announced behind the checkpoint that was
read: it is then read again, with the newer one, which must extend the first.

What always holds: an export is reported as sound only if the trusted key signed its checkpoint and everything that the
signed size requires is there and is what was signed. Whoever serves the files is not believed in anything, and memory
does not grow with the log. Paths are computed from the signed size, never taken from the export.

On failure: a `Report` with its `damage`; nothing is raised for what an export contains. `OSError` for a disk that
cannot be read, `InvalidKey` if the caller's own key is not one, `UnusableCheckpoint` for a checkpoint that the caller
kept and that is not this log's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, TypeAlias

from wardmesh.audit_files import FileRefused, Files, Folder
from wardmesh.audit_openings import OPENINGS, OpeningsCheck
from wardmesh.audit_pruning import KEPT, MAX_LINE_BYTES, KeptCheck
from wardmesh.audit_witnesses import check_witnesses, witness_lines
from wardmesh.crypto.checkpoint import Checkpoint, open_checkpoint
from wardmesh.crypto.encoding import base64_encode
from wardmesh.crypto.errors import CryptoError, InconsistentLog, MalformedEncoding
from wardmesh.crypto.log_verify import verify_bundles
from wardmesh.crypto.merkle import HASH_BYTES
from wardmesh.crypto.mldsa import MldsaKey, check_signed
from wardmesh.crypto.note import MAX_NOTE_BYTES, VerifierKey
from wardmesh.crypto.tiles import (
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    EntryBundle,
    Tile,
    bundles_of,
    decode_bundle,
    decode_tile,
)
from wardmesh.crypto.tlog_policy import Policy, Witnessed

CHECKPOINT: Final = "checkpoint"
VERIFIER_KEY: Final = "verifier-key"
ENTRIES: Final = "entries.ndjson"

MAX_KEY_BYTES: Final = 4096
MAX_PASSES: Final = 3
"""Over a log that is pruned while it is read; a month ends once a month, and is pruned within minutes."""
EARLIER: Final = "the checkpoint that was read first"
SHOWN_ANNOUNCEMENTS: Final = 12
MAX_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_KEPT_BYTES: Final = 4 * 1024**3
"""Some seventy million runs. It lies on a disk, and the size that was signed is a stranger's word if the key is."""
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)


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

    place: str
    key_is_pinned: bool
    """Whether the caller named the key. If not, the export's own was used, which proves nothing about its origin."""
    verifier_key: str | None = None
    origin: str | None = None
    size: int = 0
    root: bytes = b""
    signature_checked: bool = False
    mldsa_checked: bool = False
    """Whether an ML-DSA-44 key that the caller named has signed it too."""
    witnessed: Witnessed | None = None
    """Who has cosigned it, if the caller named witnesses."""
    entries_checked: int = 0
    tiles_checked: int = 0
    lines_checked: int = 0
    pruned: int = 0
    """Entries that are gone, as the log says; their hashes were checked."""
    announced_by: tuple[int, ...] = ()
    """The entries that say so."""
    opened: int = 0
    """Fields about people that the export says, and that are what was sealed."""
    withheld: int = 0
    """Fields about people that the entries commit to, and that the export does not say: some were erased."""
    checkpoints_checked: tuple[str, ...] = ()
    """The names of the checkpoints that were kept, and that this log extends."""
    damage: Damage | None = None

    @property
    def is_sound(self) -> bool:
        return self.damage is None

    def open(self, note: bytes, key: VerifierKey, also: MldsaKey | None, policy: Policy | None) -> Checkpoint:
        """Return the checkpoint of `note`, and note it here, only if all who are asked for have signed it.

        These are the log's `key`, its ML-DSA-44 key if one is named, and the policy's quorum; else `CryptoError`.
        """
        checkpoint = open_checkpoint(note, key)
        if also is not None:
            check_signed(note, checkpoint, also)
        witnessed = None if policy is None else check_witnesses(note, checkpoint, key, policy)
        self.mldsa_checked, self.witnessed = also is not None, witnessed
        self.verifier_key, self.signature_checked = str(key), True
        self.origin, self.size, self.root = checkpoint.origin, checkpoint.size, checkpoint.root
        return checkpoint

    def signed_lines(self) -> Iterator[str]:
        """Yield, for people, what was signed, and by whom; nothing where that could not be shown."""
        if not self.signature_checked:
            return
        yield f"log        {self.origin}"
        yield f"checkpoint {self.size} entries, root {base64_encode(self.root)}, signature good"
        yield f"key        {self.verifier_key}"
        if self.mldsa_checked:
            yield "           and the ML-DSA-44 key has signed it too"
        if self.witnessed is not None:
            yield from witness_lines(self.witnessed)
        if not self.key_is_pinned:
            yield "           this key came with the export: compare it with one that you have from elsewhere"

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield from self.signed_lines()
        if self.is_sound:
            copy = f", {self.lines_checked} lines of {ENTRIES}" if self.lines_checked == self.size else ""
            yield f"checked    {self.entries_checked} entries, {self.tiles_checked} tiles, the root{copy}"
            if self.pruned:
                yield f"pruned     {self.pruned} of them, as the log says in {_entries_named(self.announced_by)}"
            if self.opened or self.withheld:
                yield f"people     {self.opened} fields are what was sealed, {self.withheld} are withheld"
            for name in self.checkpoints_checked:
                yield f"extends    {name}"
            yield "sound      nothing was changed, dropped, inserted or reordered"
        else:
            yield f"checked    {self.entries_checked} entries before the end"
            yield f"DAMAGED    {self.damage.what if self.damage else ''}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _entries_named(indexes: Sequence[int]) -> str:
    shown = ", ".join(map(str, indexes[:SHOWN_ANNOUNCEMENTS]))
    more = len(indexes) - SHOWN_ANNOUNCEMENTS
    return f"{'entry' if len(indexes) == 1 else 'entries'} {shown}" + (f" and {more} more" if more > 0 else "")


Progress: TypeAlias = Callable[[int, int], None]
"""Called now and then with how many entries are checked, and how many there are."""


class UnusableCheckpoint(Exception):
    """A checkpoint that was kept is not signed by the key, or not this log's."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


def _nobody(_checked: int, _size: int) -> None:
    pass


def verify_export(
    folder: Path,
    verifier_key: str | None = None,
    *,
    mldsa_key: str | None = None,
    policy: Policy | None = None,
    kept: Mapping[str, bytes] = MappingProxyType({}),
    progress: Progress = _nobody,
) -> Report:
    """Check the export in `folder` against the log's `verifier_key`; without one, against the key that it came with.

    With `mldsa_key`, that ML-DSA-44 key MUST have signed it too; with `policy`, its quorum of witnesses. `kept` are
    signed checkpoints of the log that somebody has from earlier, by a name that the report may call them.
    """
    return verify_files(
        Folder(folder), str(folder), verifier_key, mldsa_key=mldsa_key, policy=policy, kept=kept, progress=progress
    )


def verify_files(
    files: Files,
    place: str,
    verifier_key: str | None = None,
    *,
    mldsa_key: str | None = None,
    policy: Policy | None = None,
    kept: Mapping[str, bytes] = MappingProxyType({}),
    progress: Progress = _nobody,
) -> Report:
    """As `verify_export`, wherever the files are; only a folder has to have the readable copy."""
    pinned = None if verifier_key is None else VerifierKey.parse(verifier_key)
    also = None if mldsa_key is None else MldsaKey.parse(mldsa_key)
    passes = 0
    while True:
        passes += 1
        report = Report(place, key_is_pinned=verifier_key is not None)
        export = _Export(files, report, kept, progress, also, policy, needs_lines=isinstance(files, Folder))
        try:
            export.check(pinned)
            again = export.unannounced and passes < MAX_PASSES and export.is_outgrown()
        except FileRefused as refused:
            report.damage, again = Damage(refused.what, refused.path), False
        except _Damaged as damaged:
            report.damage, again = damaged.damage, False
        except InconsistentLog as error:
            # Where the entries could not even be read, that is what to say.
            report.damage, again = export.unreadable or Damage(str(error), error.tile, error.first), False
        if not again:
            return report
        kept = {**kept, EARLIER: export.note}


class _Damaged(Exception):
    def __init__(self, what: str, path: str | None = None, entry: int | None = None) -> None:
        super().__init__(what)
        self.damage = Damage(what, path, entry)


@dataclass(slots=True)
class _Export:
    """One pass over the entries, with the readable copy beside them."""

    files: Files
    report: Report
    kept: Mapping[str, bytes]
    progress: Progress
    also: MldsaKey | None
    policy: Policy | None
    needs_lines: bool
    unreadable: Damage | None = None
    """Why the entries ended before their signed number."""
    note: bytes = b""
    """The checkpoint, once it is read."""
    unannounced: bool = False
    """Whether entries are missing of which the log does not say, up to here, that they were pruned."""
    _line_damage: Damage | None = field(default=None, init=False)

    def check(self, pinned: VerifierKey | None) -> None:
        report = self.report
        note = self.files.read(CHECKPOINT, MAX_NOTE_BYTES)
        if note is None:
            raise _Damaged(f"{CHECKPOINT} is missing: the export did not finish", CHECKPOINT)
        self.note = note
        key = pinned or self._own_key()
        try:
            checkpoint = report.open(note, key, self.also, self.policy)
        except CryptoError as error:
            raise _Damaged(f"{CHECKPOINT}: {error}", CHECKPOINT) from error
        kept = self._kept(key)
        for name, old in kept.items():
            if old.size > checkpoint.size:
                raise _Damaged(
                    f"the log ends before entry {old.size - 1}, which {name} was signed with",
                    CHECKPOINT,
                    checkpoint.size,
                )

        lines = self.files.open(ENTRIES)
        if lines is None and self.needs_lines:
            raise _Damaged(f"{ENTRIES} is missing", ENTRIES)
        runs = self.files.take(KEPT, checkpoint.size, min(checkpoint.size * MAX_LINE_BYTES, MAX_KEPT_BYTES))
        openings = self.files.open(OPENINGS)
        with lines or BytesIO(), runs or BytesIO(), openings or BytesIO():
            keeping, opening = KeptCheck(runs), OpeningsCheck(openings)
            bundles = self._bundles(checkpoint, lines, keeping, opening)
            verified = verify_bundles(bundles, checkpoint, stored=self._tile, kept=tuple(kept.values()))
            report.tiles_checked, report.checkpoints_checked = verified.tiles, tuple(kept)
            if lines is not None and self._line_damage is None and lines.read(1):
                self._line_damage = Damage(f"{ENTRIES} goes on after the last entry", ENTRIES, checkpoint.size)
            report.announced_by = keeping.end(checkpoint.size)
            opening.end(checkpoint.size)
        self.unannounced = keeping.unannounced
        report.pruned = keeping.pruned
        report.damage = self._line_damage
        report.opened, report.withheld = opening.opened, opening.withheld
        for damaged in (keeping.damaged, opening.damaged):
            if report.damage is None and damaged is not None:
                what, entry = damaged
                report.damage = Damage(what, entry=entry)

    def is_outgrown(self) -> bool:
        """Tell whether the log has grown since: then it may say by now what was missing."""
        note = self.files.read(CHECKPOINT, MAX_NOTE_BYTES)
        try:
            newer = open_checkpoint(note or b"", self.report.verifier_key or "")
        except CryptoError:
            return False
        return newer.size > self.report.size

    def _own_key(self) -> VerifierKey:
        text = self.files.read(VERIFIER_KEY, MAX_KEY_BYTES)
        if text is None:
            raise _Damaged(f"{VERIFIER_KEY} is missing: name the log's key", VERIFIER_KEY)
        try:
            return VerifierKey.parse(text.decode("ascii", errors="replace").removesuffix("\n"))
        except CryptoError as error:
            raise _Damaged(f"{VERIFIER_KEY}: {error}", VERIFIER_KEY) from error

    def _kept(self, key: VerifierKey) -> Mapping[str, Checkpoint]:
        opened: dict[str, Checkpoint] = {}
        for name, note in self.kept.items():
            try:
                opened[name] = open_checkpoint(note, key)
            except CryptoError as error:
                raise UnusableCheckpoint(name, str(error)) from error
        return opened

    def _tile(self, tile: Tile) -> bytes | None:
        return self.files.read(tile.path, MAX_TILE_BYTES)

    def _leaf_hashes(self, bundle: EntryBundle, size: int) -> Sequence[bytes]:
        """Return what the stored tree has for the entries of a bundle, or nothing; the root decides about it."""
        tile = Tile.at(0, bundle.index, size)
        try:
            return decode_tile(self._tile(tile) or b"", width=tile.width)[: bundle.width]
        except MalformedEncoding:
            return ()

    def _bundles(
        self, checkpoint: Checkpoint, lines: IO[bytes] | None, keeping: KeptCheck, opening: OpeningsCheck
    ) -> Iterator[Sequence[bytes]]:
        for signed in bundles_of(checkpoint.size):
            bundle, content = self._stored_bundle(signed)
            if content is None:
                return
            first = bundle.index * TILE_WIDTH
            try:
                entries = decode_bundle(content, width=bundle.width)
            except MalformedEncoding as error:
                self.unreadable = Damage(f"{bundle.path} (from entry {first}): {error}", bundle.path, first)
                return
            if lines is not None and self._line_damage is None:
                self._compare(first, entries, lines)
            opening.bundle(first, entries)
            self.report.entries_checked += len(entries)
            self.progress(self.report.entries_checked, checkpoint.size)
            yield keeping.bundle(first, entries, partial(self._leaf_hashes, bundle, checkpoint.size))

    def _stored_bundle(self, signed: EntryBundle) -> tuple[EntryBundle, bytes | None]:
        """Return the bundle that is there: that of the signed size, or of an export that ended within it."""
        content = self.files.read(signed.path, MAX_BUNDLE_BYTES)
        if content is not None:
            return signed, content
        shorter = (EntryBundle(signed.index, width) for width in range(signed.width - 1, 0, -1))
        found = next((bundle for bundle in shorter if self.files.exists(bundle.path)), None)
        return (signed, None) if found is None else (found, self.files.read(found.path, MAX_BUNDLE_BYTES))

    def _compare(self, first: int, entries: Sequence[bytes], lines: IO[bytes]) -> None:
        """Compare the readable copy of a bundle at once; look for the line only where it differs."""
        expected = b"".join(entry + b"\n" for entry in entries)
        found = lines.read(len(expected))
        if found == expected:
            self.report.lines_checked += len(entries)
            return
        pairs = zip(expected.splitlines(keepends=True), found.splitlines(keepends=True), strict=False)
        at = first + next((place for place, (one, other) in enumerate(pairs) if one != other), found.count(b"\n"))
        self._line_damage = Damage(f"line {at} of {ENTRIES} is not entry {at}", ENTRIES, at)
        self.report.lines_checked = at
