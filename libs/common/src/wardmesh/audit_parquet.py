"""A part of a log as a Parquet file, for those who ask questions of it with DuckDB, Spark or pandas. Needs pyarrow.

What always holds: each row has the entry's index, the very bytes that the log hashed (`leaf`) and what opens those
(`openings`), besides typed columns that are made of them in one way only, so that whoever has these can tell whether
all of the row follows from them. Rows are in the log's order. Memory holds one row group. The same rows are the same
bytes, with the same pyarrow.

On failure: `ParquetUnavailable` without pyarrow; `ValueError` for a file that is none of ours, or a row that is no
entry.

What it does not promise: Parquet's reader trusts sizes that a file claims, so verifying a stranger's file may take as
much memory as that says; the declared sizes of its row groups are looked at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from wardmesh.audit_resuming import on_disk
from wardmesh.audit_rows import Row, entry_of, one_line, openings_of

ROWS_IN_GROUP: Final = 8192
BYTES_IN_GROUP: Final = 16 * 1024 * 1024
"""Of leaves; what is made of them is about as much again."""
MAX_GROUP_BYTES: Final = 16 * BYTES_IN_GROUP
"""What a row group of somebody else's may say that it has."""
_ROWS_AT_ONCE: Final = 512
_COMPRESSION: Final = "zstd"


class ParquetUnavailable(ImportError):
    """pyarrow is not installed."""

    def __init__(self) -> None:
        super().__init__("Parquet needs pyarrow, which is not installed: pip install 'wardmesh[parquet]'")


def require() -> None:
    """Raise `ParquetUnavailable` if Parquet can be neither written nor read."""
    _arrow()


def cells_of(row: Row) -> dict[str, Any]:
    """Return the row's columns; raise `ValueError` if its leaf says no entry."""
    entry = entry_of(row)
    event = entry.event
    return {
        "index": row.index,
        "occurred_at": event.occurred_at,
        "received_at": entry.received_at,
        "category": event.category.value,
        "action": event.action,
        "outcome": event.outcome.value,
        "actor": str(event.actor),
        "acting_for": None if event.acting_for is None else str(event.acting_for),
        "targets": list(event.targets),
        "reason": event.reason,
        "source": entry.source,
        "source_address": event.source_address,
        "user_agent": event.user_agent,
        "request_id": None if event.request_id is None else str(event.request_id),
        "trace_id": event.trace_id,
        "id": str(event.id),
        "scope": str(entry.scope),
        "details": one_line(event.details),
        "withheld": list(entry.withheld),
        "openings": row.openings_text if row.openings else None,
        "leaf": row.leaf,
    }


def write(rows: Iterable[Row], file: Path) -> None:
    """Write rows as a file, in place of one that may be there: all of it or nothing."""
    arrow, parquet = _arrow()
    schema = _schema(arrow)
    new = file.with_name(f"{file.name}.new")
    with new.open("wb") as handle:
        with parquet.ParquetWriter(handle, schema, compression=_COMPRESSION, use_dictionary=_REPEATED) as writer:
            for group in _groups(rows):
                writer.write_table(arrow.Table.from_pylist(list(map(cells_of, group)), schema=schema))
        on_disk(handle)
    new.replace(file)


def read(handle: IO[bytes]) -> Iterator[tuple[Row, bool]]:
    """Yield each row's index and leaf, and whether the rest of the row follows from them."""
    arrow, parquet = _arrow()
    try:
        with parquet.ParquetFile(handle, thrift_container_size_limit=10**6, thrift_string_size_limit=10**7) as file:
            if not file.schema_arrow.equals(_schema(arrow)):
                raise ValueError("not the columns of this export")
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if any(group.total_byte_size > MAX_GROUP_BYTES or group.num_rows > ROWS_IN_GROUP for group in groups):
                raise ValueError("a row group is larger than one of this export can be")
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for cells in batch.to_pylist():
                    row = Row(cells["index"], cells["leaf"], openings_of(cells["openings"]))
                    yield row, cells == cells_of(row)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError("not a Parquet file that can be read") from error


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        if len(group) == ROWS_IN_GROUP or (group and size + len(row.leaf) > BYTES_IN_GROUP):
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.leaf)
    if group:
        yield group


_REPEATED: Final = ["category", "action", "outcome", "actor", "acting_for", "source", "scope", "reason", "user_agent"]
"""Columns of few values: a dictionary of them makes the file a fraction."""


def _schema(arrow: Any) -> Any:
    time, text = arrow.timestamp("us", tz="UTC"), arrow.string()
    texts = ("reason", "source", "source_address", "user_agent", "request_id", "trace_id", "id", "scope", "details")
    return arrow.schema(
        [
            arrow.field("index", arrow.int64(), nullable=False),
            arrow.field("occurred_at", time),
            arrow.field("received_at", time),
            *(arrow.field(name, text) for name in ("category", "action", "outcome", "actor", "acting_for")),
            arrow.field("targets", arrow.list_(text)),
            *(arrow.field(name, text) for name in texts),
            arrow.field("withheld", arrow.list_(text)),
            arrow.field("openings", text),
            arrow.field("leaf", arrow.binary(), nullable=False),
        ]
    )


def _arrow() -> tuple[Any, Any]:
    # Imported here: it is large, and only who exports to Parquet has it.
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ParquetUnavailable from error
    return pyarrow, pyarrow.parquet
