"""Parts of a log as Parquet: typed columns, the bytes that were hashed, and no row that says something else."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from libs.common.tests.test_audit_selection import SOME, FakeLog, Interrupted, files, leaf, names, nasty_log

from wardmesh import audit_parquet
from wardmesh.audit_parquet import ParquetUnavailable, cells_of
from wardmesh.audit_rows import Format, Row
from wardmesh.audit_selection import export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts.audit import Filter

FILE = "selection.parquet"


async def export(folder: Path, log: FakeLog | None = None) -> Path:
    await export_selection(log or nasty_log(), folder, Format.PARQUET, Filter())
    return folder / FILE


async def test_columns_have_types_and_the_bytes_are_there(tmp_path: Path) -> None:
    log = nasty_log()
    table = pq.read_table(await export(tmp_path / "export", log))
    assert table.column("leaf").to_pylist() == log.leaves
    assert table.column("index").to_pylist() == list(range(50))
    for name in ("occurred_at", "received_at"):
        assert table.schema.field(name).type == pa.timestamp("us", tz="UTC")
        assert table.column(name)[0].as_py().isoformat() == "2026-11-25T12:00:00+00:00"
    assert table.schema.field("targets").type == pa.list_(pa.field("element", pa.string()))
    events = [json.loads(each)["event"] for each in log.leaves]
    assert table.column("targets").to_pylist() == [event["targets"] for event in events]
    assert [json.loads(each) for each in table.column("details").to_pylist()] == [event["details"] for event in events]
    refused = table.filter(pc.equal(table.column("outcome"), "refused"))
    assert refused.num_rows == 0


async def test_row_groups_are_bounded_in_number_and_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_parquet, "ROWS_IN_GROUP", 20)
    metadata = pq.ParquetFile(await export(tmp_path / "rows")).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [20, 20, 10]
    monkeypatch.setattr(audit_parquet, "BYTES_IN_GROUP", 1000)
    metadata = pq.ParquetFile(await export(tmp_path / "bytes")).metadata
    assert metadata.num_row_groups > 10
    assert verify_selection(tmp_path / "bytes").is_sound


async def test_one_that_is_interrupted_while_it_is_written_is_none_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await export(tmp_path / "whole")
    monkeypatch.setattr(audit_parquet, "ROWS_IN_GROUP", 8)
    calls = 0

    def cut(row: Row) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise Interrupted
        return cells_of(row)

    with monkeypatch.context() as cutting:
        cutting.setattr(audit_parquet, "cells_of", cut)
        with pytest.raises(Interrupted):
            await export(tmp_path / "export")
    assert not (tmp_path / "export").exists()
    monkeypatch.undo()
    # Nothing is asked for again but what the proof ends with.
    await export(tmp_path / "export", FakeLog(nasty_log().leaves, calls_left=1))
    assert verify_selection(tmp_path / "export").is_sound
    assert names(tmp_path) == ["export", "whole"]
    assert pq.ParquetFile(tmp_path / "export" / FILE).metadata.num_rows == pq.ParquetFile(whole).metadata.num_rows


async def test_the_same_log_is_the_same_bytes(tmp_path: Path) -> None:
    log = nasty_log()
    await export(tmp_path / "a", log)
    await export(tmp_path / "b", log)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def changed(column: str, number: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[number][column] = value
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


def without(number: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, number), table.slice(number + 1)])


CHANGES: list[tuple[Callable[[pa.Table], pa.Table], int | None]] = [
    (changed("outcome", 6, "refused"), 6),
    (changed("actor", 6, None), 6),
    (changed("targets", 6, []), 6),
    (changed("details", 6, "{}"), 6),
    (changed("leaf", 6, leaf(6)), 6),
    (changed("leaf", 6, b"no JSON"), None),
    (changed("index", 6, 7), None),
    (changed("index", 6, -1), None),
    (lambda table: pa.concat_tables([table, table.slice(49)]), None),
    (lambda table: table.slice(0, 0), None),
    (lambda table: table.drop_columns(["reason"]), None),
    (lambda table: table.append_column("more", pa.array(range(50))), None),
    (lambda table: table.set_column(0, "index", table.column("index").cast(pa.int32())), None),
]


@pytest.mark.parametrize(("change", "entry"), CHANGES)
async def test_a_tampered_file_is_found(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], entry: int | None
) -> None:
    file = await export(tmp_path / "export")
    pq.write_table(change(pq.read_table(file)), file)
    report = verify_selection(tmp_path / "export")
    assert report.damage is not None
    assert entry is None or report.damage.entry == entry


async def test_a_row_that_is_left_out_is_said_to_be_not_shown(tmp_path: Path) -> None:
    file = await export(tmp_path / "export")
    pq.write_table(without(6)(pq.read_table(file)), file)
    report = verify_selection(tmp_path / "export")
    assert report.entries_checked == 49
    assert "not shown is what else matched" in str(report)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"\0" * 4096])
async def test_what_is_no_parquet_is_found(tmp_path: Path, content: bytes) -> None:
    file = await export(tmp_path / "export")
    file.write_bytes(content)
    assert not verify_selection(tmp_path / "export").is_sound


async def test_no_byte_can_be_changed_without_a_word(tmp_path: Path) -> None:
    """Flip bytes here and there: it is damaged, or says the very same (a checksum that nobody reads)."""
    file = await export(tmp_path / "export")
    rows, content = pq.read_table(file).to_pylist(), file.read_bytes()
    for place in range(5, len(content), 97):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        report = verify_selection(tmp_path / "export")
        if report.is_sound:
            assert pq.read_table(file).to_pylist() == rows, place


async def test_a_row_group_that_says_it_is_larger_than_ours_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await export(tmp_path / "export")
    monkeypatch.setattr(audit_parquet, "MAX_GROUP_BYTES", 100)
    assert not verify_selection(tmp_path / "export").is_sound


async def test_without_pyarrow_it_is_said_what_to_install_and_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await export(tmp_path / "export")
    real = builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ParquetUnavailable, match=r"wardmesh\[parquet\]"):
        await export(tmp_path / "another")
    with pytest.raises(ParquetUnavailable):
        verify_selection(tmp_path / "export")
    await export_selection(nasty_log(), tmp_path / "csv", Format.CSV, SOME)
    assert names(tmp_path) == ["csv", "export"]
    shutil.rmtree(tmp_path / "csv")
