"""Parts of a log as files: proven to the checkpoint, gone on with after any interruption, and safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libs.common.tests.selection_world import NASTY, SOME, FakeLog, Interrupted, files, leaf, names, nasty_log

from wardmesh.audit_rows import FORMATS, Format, Row
from wardmesh.audit_selection import PROOF, OtherExport, UnreadableEntry, export_selection
from wardmesh.audit_selection_verify import is_selection, verify_selection
from wardmesh.contracts.audit import Filter, SelectedLeaves
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.selection import SelectedTree, nodes_to, perfect_subtrees


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
