"""What the documents point at is there: files, headings, and the tests that they name."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from docs.generate import ROOT, documents

DOCUMENTS = documents()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`(test_\w+)`")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    """Return what headings can be linked by, as the usual renderers make it of them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_of_tests() -> frozenset[str]:
    """Return the names of every test of the repository, and of every file of tests."""
    files = [file for folder in ("libs", "services", "tests") for file in (ROOT / folder).rglob("test_*.py")]
    functions = {found for file in files for found in re.findall(r"def (test_\w+)\(", file.read_text())}
    return frozenset(functions | {file.stem for file in files})


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target}: no such file"
        assert file.is_relative_to(ROOT), f"{target}: outside of the project"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    assert set(NAMED_TEST.findall(document.read_text())) <= names_of_tests()


def test_every_document_is_reached_from_the_first() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in reached:
            continue
        reached.add(document)
        targets = {target.partition("#")[0] for target in LINK.findall(document.read_text())}
        files = {(document.parent / target).resolve() for target in targets if target.endswith(".md")}
        waiting += [file for file in files if file.exists()]
    assert {name(document) for document in DOCUMENTS} - {name(document) for document in reached} == set()
