"""An entry as one line of a file, in each of the formats of an export: NDJSON, CSV, OCSF.

What always holds: a line has the entry's index, the very bytes that the log hashed, and what opens those (of what
identifies people, `wardmesh.audit_openings`), besides what is made of them; it is made in one way only, so that whoever
has these can tell whether all of the line follows from them. A line ends with the file's line break, and has no other
in it.

CSV is written for spreadsheets, which take some texts for formulas and some characters for the end of a cell: a text
that begins like a formula gets an apostrophe before it, and control characters are spelt out. The leaf, in the last
column, begins with a brace and is as it was hashed.

On failure: `ValueError` for a line, or a leaf, that is none.
"""

from __future__ import annotations

import csv
import enum
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter

from wardmesh.audit_ocsf import to_ocsf
from wardmesh.audit_openings import COMMITTING, committed_of, opened
from wardmesh.contracts.audit import Entry, Opening

_CSV_COLUMNS: Final = (
    "index", "occurred_at", "received_at", "category", "action", "outcome", "actor", "acting_for", "targets", "reason",
    "source", "source_address", "user_agent", "request_id", "trace_id", "id", "scope", "details",
    "withheld", "openings", "leaf",
)  # fmt: skip
_BYTE_ORDER_MARK: Final = "\ufeff".encode()  # or a spreadsheet takes UTF-8 for something else
# What a spreadsheet begins a formula with, also in the wide form of East Asian scripts.
_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_JSON_LINE: Final = re.compile(
    rb'\{"index":(0|[1-9][0-9]{0,17}),(?:"openings":(\[[^]]*\]),)?"leaf":(\{.*\})\}\n', re.DOTALL
)
_OPENINGS: Final = TypeAdapter(tuple[Opening, ...])


class Format(enum.StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"
    OCSF = "ocsf"
    PARQUET = "parquet"
    """Written from lines of NDJSON, once all are there (`wardmesh.audit_parquet`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a line says: an entry's place, the bytes that were hashed, and what opens what they commit to."""

    index: int
    leaf: bytes
    openings: tuple[Opening, ...] = ()

    @property
    def openings_text(self) -> str:
        """The openings as JSON."""
        return _OPENINGS.dump_json(self.openings).decode()


def openings_of(text: str | bytes | None) -> tuple[Opening, ...]:
    """Return openings from JSON; raise `ValueError` for what are none."""
    return _OPENINGS.validate_json(text) if text else ()


def one_line(value: Any) -> str:
    """Return JSON in one spelling and one line: keys sorted, no white space."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


class Rows(NamedTuple):
    """How a format is written and read."""

    file: str
    head: bytes
    encode: Callable[[Row], bytes]
    decode: Callable[[bytes], Row]


def entry_of(row: Row) -> Entry:
    """Return the entry that a leaf says; raise `ValueError` if it says none."""
    document = _object(row.leaf)
    fields = {name: document.get(name) for name in ("scope", "source", "event", "received_at")}
    withheld = tuple(committed_of(row.leaf))
    return opened(Entry.model_validate({"index": row.index, "withheld": withheld, **fields}), row.openings)


def _to_json(row: Row) -> bytes:
    if not row.openings:
        return b'{"index":%d,"leaf":%b}\n' % (row.index, row.leaf)
    # A bracket in a value would end the list too early for who reads it.
    said = row.openings_text[1:-1].replace("]", "\\u005d").encode()
    return b'{"index":%d,"openings":[%b],"leaf":%b}\n' % (row.index, said, row.leaf)


def _to_checked_json(row: Row) -> bytes:
    entry_of(row)  # what is no entry is named now, and not when all is there
    return _to_json(row)


def _from_json(line: bytes) -> Row:
    found = _JSON_LINE.fullmatch(line)
    if found is None:
        raise ValueError("not a line of this export")
    return Row(int(found[1]), found[3], openings_of(found[2]))


def _to_csv(row: Row) -> bytes:
    document = _object(row.leaf)
    event = document.get("event")
    if not isinstance(event, dict):
        raise ValueError("not an entry")  # noqa: TRY004 - of data, not of a type
    withheld: tuple[str, ...] = ()
    if row.leaf.startswith(COMMITTING):
        entry = entry_of(row)
        event, withheld = entry.event.model_dump(mode="json", exclude_defaults=True), entry.withheld
    cells: dict[str, Any] = (
        {"outcome": "success"}
        | event
        | {
            "index": row.index,
            "received_at": document.get("received_at"),
            "source": document.get("source"),
            "scope": document.get("scope"),
            "targets": "; ".join(map(str, event.get("targets", ()))),
            "withheld": "; ".join(withheld),
            "openings": row.openings_text if row.openings else None,
            "details": one_line(event.get("details", {})),
        }
    )
    return _csv_line([*(_cell(cells.get(name)) for name in _CSV_COLUMNS[:-1]), row.leaf.decode()])


def _from_csv(line: bytes) -> Row:
    if not line.endswith(b"\r\n"):
        raise ValueError("not a line of this export")
    cells = next(csv.reader([line[:-2].decode()], strict=True), [])
    if len(cells) != len(_CSV_COLUMNS):
        raise ValueError("not a line of this export")
    return Row(int(cells[0]), cells[-1].encode(), openings_of(cells[-2]))


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", str(value))
    # What was a control character is none any more; what it stood before may be a formula all the same.
    return f"'{text}" if _FORMULA.match(str(value)) or _FORMULA.match(text) else text


def _csv_line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()


def _to_ocsf(row: Row) -> bytes:
    document = to_ocsf(entry_of(row)) | {"raw_data": row.leaf.decode()}
    if row.openings:
        document["unmapped"]["openings"] = _OPENINGS.dump_python(row.openings, mode="json")
    return one_line(document).encode() + b"\n"


def _from_ocsf(line: bytes) -> Row:
    document = _object(line)
    metadata, leaf = document.get("metadata"), document.get("raw_data")
    index = metadata.get("sequence") if isinstance(metadata, dict) else None
    if not isinstance(index, int) or isinstance(index, bool) or not isinstance(leaf, str):
        raise ValueError("not a line of this export")  # noqa: TRY004 - of data
    unmapped = document.get("unmapped")
    said = unmapped.get("openings", []) if isinstance(unmapped, dict) else []
    return Row(index, leaf.encode(), _OPENINGS.validate_json(json.dumps(said)))


def _object(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 - of data, not of a type
    return document


FORMATS: Final = {
    Format.NDJSON: Rows("selection.ndjson", b"", _to_json, _from_json),
    Format.CSV: Rows("selection.csv", _BYTE_ORDER_MARK + _csv_line(list(_CSV_COLUMNS)), _to_csv, _from_csv),
    Format.OCSF: Rows("selection.ocsf.ndjson", b"", _to_ocsf, _from_ocsf),
    Format.PARQUET: Rows("selection.parquet", b"", _to_checked_json, _from_json),
}
