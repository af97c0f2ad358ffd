"""A package beside nats-py that breaks its headers is named before it breaks a call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from nats.aio import client as nats_client

from wardmesh import header_parser

AS_IN_0_10 = """
from types import SimpleNamespace

def parse_email(raw):
    lines = [line.split(b": ", 1) for line in bytes(raw).split(b"\\r\\n") if line]
    return SimpleNamespace(headers={name.decode(): [value.decode()] for name, value in lines})
"""
CONNECT = """
import asyncio, wardmesh
async def main():
    async with wardmesh.connect("nats://127.0.0.1:1", {key!r}):
        pass
asyncio.run(main())
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "fast_mail_parser.py").write_text(AS_IN_0_10)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_client_refuses_to_connect_and_says_what_to_do(tmp_path: Path, identity) -> None:
    ran = run(tmp_path, "-c", CONNECT.format(key=identity.api_key))
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith(f"HeaderParserUnusable: {header_parser.ADVICE}")


def test_a_service_refuses_to_start_and_says_what_to_do(tmp_path: Path) -> None:
    ran = run(tmp_path, "-P", "-m", "wardmesh_secrets")  # they all begin in `runtime.main`
    assert ran.returncode == 70
    assert header_parser.ADVICE in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("headers", "usable"),
    [
        ({"Request-Id": "req_1", "Authorization": "Bearer a.b.c"}, True),
        ({"Request-Id": ["req_1"], "Authorization": ["Bearer a.b.c"]}, False),
        ({"request-id": "req_1", "authorization": "Bearer a.b.c"}, False),
    ],
    ids=["strings", "lists", "other names"],
)
def test_what_counts_is_what_it_reads_and_not_its_version(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, object], usable: bool
) -> None:
    monkeypatch.setattr(nats_client, "parse_email", lambda _raw: SimpleNamespace(headers=headers))
    assert header_parser.is_usable() is usable


def test_one_that_raises_is_of_no_use_and_none_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "parse_email", lambda: None)
    assert not header_parser.is_usable()
    monkeypatch.setattr(nats_client, "parse_email", None)
    header_parser.check()
