"""What the documents say of contracts, settings and errors is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.generate import ROOT, documents, filled, operations, settings

from wardmesh.contracts import of_service
from wardmesh.server.broker import BUCKETS, OWNED_STREAMS, PRIVATE_BUCKETS
from wardmesh.subjects import SERVICES

GENERATED = [file for file in documents() if "<!-- begin " in file.read_text()]


@pytest.mark.parametrize("document", GENERATED, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_document_is_up_to_date(document: Path) -> None:
    assert filled(document.read_text()) == document.read_text(), "run: make docs"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_shows_its_operations_and_settings(service: str) -> None:
    text = (ROOT / "services" / service / "README.md").read_text()
    for place in (f"<!-- begin operations {service} -->", f"<!-- begin settings {service} -->"):
        assert place in text
    assert operations(service).count("\n") == len(of_service(service)) + 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_names_its_tables_and_streams(service: str) -> None:
    folder = ROOT / "services" / service
    text = (folder / "README.md").read_text()
    migrations = "".join(file.read_text() for file in (folder / "migrations").glob("*.sql"))
    tables = set(re.findall(rf"^create table {service}\.(\w+) \(", migrations, re.MULTILINE))
    buckets = {bucket for bucket, owner in {**BUCKETS, **PRIVATE_BUCKETS}.items() if owner == service}
    assert tables
    for name in tables | buckets | set(OWNED_STREAMS[service]):
        assert f"`{name}`" in text, f"say what {name} is for"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_same_chapters_as_the_others(service: str) -> None:
    text = (ROOT / "services" / service / "README.md").read_text()
    chapters = re.findall(r"^## (.*)$", text, re.MULTILINE)
    shared = ["What always holds", "Operations", "Settings", "Tables and streams", "Rooms", "How to test"]
    assert [chapter for chapter in chapters if chapter in shared] == shared


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_every_setting_says_what_it_is_for(service: str) -> None:
    for line in settings(service).splitlines()[2:]:
        assert line.split("|")[3].strip(), f"say under the field what it is for: {line}"


def test_a_changed_document_is_noticed() -> None:
    place = "<!-- begin counts -->\n1 operation.\n<!-- end -->\n"
    assert filled(place) != place
    assert filled(filled(place)) == filled(place)
    assert filled("no place\n") == "no place\n"
