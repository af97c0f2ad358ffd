"""An export is sound when the log was; whatever is changed in it is found, and named; a hostile folder does no harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardmesh.audit_export import Exported, ExportIncomplete, export_log, verify_export
from wardmesh.audit_verify import CHECKPOINT, ENTRIES, VERIFIER_KEY
from wardmesh.contracts.audit import Checkpoint, Leaves
from wardmesh.crypto import checkpoint as signed
from wardmesh.crypto.errors import InvalidKey
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.note import Signer

ORIGIN = "wardmesh.test/ws_01h455vb4pex5vsknk084sn02q"
SIGNER = Signer.from_seed(ORIGIN, bytes(range(32)))


def leaf(index: int) -> bytes:
    return b'{"event":{"id":"evt_%d"},"version":1}' % index


@dataclass
class Log:
    """A log that gives out what it is told to."""

    leaves_: list[bytes]
    page: int = 256
    hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hashes = self.hashes or [leaf_hash(each) for each in self.leaves_]
        self.root = root_of(self.hashes)
        self.size = len(self.leaves_)

    async def checkpoint(self) -> Checkpoint:
        note = signed.sign_checkpoint(signed.Checkpoint(ORIGIN, self.size, self.root), SIGNER)
        return Checkpoint(note=note.decode(), verifier_key=str(SIGNER.verifier), size=self.size)

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        end = start + min(limit, self.page)
        return Leaves(leaves=tuple(self.leaves_[start:end]), hashes=tuple(self.hashes[start : len(self.leaves_[:end])]))


@pytest.fixture(scope="module")
async def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of 600 entries: two full bundles, a partial one, two levels of tiles."""
    folder = tmp_path_factory.mktemp("export") / "log"
    await export_log(Log([leaf(index) for index in range(600)]), folder)
    return folder


@pytest.fixture
def export(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 512, 1000])
@pytest.mark.parametrize("page", [256, 100])
async def test_an_untouched_export_is_sound(tmp_path: Path, size: int, page: int) -> None:
    seen: list[tuple[int, int]] = []
    log = Log([leaf(index) for index in range(size)], page)
    done = await export_log(log, tmp_path / "log", lambda *each: seen.append(each))
    assert done == Exported(tmp_path / "log", size, str(SIGNER.verifier))
    assert not size or seen[-1] == (size, size)

    report = verify_export(tmp_path / "log", str(SIGNER.verifier))
    assert report.is_sound, str(report)
    assert (report.origin, report.size, report.root) == (
        ORIGIN,
        size,
        root_of([leaf_hash(leaf(i)) for i in range(size)]),
    )
    assert report.entries_checked == report.lines_checked == size
    assert report.key_is_pinned


async def test_the_keys_origin_is_said(export: Path) -> None:
    assert "compare it" in str(verify_export(export))
    assert "compare it" not in str(verify_export(export, str(SIGNER.verifier)))


async def test_line_n_is_entry_n(export: Path) -> None:
    assert (export / ENTRIES).read_bytes().split(b"\n")[:-1] == [leaf(index) for index in range(600)]


async def test_an_entry_changed_in_the_database_is_named(tmp_path: Path) -> None:
    log = Log([leaf(index) for index in range(600)])
    log.leaves_[300] = b'{"event":{"id":"evt_forged"},"version":1}'
    await export_log(log, tmp_path / "log")
    report = verify_export(tmp_path / "log")
    assert report.damage is not None
    assert report.damage.entry == 300


async def test_an_entry_changed_together_with_its_hash_is_found(tmp_path: Path) -> None:
    log = Log([leaf(index) for index in range(600)])
    log.leaves_[300] = leaf(9999)
    log.hashes[300] = leaf_hash(leaf(9999))
    await export_log(log, tmp_path / "log")
    assert not verify_export(tmp_path / "log").is_sound


@pytest.mark.parametrize("end", [0, 7, 256, 300, 599])
async def test_a_log_that_ends_too_early_is_exported_and_found_out(tmp_path: Path, end: int) -> None:
    log = Log([leaf(index) for index in range(600)])
    del log.leaves_[end:]
    with pytest.raises(ExportIncomplete) as caught:
        await export_log(log, tmp_path / "log")
    assert (caught.value.written, caught.value.size) == (end, 600)
    damage = verify_export(tmp_path / "log").damage
    assert damage is not None
    assert damage.entry == end


def replace(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / path).read_bytes()
        assert old in content
        (folder / path).write_bytes(content.replace(old, new, 1))

    return change


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def cut(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:-1])


def append(path: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes() + content)


