"""What the documents say of contracts, settings and errors is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs.generate import ROOT, documents, filled, operations, settings

from wardmesh.contracts import of_service
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


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_every_setting_says_what_it_is_for(service: str) -> None:
    for line in settings(service).splitlines()[2:]:
        assert line.split("|")[3].strip(), f"say under the field what it is for: {line}"


def test_a_changed_document_is_noticed() -> None:
    place = "<!-- begin counts -->\n1 operation.\n<!-- end -->\n"
    assert filled(place) != place
    assert filled(filled(place)) == filled(place)
    assert filled("no place\n") == "no place\n"
