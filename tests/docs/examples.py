"""Examples in Markdown: what a reader could copy, and what the page says comes out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```\n?", re.DOTALL | re.MULTILINE)
_LEFT_OUT: Final = "…"


@dataclass(frozen=True)
class Example:
    """A program or a command, and what it prints; `…` in that stands for anything, and white space for more of it."""

    document: Path
    line: int
    text: str
    expected: str | None

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str
    line: int
    adjoins: bool
    """Whether it follows the block before it with nothing in between."""


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    end = -1
    for match in _FENCE.finditer(text):
        yield Block(match["language"], match["text"], text.count("\n", 0, match.start()) + 1, match.start() == end)
        end = match.end()


def programs(document: Path) -> list[Example]:
    """Return the Python blocks; a text block right behind one is what it prints."""
    found: list[Example] = []
    for block in blocks(document):
        if block.language == "python":
            found.append(Example(document, block.line, block.text, None))
        elif block.language == "text" and block.adjoins and found and found[-1].expected is None:
            last = found.pop()
            found.append(Example(document, last.line, last.text, block.text))
    return found


def sessions(document: Path) -> list[list[Example]]:
    """Return the console blocks, each a list of commands that follow each other."""
    return [_commands(document, block) for block in blocks(document) if block.language == "console"]


def _commands(document: Path, block: Block) -> list[Example]:
    found: list[Example] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        found.append(Example(document, block.line, command, output))
    return found


def is_as_expected(expected: str, output: str) -> bool:
    """Tell whether `output` is what the page says. What the page leaves out at the end may be left out."""
    parts = [
        r"\s+".join(re.escape(word) for word in part.split()) if part.strip() else ""
        for part in expected.strip().split(_LEFT_OUT)
    ]
    return re.match(r"\s*" + r"[\s\S]*?".join(_around(parts)), output.strip()) is not None


def _around(parts: list[str]) -> Iterator[str]:
    for part in parts:
        yield rf"\s*{part}" if part else ""
