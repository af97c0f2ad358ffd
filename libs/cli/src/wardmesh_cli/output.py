"""What a command shows: for people on a terminal, plain in a pipe, JSON when asked.

What always holds: results go to standard output, everything else to standard error. On a terminal, tables may have
colour (not with NO_COLOR); in a pipe, columns are padded with blanks and nothing is cut. With `--json`, standard output
holds one JSON document, or one a line for streams, and nothing else.

Text that came from elsewhere is shown with its control characters escaped: a workspace's name must not be able to move
the cursor, change a window's title or run colours over what stands next to it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

# C0 and C1 controls, and the marks that reorder what is shown.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSAFE_IN_CELL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_COLUMN_GAP: Final = "  "

GOOD: Final = "green"
BAD: Final = "red"
DOUBTFUL: Final = "yellow"
QUIET: Final = "dim"
STRONG: Final = "bold"


@dataclass(frozen=True, slots=True)
class Styled:
    """Text with a colour, where there are colours."""

    text: str
    style: str


Cell: TypeAlias = "str | int | float | datetime | Styled | None"
Jsonable: TypeAlias = "BaseModel | Mapping[str, Any] | Sequence[Any]"


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool = False, out: Console | None = None, err: Console | None = None) -> None:
        self.as_json = as_json
        self.out = out or Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
        self.err = err or Console(file=sys.stderr, highlight=False, emoji=False, markup=False)

    @property
    def is_terminal(self) -> bool:
        return self.out.is_terminal and not self.as_json

    def document(self, value: Jsonable) -> None:
        """Show a result as one JSON document."""
        self._write(to_json(value, indent=2 if self.out.is_terminal else None))

    def item(self, value: Jsonable) -> None:
        """Show one item of a stream: one JSON document in one line."""
        self._write(to_json(value))

    def line(self, text: str = "", style: str = "") -> None:
        """Show one line to people."""
        self._print(self.out, text, style)

    def parts(self, *parts: Styled) -> None:
        """Show one line to people, whose parts differ in style."""
        if self.out.is_terminal:
            line = Text.assemble(*((_UNSAFE.sub(_escape, part.text), part.style) for part in parts))
            self.out.print(line, soft_wrap=True)
        else:
            self.line("".join(part.text for part in parts))

    def note(self, text: str, style: str = "") -> None:
        """Say something that is not the result, on standard error."""
        self._print(self.err, text, style)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Show rows. Nothing is cut: what is too wide for a terminal is folded where it is prose, and wrapped else."""
        cells = [[_styled(cell) for cell in row] for row in rows]
        names = columns if self.out.is_terminal else [column.upper() for column in columns]
        lines = [[Styled(name, QUIET) for name in names], *cells]
        widths = [max(len(line[place].text) for line in lines) for place in range(len(columns))]
        if self.out.is_terminal and self._folds(widths, cells):
            self.out.print(_folding(columns, cells, widths))
            return
        for line in lines:
            padded = [Styled(cell.text.ljust(width), cell.style) for cell, width in zip(line, widths, strict=True)]
            self._row(padded)

    def _folds(self, widths: Sequence[int], cells: Sequence[Sequence[Styled]]) -> bool:
        """Tell whether folding the last column, and no other, makes a table fit. An id must stay in one piece."""
        before = sum(widths[:-1]) + len(_COLUMN_GAP) * (len(widths) - 1)
        longest_word = max((len(word) for row in cells for word in row[-1].text.split()), default=0)
        return before + widths[-1] > self.out.width >= before + longest_word

    def _row(self, cells: Sequence[Styled]) -> None:
        if self.out.is_terminal:
            self.out.print(Text(_COLUMN_GAP).join(Text(cell.text, cell.style) for cell in cells), soft_wrap=True)
        else:
            self._write(_COLUMN_GAP.join(cell.text for cell in cells).rstrip())

    def facts(self, pairs: Mapping[str, Cell]) -> None:
        """Show names and values, one pair a line."""
        width = max((len(name) for name in pairs), default=0)
        for name, value in pairs.items():
            cell = _styled(value)
            if self.out.is_terminal:
                line = Text.assemble((name.ljust(width), QUIET), _COLUMN_GAP, (cell.text, cell.style))
                self.out.print(line, soft_wrap=True)
            else:
                self._write(f"{name.ljust(width)}{_COLUMN_GAP}{cell.text}")

    def raw(self, content: bytes) -> None:
        """Write bytes exactly as they are; on a terminal, on a line of their own."""
        self.out.file.flush()
        buffer = getattr(self.out.file, "buffer", None)
        if buffer is None:  # a captured stream
            self.out.file.write(content.decode("utf-8", "replace"))
        else:
            buffer.write(content)
            buffer.flush()
        if self.out.is_terminal and not content.endswith(b"\n"):
            self._write("")

    def _print(self, console: Console, text: str, style: str) -> None:
        shown = _UNSAFE.sub(_escape, text)
        if console.is_terminal:
            console.print(Text(shown, style), soft_wrap=True)
        else:
            console.file.write(shown + "\n")
            console.file.flush()

    def _write(self, line: str) -> None:
        self.out.file.write(line + "\n")
        self.out.file.flush()


def _folding(columns: Sequence[str], cells: Sequence[Sequence[Styled]], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style=QUIET, padding=(0, len(_COLUMN_GAP), 0, 0))
    for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
        is_last = place == len(columns) - 1
        table.add_column(column, min_width=None if is_last else width, no_wrap=not is_last, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell.text, cell.style) for cell in row))
    return table


def to_json(value: Jsonable, *, indent: int | None = None) -> str:
    """Return JSON that is safe to show: control characters are escaped, also those that JSON would let pass."""
    text = json.dumps(_plain(value), indent=indent, ensure_ascii=False, separators=None if indent else (",", ":"))
    return _UNSAFE.sub(_escape, text)


def timestamp(moment: datetime) -> str:
    """Return a time to the second, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return timestamp_json(value) if isinstance(value, datetime) else value


def timestamp_json(moment: datetime) -> str:
    """Return a time as RFC 3339, in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _styled(cell: Cell) -> Styled:
    if isinstance(cell, Styled):
        return Styled(_safe(cell.text), cell.style)
    if isinstance(cell, datetime):
        return Styled(timestamp(cell), "")
    return Styled("-" if cell is None else _safe(str(cell)), QUIET if cell is None else "")


def _safe(text: str) -> str:
    return _UNSAFE_IN_CELL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
