"""The spool's folder: what was acknowledged is there, whatever was torn, damaged, full or somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.client import spool_files
from wardmesh.client.spool_errors import SpoolFull, SpoolUnusable
from wardmesh.client.spool_files import SpoolFolder, inspect
from wardmesh.ids import AgentId, WorkspaceId

SCOPE, AGENT = WorkspaceId.new(), AgentId.new()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


_open: list[SpoolFolder] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def opened(folder: Path, **options: int) -> SpoolFolder:
    _open.append(SpoolFolder.open(folder, SCOPE, AGENT, **options))
    return _open[-1]


def drained(spool: SpoolFolder) -> list[bytes]:
    found: list[bytes] = []
    while (batch := spool.read(100, 1000)) is not None:
        found += batch.bodies
        spool.done(batch)
    return found


def bodies(count: int, start: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(start, start + count)]


def test_events_come_out_in_the_order_they_went_in_also_in_the_next_process(folder: Path) -> None:
    first = opened(folder)
    first.append(bodies(3))
    first.append(bodies(2, 3))
    first.close()
    again = opened(folder)
    again.append(bodies(1, 5))
    assert inspect(folder).events == 6
    assert drained(again) == bodies(6)
    assert inspect(folder) == spool_files.SpoolState(0, (folder / "owner").stat().st_size, 0, 0, None)
    again.append(bodies(1, 6))
    assert drained(again) == bodies(1, 6)


def test_what_was_sent_and_not_removed_is_sent_again(folder: Path) -> None:
    first = opened(folder)
    first.append(bodies(3))
    batch = first.read(2, 1000)
    assert batch is not None
    assert list(batch.bodies) == bodies(2)
    first.close()  # a crash, before `done`
    assert drained(opened(folder)) == bodies(3)


@given(kept=st.integers(0, 60))
def test_a_torn_line_is_cut_off_and_nothing_before_it(tmp_path_factory: pytest.TempPathFactory, kept: int) -> None:
    folder = tmp_path_factory.mktemp("torn") / "spool"
    first = opened(folder)
    first.append(bodies(4))
    first.close()
    (segment,) = folder.glob("0*.events")
    content = segment.read_bytes()
    kept = min(kept, len(content))
    segment.write_bytes(content[:kept])
    again = opened(folder)
    again.append(bodies(1, 9))
    assert drained(again) == [*bodies(content[:kept].count(b"\n")), *bodies(1, 9)]
    assert inspect(folder).damaged == 0
    again.close()


@given(place=st.integers(0, 67), byte=st.integers(0, 255))
def test_a_damaged_line_is_kept_apart_and_holds_up_none(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "spool"
    first = opened(folder)
    first.append(bodies(4))
    first.close()
    (segment,) = folder.glob("0*.events")
    content = bytearray(segment.read_bytes())
    is_changed = content[place] != byte
    content[place] = byte
    segment.write_bytes(content)
    again = opened(folder)
    again.append(bodies(1, 9))
    found = drained(again)
    again.close()
    assert found[-1:] == bodies(1, 9)
    assert set(found) <= {*bodies(4), *bodies(1, 9)}, "what the checksum does not vouch for is not sent"
    assert len(found) >= 5 - 2 * is_changed, "a line, and if its end is lost the next, are all that one byte costs"
    torn = len(content) - 1 == place
    assert inspect(folder).damaged >= (is_changed and not torn)


def test_a_full_spool_says_so_and_takes_again_when_there_is_room(folder: Path) -> None:
    spool = opened(folder, max_bytes=300)
    spool.append(bodies(5))
    with pytest.raises(SpoolFull):
        spool.append(bodies(50))
    assert len(drained(spool)) == 5
    spool.append(bodies(5))
    for body in bodies(8):
        spool.refuse(body, "invalid_request")
    with pytest.raises(SpoolFull):
        spool.append(bodies(5))  # what was refused is not dropped to make room
    assert inspect(folder).refused == 8


def test_a_full_disk_leaves_no_half_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(folder)
    spool.append(bodies(2))
    real = os.fsync

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolFull):
        spool.append(bodies(1, 2))
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(SpoolUnusable, match="failed"):
        spool.append(bodies(1, 3))  # what an fsync lost may be anything
    spool.close()
    assert drained(opened(folder))[:2] == bodies(2)


def test_segments_end_and_go_when_they_are_drained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_files, "SEGMENT_BYTES", 100)
    spool = opened(folder)
    for number in range(30):
        spool.append(bodies(1, number))
    assert len(list(folder.glob("0*.events"))) > 3
    assert drained(spool) == bodies(30)
    assert not list(folder.glob("0*.events"))


def test_two_processes_do_not_share_a_folder(folder: Path) -> None:
    spool = opened(folder)
    program = (
        "import sys; from pathlib import Path; from wardmesh.client.spool_files import SpoolFolder\n"
        "from wardmesh.ids import *; from wardmesh import SpoolUnusable\n"
        "try: SpoolFolder.open(Path(sys.argv[1]), WorkspaceId.parse(sys.argv[2]), AgentId.parse(sys.argv[3]))\n"
        "except SpoolUnusable as error: print(error); sys.exit(3)"
    )
    command = [sys.executable, "-c", program, str(folder), str(SCOPE), str(AGENT)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (second.returncode, "another process" in second.stdout) == (3, True)
    spool.close()
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


def test_another_principals_events_are_not_sent_as_ours(folder: Path) -> None:
    spool = opened(folder)
    spool.append(bodies(1))
    spool.close()
    for scope, principal in ((WorkspaceId.new(), AGENT), (SCOPE, AgentId.new())):
        with pytest.raises(SpoolUnusable, match="another principal"):
            SpoolFolder.open(folder, scope, principal)
    assert drained(opened(folder)) == bodies(1)


def test_a_folder_that_others_can_read_is_refused_and_ours_cannot(folder: Path) -> None:
    spool = opened(folder)
    spool.append(bodies(1))
    spool.refuse(b"{}", "invalid_request")
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    spool.close()
    folder.chmod(0o755)
    with pytest.raises(SpoolUnusable, match="700"):
        opened(folder)
