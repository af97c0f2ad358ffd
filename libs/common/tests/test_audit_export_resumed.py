"""A whole log's export goes on where it was interrupted, ends in the same bytes, and is whole if it has its name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from libs.common.tests.test_audit_export import ORIGIN, SIGNER, Log, leaf

from wardmesh import audit_export_files
from wardmesh.audit_export import ExportIncomplete, OtherExport, export_log, verify_export
from wardmesh.audit_openings import OPENINGS
from wardmesh.audit_pruning import KEPT
from wardmesh.audit_verify import CHECKPOINT, ENTRIES
from wardmesh.contracts.audit import Checkpoint, EntryOpenings, KeptRun, Leaves, Opening
from wardmesh.crypto import checkpoint as signed
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tile_builder import TileBuilder
from wardmesh.crypto.tiles import TILE_WIDTH, Tile, decode_tile

SIZE = 1500


class Interrupted(Exception):
    pass


@dataclass
class Cut(Log):
    """A log that breaks off after so many calls. Some of its entries are not kept for ever."""

    calls_left: int = 10**9
    origin: str = ORIGIN
    erasures: int = 0
    erased_at: int | None = None
    """The index at which somebody is erased whom all openings are about."""

    async def checkpoint(self) -> Checkpoint:
        self._count()
        note = signed.sign_checkpoint(signed.Checkpoint(self.origin, self.size, self.root), SIGNER)
        return Checkpoint(note=note.decode(), verifier_key=str(SIGNER.verifier), size=self.size)

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        self._count()
        page = await super().leaves_page(start=start, limit=limit)
        if self.erased_at is not None and start >= self.erased_at:
            self.erasures, self.erased_at = self.erasures + 1, None
        kept = (KeptRun(first=start, last=start, kept_to=date(2031, 1, 1)),) if start > 700 else ()
        said = Opening(path="/actor", salt=bytes(32), value="usr")
        openings = (EntryOpenings(index=start, openings=(said,)),) if not self.erasures else ()
        return page.model_copy(update={"kept": kept, "openings": openings, "erasures": self.erasures})

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Interrupted


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


LEAVES = [leaf(index) for index in range(SIZE)]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_export_files, "ENTRIES_BETWEEN_NOTES", 2 * TILE_WIDTH)


@pytest.fixture(scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "log"
    await export_log(Cut(LEAVES), folder)
    return files(folder)


@pytest.mark.parametrize("page", [256, 90])
async def test_interrupted_at_any_call_it_ends_in_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], page: int
) -> None:
    if page != 256:  # which runs a page has is the log's to choose
        await export_log(Cut(LEAVES, page), tmp_path / "whole")
        whole = files(tmp_path / "whole")
    longer = [*LEAVES, leaf(9999)]
    for calls in range(0, 40, 1 if page == 256 else 5):
        folder = tmp_path / "log"
        try:
            await export_log(Cut(LEAVES, page, calls_left=calls), folder)
        except Interrupted:
            assert not folder.exists(), "what is not whole has no name"
            for torn in (tmp_path / "log.partial").rglob("*") if calls else ():
                if torn.name == ENTRIES:
                    torn.write_bytes(torn.read_bytes() + b"torn")
            # The log has grown meanwhile; it ends at the checkpoint that it began with.
            for more in (1, 3, 9, 99):
                try:
                    await export_log(Cut(longer if calls else LEAVES, page, calls_left=more), folder)
                    break
                except Interrupted:
                    assert not folder.exists()
            assert files(folder) == whole, calls
            assert names(tmp_path) in (["log"], ["log", "whole"])
            shutil.rmtree(folder)
        else:
            assert files(folder) == whole
            return
    pytest.fail("it was never let through to its end")


async def test_interrupted_at_any_wait_for_the_disk_it_ends_in_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.fsync, 0

    def cut(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted
        real(descriptor)

    monkeypatch.setattr(os, "fsync", cut)
    folder = tmp_path / "log"
    for waits in range(0, 200, 3):
        left = waits
        try:
            await export_log(Cut(LEAVES), folder)
        except Interrupted:
            if folder.exists():  # its name came first, and it was whole by then
                assert files(folder) == whole
            else:
                left = 10**9
                await export_log(Cut(LEAVES), folder)
        else:
            assert files(folder) == whole
            return
        assert files(folder) == whole, waits
        shutil.rmtree(folder)
        (tmp_path / "log.partial.json").unlink(missing_ok=True)
    pytest.fail("it was never let through to its end")


@pytest.mark.parametrize("interrupted", [True, False])
async def test_if_somebody_is_erased_meanwhile_it_begins_again(tmp_path: Path, *, interrupted: bool) -> None:
    folder, partial = tmp_path / "log", tmp_path / "log.partial"
    if interrupted:
        with pytest.raises(Interrupted):
            await export_log(Cut(LEAVES, calls_left=6), folder)
        assert b"usr" in (partial / OPENINGS).read_bytes()
        log = Cut([*LEAVES, leaf(9999)], erasures=1)
    else:
        log = Cut([*LEAVES, leaf(9999)], erased_at=1024)
    await export_log(log, folder)
    assert not (folder / OPENINGS).exists(), "what was read before is gone"
    assert verify_export(folder).is_sound
    assert verify_export(folder).size == SIZE + 1, "with the present checkpoint"
    assert names(tmp_path) == ["log"]


async def test_what_is_asked_for_again_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        await export_log(Cut(LEAVES, calls_left=6), tmp_path / "log")
    # It was noted at entry 1024, of 1280 that were had: the checkpoint and two pages are left.
    await export_log(Cut(LEAVES, calls_left=3), tmp_path / "log")


async def test_it_goes_on_with_nothing_but_its_own(tmp_path: Path) -> None:
    folder, partial, note = tmp_path / "log", tmp_path / "log.partial", tmp_path / "log.partial.json"
    with pytest.raises(Interrupted):
        await export_log(Cut(LEAVES, calls_left=5), folder)
    with pytest.raises(OtherExport, match="another log"):
        await export_log(Cut(LEAVES, origin=f"{ORIGIN}x"), folder)
    said = json.loads(note.read_text())
    changes: list[Callable[[], object]] = [
        lambda: (partial / "tile/0/000").unlink(),
        lambda: (partial / "tile/0/000").write_bytes(b"short"),
        lambda: (partial / ENTRIES).write_bytes(b""),
        lambda: note.write_text("{}"),
        lambda: note.write_text(json.dumps({**said, "version": 2})),
        lambda: note.write_text(json.dumps({**said, "size": 77})),
        lambda: note.write_text(json.dumps({**said, "gone": ["yesterday"]})),
        lambda: (partial / OPENINGS).write_bytes(b""),
        note.unlink,
    ]
    for change in changes:
        shutil.copytree(partial, tmp_path / "kept.partial")
        change()
        with pytest.raises(OtherExport):
            await export_log(Cut(LEAVES), folder)
        shutil.rmtree(partial)
        (tmp_path / "kept.partial").rename(partial)
        note.write_text(json.dumps(said))
    await export_log(Cut(LEAVES), folder)
    assert (folder / CHECKPOINT).exists()


async def test_no_link_is_followed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        await export_log(Cut(LEAVES, calls_left=5), tmp_path / "log")
    letter = tmp_path / "letter"
    letter.write_text("mine")
    kept = tmp_path / "log.partial" / "tile/entries/005.p/220"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.symlink_to(letter)
    with pytest.raises(OSError, match="symbolic"):
        await export_log(Cut(LEAVES), tmp_path / "log")
    assert letter.read_text() == "mine"


async def test_an_empty_folder_may_be_there_and_a_full_one_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    await export_log(Cut(LEAVES), tmp_path / "log")
    assert (tmp_path / "log" / CHECKPOINT).exists()
    assert (tmp_path / "log" / KEPT).exists()
    before = files(tmp_path / "log")
    with pytest.raises(FileExistsError):
        await export_log(Cut([leaf(0)]), tmp_path / "log")
    assert files(tmp_path / "log") == before
    assert names(tmp_path) == ["log"]


async def test_a_log_that_ends_too_early_is_exported_all_the_same_when_it_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        await export_log(Cut(LEAVES, calls_left=5), tmp_path / "log")
    log = Cut(LEAVES)
    del log.leaves_[1300:]
    with pytest.raises(ExportIncomplete) as caught:
        await export_log(log, tmp_path / "log")
    assert caught.value.written == 1300
    damage = verify_export(tmp_path / "log").damage
    assert damage is not None
    assert damage.entry == 1300


@pytest.mark.parametrize("tiles", [0, 1, 2, 255, 256, 257, 515])
@pytest.mark.parametrize("more", [0, 1, 300])
def test_a_builder_goes_on_as_if_it_had_never_stopped(tiles: int, more: int) -> None:
    given_out: dict[Tile, bytes] = {}
    one = TileBuilder()
    hashes = [leaf_hash(b"%d" % number) for number in range(TILE_WIDTH)]
    for shift in range(tiles):
        given_out.update(one.add(hashes[shift % 256 :] + hashes[: shift % 256]))
    another = TileBuilder.resumed(tiles * TILE_WIDTH, lambda tile: decode_tile(given_out[tile]))
    rest = (hashes * 2)[:more]
    assert another.add(rest) == one.add(rest)
    assert (another.size, another.root()) == (one.size, one.root())
    assert list(another.partial_tiles()) == list(one.partial_tiles())


def test_a_builder_goes_on_behind_full_tiles_alone() -> None:
    with pytest.raises(ValueError, match="full tile"):
        TileBuilder.resumed(255, lambda _tile: [])
