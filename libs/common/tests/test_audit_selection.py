"""Parts of a log as files: proven to the checkpoint, gone on with after any interruption, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.audit_rows import FORMATS, Format, Row
from wardmesh.audit_selection import MANIFEST, PROOF, OtherExport, UnreadableEntry, export_selection
from wardmesh.audit_selection_verify import is_selection, verify_selection
from wardmesh.contracts.audit import MAX_NODES, Checkpoint, Filter, Nodes, SelectedLeaves
from wardmesh.crypto.checkpoint import Checkpoint as Head
from wardmesh.crypto.checkpoint import sign_checkpoint
from wardmesh.crypto.cosignature import Cosigner, with_lines
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.crypto.note import Signature, SignedNote, Signer
from wardmesh.crypto.selection import SelectedTree, nodes_to, perfect_subtrees
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.ids import EventId, UserId, WorkspaceId

SCOPE = WorkspaceId.new()
SIGNER = Signer.from_seed("wardmesh.test", bytes(32))
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NASTY = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    "\r=1",
    "＝1",
    'a"b',
    "a,b",
    "a\nb",
    "Zoë",
    "\x00",
    "'=1",
    "a;b",
    " =1",
    "\u2028",
]


def leaf(number: int, target: str = "a") -> bytes:
    event = {
        "action": "secret.get", "actor": UserId.nil(), "category": "secret_access", "id": EventId.new(),
        "occurred_at": "2026-11-25T12:00:00Z", "outcome": "success", "targets": [target],
        "details": {"n": number, "note": target}, "reason": target,
    }  # fmt: skip
    document = {"version": 1, "scope": SCOPE, "source": "secrets", "received_at": NOW.isoformat(), "event": event}
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


class Interrupted(Exception):
    pass


@dataclass
class FakeLog:
    """The three operations, on leaves in memory. Every third leaf matches any filter with a text."""

    leaves: list[bytes]
    page: int = 7
    signs_at: int | None = None
    calls_left: int = 10**9
    asked: list[int] = field(default_factory=list)
    cosigners: tuple[Cosigner, ...] = ()
    mldsa: tuple[MldsaSigner, ...] = ()

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Interrupted

    async def checkpoint(self) -> Checkpoint:
        self._count()
        size = self.signs_at or len(self.leaves)
        root = root_of([leaf_hash(each) for each in self.leaves[:size]])
        head = Head("wardmesh.test", size, root)
        signed = SignedNote.parse(sign_checkpoint(head, SIGNER))
        lines = [each.sign(head, 1) for each in self.cosigners] + [each.sign(head) for each in self.mldsa]
        note = with_lines(signed, lines).encode()
        return Checkpoint(note=note.decode(), verifier_key=str(SIGNER.verifier), size=size)

    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        self._count()
        stop = min(end, start + self.page)
        found = [index for index in range(start, stop) if filter.text is None or index % 3 == 0]
        leaves = tuple(self.leaves[index] for index in found)
        return SelectedLeaves(indexes=tuple(found), leaves=leaves, next_start=stop)

    async def nodes(self, *, size: int, nodes: tuple[tuple[int, int], ...]) -> Nodes:
        self._count()
        assert 0 < len(nodes) <= MAX_NODES
        self.asked.append(len(nodes))
        hashes = []
        for level, index in nodes:
            below = self.leaves[index << level : (index + 1) << level]
            assert len(below) == 1 << level
            assert (index + 1) << level <= size
            hashes.append(root_of([leaf_hash(each) for each in below]))
        return Nodes(hashes=tuple(hashes))


def nasty_log(count: int = 50) -> FakeLog:
    return FakeLog([leaf(number, NASTY[number % len(NASTY)]) for number in range(count)])


SOME = Filter(text="anything")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.property
@given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_a_selection_leads_to_the_root_and_no_other_does(size: int, rng: random.Random) -> None:
    hashes = [leaf_hash(bytes([number])) for number in range(size)]
    chosen = sorted(rng.sample(range(size), rng.randint(0, size)))
    nodes, covered = [], 0
    for index in chosen:
        nodes += nodes_to(covered, index)
        covered = index + 1
    nodes += perfect_subtrees(covered, size)
    proof = [root_of(hashes[index << level : (index + 1) << level]) for level, index in nodes]

    def root(proof: list[bytes]) -> bytes:
        hashes_left = iter(proof)
        tree = SelectedTree(size, lambda: next(hashes_left))
        for index in chosen:
            tree.leaf(index)
        found = tree.root()
        assert not list(hashes_left)
        return found

    assert root(proof) == root_of(hashes)
    assert len(proof) <= size
    for place in range(len(proof)):
        changed = [*proof]
        changed[place] = leaf_hash(b"another")
        assert root(changed) != root_of(hashes)


def test_places_rise_and_fit_the_size() -> None:
    tree = SelectedTree(4, lambda: bytes(32))
    tree.leaf(1)
    for index in (1, 0, 4):
        with pytest.raises(MalformedEncoding):
            tree.leaf(index)


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("wanted", [Filter(), SOME])
async def test_a_selection_verifies(tmp_path: Path, kind: Format, wanted: Filter) -> None:
    log, seen = nasty_log(), []
    done = await export_selection(log, tmp_path / "export", kind, wanted, lambda *now: seen.append(now))
    assert seen[-1] == (50, 50)
    assert done.entries == (50 if wanted == Filter() else 17)
    assert is_selection(tmp_path / "export")
    assert names(tmp_path) == ["export"]
    report = verify_selection(tmp_path / "export", done.verifier_key)
    assert report.is_sound, report
    assert (report.entries_checked, report.size, report.origin) == (done.entries, 50, "wardmesh.test")
    assert ("not shown" in str(report)) == (wanted == SOME)


async def test_a_selection_of_nothing_and_one_of_an_empty_log_verify(tmp_path: Path) -> None:
    class Nothing(FakeLog):
        async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
            return SelectedLeaves(indexes=(), leaves=(), next_start=end)

    for name, log in (("none", Nothing([leaf(number) for number in range(9)])), ("empty", FakeLog([]))):
        await export_selection(log, tmp_path / name, Format.CSV, SOME)
        report = verify_selection(tmp_path / name)
        assert (report.is_sound, report.entries_checked) == (True, 0), report


@pytest.mark.parametrize("kind", list(Format))
async def test_an_export_that_is_interrupted_anywhere_ends_in_the_same_bytes(tmp_path: Path, kind: Format) -> None:
    leaves = nasty_log().leaves
    await export_selection(FakeLog(leaves), tmp_path / "whole", kind, SOME)
    whole = files(tmp_path / "whole")
    for calls in range(1, 60):
        folder = tmp_path / "export"
        # The log grows meanwhile, and what has been begun ends at the checkpoint that it began with.
        log, later = FakeLog(leaves, calls_left=calls), FakeLog([*leaves, leaf(99)], calls_left=1)
        try:
            await export_selection(log, folder, kind, SOME)
        except Interrupted:
            partial = tmp_path / "export.partial"
            assert not folder.exists()
            # What was written and not remembered: a torn line, and half a hash.
            for name in (FORMATS[kind].file, PROOF):
                with (partial / name).open("ab") as handle:
                    handle.write(b"torn")
            for _ in range(60):
                try:
                    await export_selection(later, folder, kind, SOME)
                    break
                except Interrupted:
                    later.calls_left = 3
            assert files(folder) == whole, calls
            shutil.rmtree(folder)
        else:
            assert files(folder) == whole
            break
    else:
        pytest.fail("it was never let through to its end")
    assert names(tmp_path) == ["export", "whole"]


async def test_it_goes_on_with_nothing_but_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    with pytest.raises(Interrupted):
        await export_selection(FakeLog(nasty_log().leaves, calls_left=4), folder, Format.CSV, SOME)
    for kind, wanted in ((Format.NDJSON, SOME), (Format.CSV, Filter())):
        with pytest.raises(OtherExport):
            await export_selection(nasty_log(), folder, kind, wanted)
    (tmp_path / "export.partial" / FORMATS[Format.CSV].file).write_bytes(b"")
    with pytest.raises(OtherExport):
        await export_selection(nasty_log(), folder, Format.CSV, SOME)
    (tmp_path / "export.partial.json").write_text("{}")
    with pytest.raises(OtherExport):
        await export_selection(nasty_log(), folder, Format.CSV, SOME)
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "letter").write_text("mine")
    with pytest.raises(OtherExport):
        await export_selection(nasty_log(), tmp_path / "other", Format.CSV, SOME)
    assert (tmp_path / "other.partial" / "letter").read_text() == "mine"
    folder.mkdir()
    with pytest.raises(FileExistsError):
        await export_selection(nasty_log(), folder, Format.CSV, SOME)


async def test_what_is_no_entry_is_named(tmp_path: Path) -> None:
    log = nasty_log()
    log.leaves[9] = b"not JSON"
    with pytest.raises(UnreadableEntry) as found:
        await export_selection(log, tmp_path / "export", Format.OCSF, SOME)
    assert found.value.index == 9


async def test_a_spreadsheet_finds_no_formula_and_no_broken_cell(tmp_path: Path) -> None:
    await export_selection(nasty_log(), tmp_path / "export", Format.CSV, Filter())
    text = (tmp_path / "export" / "selection.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline="")))
    assert [int(row["index"]) for row in rows] == list(range(50))
    for row, nasty in zip(rows, NASTY, strict=False):
        for name, cell in row.items():
            assert not cell.startswith(tuple("=+-@\t\r\n＝＋－＠")), name
            assert cell.isprintable() or name == "leaf", name
        assert json.loads(row["leaf"])["event"]["targets"] == [nasty]
    assert rows[0]["targets"] == "'=1+1"
    assert rows[4]["targets"] == "'\\u0009=1"


async def test_ocsf_lines_are_ocsf(tmp_path: Path) -> None:
    await export_selection(nasty_log(), tmp_path / "export", Format.OCSF, SOME)
    lines = (tmp_path / "export" / "selection.ocsf.ndjson").read_text().split("\n")
    first = json.loads(lines[1])
    assert (first["class_uid"], first["metadata"]["sequence"]) == (6005, 3)
    assert json.loads(first["raw_data"])["event"]["details"]["n"] == 3


Change = Callable[[Path], Any]


def _replace(name: str, old: bytes, new: bytes) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))

    return change


def _without_line(name: str, number: int) -> Change:
    def change(folder: Path) -> None:
        lines = (folder / name).read_bytes().split(b"\n")
        del lines[number]
        (folder / name).write_bytes(b"\n".join(lines))

    return change


def _swapped(folder: Path) -> None:
    lines = (folder / "selection.ndjson").read_bytes().split(b"\n")
    lines[3], lines[4] = lines[4], lines[3]
    (folder / "selection.ndjson").write_bytes(b"\n".join(lines))


def _cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _linked(folder: Path) -> None:
    (folder / PROOF).rename(folder.parent / "elsewhere")
    (folder / PROOF).symlink_to(folder.parent / "elsewhere")


NDJSON_CHANGES: list[tuple[Change, int | None]] = [
    (_replace("selection.ndjson", b'"n":6', b'"n":7'), 6),
    (_replace("selection.ndjson", b'{"index":6,', b'{"index":5,'), None),
    (_replace("selection.ndjson", b'{"index":6,', b'{"index":06,'), None),
    (_without_line("selection.ndjson", 2), None),
    (_swapped, None),
    (_cut("selection.ndjson", 900), None),
    (_cut(PROOF, 100), None),
    (_cut(PROOF, 96), None),
    (lambda folder: (folder / PROOF).write_bytes((folder / PROOF).read_bytes() + bytes(32)), None),
    (lambda folder: (folder / PROOF).write_bytes(bytes(32) + (folder / PROOF).read_bytes()[32:]), None),
    (lambda folder: (folder / PROOF).unlink(), None),
    (lambda folder: (folder / MANIFEST).write_text("{}"), None),
    (_linked, None),
    (_replace("checkpoint", b"\n50\n", b"\n51\n"), None),
]


@pytest.mark.parametrize(("change", "entry"), NDJSON_CHANGES)
async def test_a_tampered_selection_is_found(tmp_path: Path, change: Change, entry: int | None) -> None:
    done = await export_selection(nasty_log(), tmp_path / "export", Format.NDJSON, SOME)
    change(tmp_path / "export")
    report = verify_selection(tmp_path / "export", done.verifier_key)
    assert not report.is_sound
    assert report.damage is not None
    if entry is not None:
        assert report.damage.entry == entry


async def test_a_line_that_says_something_else_than_its_entry_is_found(tmp_path: Path) -> None:
    for kind, old, new in ((Format.CSV, b'"success"', b'"refused"'), (Format.OCSF, b'"status_id":1', b'"status_id":2')):
        folder = tmp_path / kind
        await export_selection(nasty_log(), folder, kind, SOME)
        _replace(FORMATS[kind].file, old, new)(folder)
        report = verify_selection(folder)
        assert report.damage is not None
        assert (report.damage.entry, report.entries_checked) == (0, 0)


async def test_another_key_does_not_vouch_for_it(tmp_path: Path) -> None:
    await export_selection(nasty_log(), tmp_path / "export", Format.NDJSON, SOME)
    other = Signer.from_seed("wardmesh.test", bytes(31) + b"1")
    assert not verify_selection(tmp_path / "export", str(other.verifier)).is_sound


@pytest.mark.property
@given(st.integers(0, 10**17), st.text(max_size=60))
def test_every_line_reads_back_as_it_was(index: int, text: str) -> None:
    row = Row(index, leaf(1, text.encode("utf-8", "replace").decode()))
    for rows in FORMATS.values():
        try:
            line = rows.encode(row)
        except ValueError:
            assert not 0 < len(text) <= 256  # no entry
            continue
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert rows.decode(line) == row


async def test_a_part_of_a_log_is_held_to_its_witnesses_too(tmp_path: Path) -> None:
    one, two = (Cosigner(name, Ed25519PrivateKey.generate()) for name in ("w1", "w2"))
    log = FakeLog([leaf(number) for number in range(20)], cosigners=(one,))
    await export_selection(log, tmp_path / "part", Format.NDJSON, Filter(text="x"))
    keys = [str(one.verifier), str(two.verifier)]
    report = verify_selection(tmp_path / "part", policy=Policy.of_keys(keys, 1))
    assert report.is_sound
    assert "cosigned   by w1" in str(report)
    report = verify_selection(tmp_path / "part", policy=Policy.of_keys(keys))
    assert "missing: w2" in str(report.damage)


@pytest.mark.parametrize("kind", Format)
async def test_a_part_of_a_log_is_held_to_the_mldsa_key_that_is_named(tmp_path: Path, kind: Format) -> None:
    ours, other = (MldsaSigner("wardmesh.test", MLDSA44PrivateKey.from_seed_bytes(bytes([n]) * 32)) for n in (1, 2))
    key, part = str(ours.verifier), tmp_path / "part"
    log = FakeLog([leaf(number) for number in range(20)], mldsa=(ours,))
    await export_selection(log, part, kind, Filter(text="x"))
    report = verify_selection(part, str(SIGNER.verifier), mldsa_key=key)
    assert (report.is_sound, report.mldsa_checked) == (True, True), str(report)
    assert "the ML-DSA-44 key has signed it too" in str(report)
    assert verify_selection(part).is_sound, "who does not ask is not told"
    assert not verify_selection(part).mldsa_checked
    for asked in (str(other.verifier), str(MldsaSigner("another.test", ours._private).verifier)):
        report = verify_selection(part, mldsa_key=asked)
        assert (report.is_sound, report.mldsa_checked, report.signature_checked) == (False, False, False)
        assert "has not signed" in str(report.damage)

    # A line that is somebody's, in our key's name: of another tree, by another key, cut short.
    note = SignedNote.parse((part / "checkpoint").read_bytes())
    head = Head.parse_text(note.text)
    sound = note.signatures[-1]
    wrong = [
        ours.sign(Head(head.origin, head.size + 1, head.root)).signature,
        other.sign(head).signature,
        sound.signature[:-1],
    ]
    for each in wrong:
        line = Signature(sound.name, sound.key_id, each)
        (part / "checkpoint").write_bytes(SignedNote(note.text, (*note.signatures[:-1], line)).encode())
        report = verify_selection(part, str(SIGNER.verifier), mldsa_key=key)
        assert report.damage is not None
        assert report.damage.path == "checkpoint"
        assert report.entries_checked == 0
