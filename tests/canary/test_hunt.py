"""The hunt finds what is planted: in every form, at every offset, cut short, across chunks; and fails on nothing."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from tests.canary import hunt as hunting
from tests.canary.hunt import EmptyHunt, Secret, hunt

TEXT = Secret("password", "a plant", secrets.token_hex(16).encode())
BYTES = Secret("key", "a plant", os.urandom(32))
PLACES = ("logs", "stream", "database", "traces", "export")

WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda value: value,
    "base64": base64.b64encode,
    "base64, one byte later": lambda value: base64.b64encode(b"x" + value),
    "base64, two bytes later": lambda value: base64.b64encode(b"xy" + value),
    "base64 of a line": lambda value: base64.b64encode(b'{"password": "' + value + b'"}'),
    "URL-safe base64": base64.urlsafe_b64encode,
    "URL-safe base64, in the middle": lambda value: base64.urlsafe_b64encode(b"<?>?" + value + b"\xff\xfe"),
    "base64 of base64": lambda value: base64.b64encode(b"x" + base64.b64encode(b"abcd" + value)),
    "hex": lambda value: value.hex().encode(),
    "upper-case hex": lambda value: value.hex().upper().encode(),
    "hex of base64": lambda value: base64.b64encode(b"x" + value).hex().encode(),
    "URL-escaped": lambda value: quote_plus(b'"' + value + b"/").encode(),
    "URL-escaped, every character": lambda value: "".join(f"%{byte:02x}" for byte in value).encode(),
    "JSON-escaped": lambda value: json.dumps('"' + value.decode("latin-1")).encode(),
    "JSON-escaped, every character": lambda value: "".join(f"\\u{byte:04X}" for byte in value).encode(),
    "UTF-16, little-endian": lambda value: value.decode("latin-1").encode("utf-16-le"),
    "UTF-16, big-endian": lambda value: value.decode("latin-1").encode("utf-16-be"),
    "a Python literal": lambda value: repr(value).encode(),
    "cut short": lambda value: value[:20],
    "the end only": lambda value: value[-20:],
    "cut short, in hex": lambda value: value[:17].hex().encode(),
}


def places(folder: Path, plant: bytes = b"", place: str = "", *, before: int = 0) -> dict[str, list[Path]]:
    """Write one file for each place, of things that look like secrets; `plant` into one of them."""
    made: dict[str, list[Path]] = {}
    for name in PLACES:
        file = folder / name
        noise = os.urandom(3000) + secrets.token_hex(3000).encode() + base64.b64encode(os.urandom(3000)) + bytes(3000)
        file.write_bytes(os.urandom(before) + (plant if name == place else b"") + noise)
        made[name] = [file]
    return made


@pytest.mark.parametrize("secret", [TEXT, BYTES], ids=["text", "bytes"])
@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("place", PLACES)
def test_a_plant_is_found_in_every_place_and_form(tmp_path: Path, place: str, form: str, secret: Secret) -> None:
    for before in (0, secrets.randbelow(64), 1001):
        report = hunt([secret], places(tmp_path, WRITTEN[form](secret.value), place, before=before))
        assert report.places_of(secret) == {place}
        assert report.leaks()


@pytest.mark.parametrize("before", range(hunting.BLOCK_BYTES + 1))
def test_a_plant_is_found_at_any_offset_and_at_the_end_of_a_file(tmp_path: Path, before: int) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"." * before + TEXT.value[-hunting.FRAGMENT_BYTES :])
    (found,) = hunt([TEXT], {"logs": [file]}).findings
    assert found.offset == before


def test_a_plant_across_two_chunks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "CHUNK_BYTES", 4096)
    file = tmp_path / "log"
    for cut in range(1, 32):
        file.write_bytes(b"." * (4096 - cut) + TEXT.value + b"." * 9000)
        assert hunt([TEXT], {"logs": [file]}).findings[0].offset in {4096 - cut, 4096 - cut + 16}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert not hunt([TEXT, BYTES], places(tmp_path)).findings


def test_where_a_secret_may_rest_it_is_found_and_is_no_leak(tmp_path: Path) -> None:
    allowed = Secret("password", "a plant", TEXT.value, may_rest_in=frozenset({"logs"}))
    report = hunt([allowed], places(tmp_path, TEXT.value, "logs"))
    assert report.places_of(allowed) == {"logs"}
    assert not report.leaks()
    assert hunt([allowed], places(tmp_path, TEXT.value, "traces")).leaks()


def test_a_finding_shows_where_it_was_and_not_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "auth.log"
    file.write_bytes(b'{"a": "' + BYTES.value + b'", "detail": "' + TEXT.value + b'"}')
    shown = "\n".join(str(finding) for finding in hunt([TEXT, BYTES], {"logs": [file]}).findings)
    assert "auth.log" in shown
    assert '"detail": "' in shown
    assert TEXT.value[:16].decode() not in shown
    assert TEXT.value[16:].decode() not in shown
    assert repr(BYTES.value)[2:-1] not in shown
    assert TEXT.value.decode() not in repr(TEXT)


def test_a_hunt_over_an_empty_set_fails(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for secret_set, place_set in (
        ([], places(tmp_path)),
        ([TEXT], {}),
        ([TEXT], {"logs": []}),
        ([TEXT], {"logs": [empty]}),
        ([TEXT], {**places(tmp_path), "traces": [empty]}),
    ):
        with pytest.raises(EmptyHunt):
            hunt(secret_set, place_set)


def test_what_could_be_there_by_chance_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too short"):
        hunt([Secret("password", "a plant", b"hunter2")], places(tmp_path))
