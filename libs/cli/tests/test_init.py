"""Files for others: a deployment's, and the pages of the API."""

from __future__ import annotations

import json
from pathlib import Path

from command_shell import Shell
from openapi_spec_validator import validate

from wardmesh.contracts import ALL
from wardmesh.subjects import SERVICES


def test_a_deployment_is_made_once(wardmesh: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    assert wardmesh("init", "--compose", str(folder)).status == 0
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert wardmesh("init", "--compose", str(folder), "--json").json == {"folder": str(folder)}
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    for service in SERVICES:
        assert (folder / "identities" / f"{service}.nkey") in before
    configuration = json.loads((folder / "nats" / "nats-1.conf").read_text())
    assert len(configuration["cluster"]["routes"]) == 2


def test_a_host_that_is_none_is_a_usage_error(wardmesh: Shell, tmp_path: Path) -> None:
    assert wardmesh("init", "--compose", str(tmp_path / "deploy"), "--host", "not a host").status == 2


def test_the_pages_hold_every_operation_and_every_stream_that_is_read(wardmesh: Shell, tmp_path: Path) -> None:
    assert wardmesh("docs", str(tmp_path / "api")).status == 0
    openapi = json.loads((tmp_path / "api" / "openapi.json").read_text())
    validate(openapi)
    assert len(openapi["paths"]) == len(ALL)
    asyncapi = json.loads((tmp_path / "api" / "asyncapi.json").read_text())
    assert asyncapi["asyncapi"] == "3.0.0"
    assert {channel["address"] for channel in asyncapi["channels"].values()} >= {"audit.>", "bridge.>"}
    first = (tmp_path / "api" / "asyncapi.json").read_bytes()
    wardmesh("docs", str(tmp_path / "api"))
    assert (tmp_path / "api" / "asyncapi.json").read_bytes() == first