def flip(path: str, at: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[at] ^= 1
        (folder / path).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "path", "entry"),
    [
        (replace("tile/entries/001", b"evt_300", b"evt_301"), "tile/0/001", 300),
        (replace("tile/entries/002.p/88", b"evt_599", b"evt_000"), "tile/0/002.p/88", 599),
        (cut("tile/entries/001"), "tile/entries/001", 256),
        (remove("tile/entries/001"), None, 256),
        (remove("tile/entries/002.p/88"), None, 512),
        (flip("tile/0/000", 32 * 9), "tile/0/000", 9),
        (remove("tile/0/001"), "tile/0/001", 256),
        (flip("tile/1/000.p/2", 40), "tile/1/000.p/2", 256),
        (remove("tile/1/000.p/2"), "tile/1/000.p/2", 0),
        (replace(ENTRIES, b'evt_17"', b'evt_18"'), ENTRIES, 17),
        (replace(ENTRIES, leaf(20) + b"\n", b""), ENTRIES, 20),
        (cut(ENTRIES), ENTRIES, 599),
        (append(ENTRIES, leaf(600) + b"\n"), ENTRIES, 600),
        (remove(ENTRIES), ENTRIES, None),
        (remove(CHECKPOINT), CHECKPOINT, None),
        (cut(CHECKPOINT), CHECKPOINT, None),
        (replace(CHECKPOINT, b"\n600\n", b"\n512\n"), CHECKPOINT, None),
        (remove(VERIFIER_KEY), VERIFIER_KEY, None),
        (flip(VERIFIER_KEY, 3), VERIFIER_KEY, None),
    ],
)
def test_damage_is_named(export: Path, damage: Callable[[Path], None], path: str | None, entry: int | None) -> None:
    damage(export)
    report = verify_export(export)
    assert report.damage is not None
    assert (report.damage.path, report.damage.entry) == (path, entry), str(report)
    assert "DAMAGED" in str(report)


def test_a_checkpoint_by_another_key_does_not_pass(export: Path) -> None:
    stranger = Signer.from_seed(ORIGIN, bytes(32))
    size, root = 600, verify_export(export).root
    note = signed.sign_checkpoint(signed.Checkpoint(ORIGIN, size, root), stranger)
    (export / CHECKPOINT).write_bytes(note)
    (export / VERIFIER_KEY).write_text(f"{stranger.verifier}\n")
    assert verify_export(export).is_sound  # by its own key, which the report warns of
    assert not verify_export(export, str(SIGNER.verifier)).is_sound


def test_a_callers_own_mistake_is_raised(export: Path) -> None:
    with pytest.raises(InvalidKey):
        verify_export(export, "not a key")


@pytest.mark.parametrize("path", [CHECKPOINT, VERIFIER_KEY, ENTRIES, "tile/0/001", "tile/entries/001"])
def test_no_symbolic_link_is_followed(export: Path, tmp_path: Path, path: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(export / path, elsewhere)
    (export / path).symlink_to(elsewhere)
    damage = verify_export(export).damage
    assert damage is not None
    assert damage.what.endswith("is not a regular file")


def test_no_linked_folder_is_entered(export: Path, tmp_path: Path) -> None:
    shutil.move(export / "tile", tmp_path / "elsewhere")
    (export / "tile").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    damage = verify_export(export).damage
    assert damage is not None
    assert damage.what == "tile is not a folder"


@pytest.mark.parametrize("path", [CHECKPOINT, ENTRIES, "tile/0/001"])
def test_a_pipe_does_not_block(export: Path, path: str) -> None:
    (export / path).unlink()
    os.mkfifo(export / path)
    assert not verify_export(export).is_sound


@pytest.mark.parametrize("path", [CHECKPOINT, VERIFIER_KEY, "tile/0/001", "tile/entries/001"])
def test_a_huge_file_is_not_read(export: Path, path: str) -> None:
    with (export / path).open("r+b") as handle:
        handle.truncate(1 << 40)  # sparse
    damage = verify_export(export).damage
    assert damage is not None
    assert "larger than it can be" in damage.what


def test_a_huge_line_is_not_read(export: Path) -> None:
    with (export / ENTRIES).open("r+b") as handle:
        handle.truncate(0)
        handle.truncate(1 << 40)
    damage = verify_export(export).damage
    assert damage is not None
    assert damage.entry == 0


def test_a_claim_of_astronomic_size_ends_at_once(tmp_path: Path) -> None:
    checkpoint = signed.Checkpoint(ORIGIN, 2**62, bytes(32))
    (tmp_path / CHECKPOINT).write_bytes(signed.sign_checkpoint(checkpoint, SIGNER))
    (tmp_path / VERIFIER_KEY).write_text(str(SIGNER.verifier))
    (tmp_path / ENTRIES).touch()
    damage = verify_export(tmp_path).damage
    assert damage is not None
    assert damage.entry == 0


async def test_an_export_overwrites_nothing(export: Path) -> None:
    with pytest.raises(FileExistsError):
        await export_log(Log([leaf(0)]), export)


async def test_a_leaf_that_is_no_line_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportIncomplete):
        await export_log(Log([b"two\nlines"]), tmp_path / "log")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("flip") / "log"))
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    file = folder / data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    # Without the final newline the key's own file says the same.
    assert not verify_export(folder).is_sound
    shutil.rmtree(folder)
