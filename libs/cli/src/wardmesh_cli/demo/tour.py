"""How a tour is told: chapters of steps, each with what it showed.

What always holds: a step counts as shown only if its function returned; a function returns only if it saw what it must.
The first step that did not show it ends the tour, and is named.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from wardmesh.errors import WardmeshError
from wardmesh_cli.output import BAD, GOOD, QUIET, STRONG, Cell, Output, Styled

T = TypeVar("T")
_INDENT: Final = "     "


class NotShown(Exception):
    """A step did not show what it must; the text says what was seen instead."""


@dataclass(frozen=True, slots=True)
class Evidence(Generic[T]):
    """What a step saw, in words, and what the next steps need of it."""

    says: str
    value: T
    details: tuple[str, ...] = ()
    """Lines to be shown below: an address, a server's own words."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The step that ended the tour."""

    chapter: str
    step: str
    reason: str


@dataclass
class Tour:
    """Tells chapters and steps as they happen."""

    out: Output
    chapters: int = 0
    steps: int = 0
    _chapter: str = ""
    _step: str = ""
    _marks: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        encoding = (getattr(self.out.out.file, "encoding", None) or sys.getdefaultencoding()).lower()
        self._marks = ("✓", "✗") if encoding.startswith("utf") else ("ok", "FAILED")

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Tell a chapter."""
        self.chapters += 1
        self._chapter = title
        if self.out.as_json:
            self.out.item({"chapter": self.chapters, "title": title})
        else:
            self.out.line(f"\n{self.chapters}. {title}", STRONG)
        yield

    async def step(self, title: str, action: Awaitable[Evidence[T]]) -> T:
        """Do a step and tell what it showed; raise what it raised."""
        self._step = title
        began = time.monotonic()
        evidence = await action
        self.steps += 1
        told = {
            "chapter": self.chapters,
            "step": title,
            "shown": evidence.says,
            "details": list(evidence.details),
            "milliseconds": round((time.monotonic() - began) * 1000),
        }
        if self.out.as_json:
            self.out.item(told)
            return evidence.value
        self.out.parts(Styled(f"  {self._marks[0]}  ", GOOD), Styled(f"{title}: ", ""), Styled(evidence.says, STRONG))
        for line in evidence.details:
            self.out.line(f"{_INDENT}{line}", QUIET)
        return evidence.value

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table as part of the tour."""
        if not self.out.as_json:
            self.out.table(columns, rows)

    def failed(self, error: Exception) -> Failure:
        """Tell which step ended the tour, and why."""
        reason = f"{error.code}: {error.detail}" if isinstance(error, WardmeshError) else str(error)
        if not isinstance(error, NotShown | WardmeshError):
            reason = f"{type(error).__name__}: {reason}"
        failure = Failure(self._chapter, self._step, reason)
        if self.out.as_json:
            self.out.item({"chapter": self.chapters, "step": self._step, "failed": reason})
        else:
            self.out.line(f"  {self._marks[1]}  {self._step}: {reason}", BAD)
        return failure


def must(condition: bool, otherwise: str) -> None:
    """Raise `NotShown` unless the condition holds."""
    if not condition:
        raise NotShown(otherwise)


async def refused(action: Awaitable[object], *codes: str) -> WardmeshError:
    """Return the error that an action is refused with; raise `NotShown` if it succeeds or fails in another way."""
    try:
        await action
    except WardmeshError as error:
        must(error.code in codes, f"it was refused with {error.code} ({error.detail}), not {' or '.join(codes)}")
        return error
    raise NotShown(f"it was carried out, and should have been refused with {' or '.join(codes)}")
