"""What the doctor finds, and what `status` makes of what the broker says."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from command_shell import Shell
from nats.aio import client as nats_client

from wardmesh import header_parser
from wardmesh.client.spool_files import SpoolFolder
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import AgentId, WorkspaceId
from wardmesh_cli import checks, probing
from wardmesh_cli.checks import State
from wardmesh_cli.commanding import Run
from wardmesh_cli.commands import status
from wardmesh_cli.connecting import Surroundings
from wardmesh_cli.output import Output


def test_a_machine_without_a_mesh_is_healthy(wardmesh: Shell) -> None:
    wardmesh.profile_file.unlink()
    ran = wardmesh("doctor", "--json")
    assert (ran.status, ran.json["healthy"]) == (0, True)
    found = {finding["name"]: finding for finding in ran.json["findings"]}
    assert found["Python"]["state"] == "ok"
    assert found["data folder"]["state"] == "skipped"


def test_a_package_that_breaks_headers_is_named(wardmesh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    wardmesh.profile_file.unlink()
    monkeypatch.setattr(nats_client, "parse_email", lambda _raw: SimpleNamespace(headers={"Request-Id": ["req_1"]}))
    ran = wardmesh("doctor", "--json")
    assert (ran.status, ran.json["healthy"]) == (1, False)
    [wrong] = [finding for finding in ran.json["findings"] if finding["state"] == "wrong"]
    assert "fast-mail-parser" in wrong["what"]
    assert wrong["do"] == header_parser.ADVICE


@pytest.mark.timeout(30)  # asked once, and not for two minutes
def test_a_mesh_that_is_down_is_not(wardmesh: Shell) -> None:
    wardmesh.with_profile(url="nats://127.0.0.1:1", http_url="http://127.0.0.1:1")
    ran = wardmesh("doctor")
    assert ran.status == 1
    assert "nothing answers at nats://127.0.0.1:1" in ran.out
    assert "wmk_" not in ran.out + ran.err


def test_what_others_can_read_is_found(wardmesh: Shell) -> None:
    identities = wardmesh.profile_file.parent / "identities"
    identities.mkdir(mode=0o755)
    identities.chmod(0o755)
    findings = list(checks.folder(wardmesh.profile_file))
    assert [(finding.name, finding.state) for finding in findings] == [
        ("profile.json", State.OK),
        ("identities", State.WRONG),
    ]
    assert findings[1].do == f"chmod 700 {identities}"


def test_events_that_wait_on_disk_are_shown(wardmesh: Shell, tmp_path: Path) -> None:
    wardmesh.profile_file.unlink()
    folder = tmp_path / "spool"
    spool = SpoolFolder.open(folder, WorkspaceId.new(), AgentId.new())
    spool.append([b"{}", b"{}"])

    def finding() -> dict[str, str]:
        ran = wardmesh("doctor", "--audit-spool", str(folder), "--json")
        return next(each for each in ran.json["findings"] if each["name"] == "audit spool")

    assert finding()["state"] == "ok"
    assert finding()["what"].startswith("2 events wait")
    for segment in folder.glob("0*.events"):
        os.utime(segment, (1, 1))
    assert finding()["state"] == "doubtful"
    spool.refuse(b"{}", "invalid_request")
    assert finding()["state"] == "wrong"
    spool.close()
    assert wardmesh("doctor", "--audit-spool", str(tmp_path / "none")).status == 1


@pytest.mark.parametrize(("off", "state"), [(0, State.OK), (90, State.WRONG), (-90, State.WRONG)])
async def test_a_clock_that_is_off(wardmesh: Shell, off: int, state: State) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=off), usegmt=True)
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(404, headers={"date": date}))
    finding = await checks.clock(wardmesh.with_profile(), Surroundings(http=transport))
    assert finding.state is state


def monitoring(answer: object) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda _request: httpx2.Response(200, content=json.dumps(answer)))


async def test_streams_and_their_readers() -> None:
    consumer = {"name": "sealer", "num_pending": 7, "num_ack_pending": 2, "config": {"durable_name": "sealer"}}
    watcher = {"name": "x1", "num_pending": 0, "config": {}}
    detail = {
        "name": "AUDIT",
        "state": {"messages": 9, "bytes": 4096},
        "config": {"num_replicas": 3},
        "cluster": {"leader": "n1"},
        "consumer_detail": [consumer, watcher],
    }
    bucket = {"name": "KV_jwks", "state": {}}
    answer = {"account_details": [{"stream_detail": [bucket, detail]}, {"stream_detail": None}]}
    audit, jwks = await probing.streams("http://127.0.0.1:1", monitoring(answer))
    assert (audit.name, audit.messages, audit.replicas, audit.leader) == ("AUDIT", 9, 3, "n1")
    assert [(reader.name, reader.waiting, reader.unacknowledged) for reader in audit.consumers] == [("sealer", 7, 2)]
    assert jwks.is_bucket
    assert await probing.streams("http://127.0.0.1:1", monitoring({})) == []


async def test_what_is_no_monitoring_page() -> None:
    with pytest.raises(ServiceUnavailable):
        await probing.streams("http://127.0.0.1:1", monitoring([]))


def test_status_without_an_operator_says_how_to_get_one(wardmesh: Shell) -> None:
    ran = wardmesh("status")
    assert ran.status == 1
    assert "--operator-seed-file" in ran.err


@pytest.mark.timeout(30)  # asked once, and not for two minutes
def test_status_of_a_mesh_that_is_down(wardmesh: Shell) -> None:
    wardmesh.with_profile(url="nats://127.0.0.1:1")
    seed = wardmesh.profile_file.parent / "identities" / "operator.nkey"
    seed.parent.mkdir()
    seed.write_text("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY")
    ran = wardmesh("status")
    assert ran.status == 1
    assert "No broker answers at nats://127.0.0.1:1" in ran.err
    assert "SUACSSL" not in ran.err


def test_a_degraded_service_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    stats = probing.ServiceStats(name="audit", id="a1", metadata={"degraded.log": "it would fork", "other": "x"})
    assert stats.degraded == {"log": "it would fork"}
    run = Run(Output(), Surroundings())
    status._show(run, "nats://x", "2.15", [stats], [], None)
    shown = capsys.readouterr().out
    assert "degraded" in shown
    assert "audit: log: it would fork" in shown
