"""The command as it is installed, on real servers: the tour, a mesh that comes back, and its commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WARDMESH = (sys.executable, "-P", "-m", "wardmesh_cli")
PORTS = ("--port", "0", "--websocket-port", "0", "--http-port", "0", "--ingest-port", "0")
READY_SECONDS = 90.0
STOP_SECONDS = 30.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's own: a socket's path in it would be too long."""
    with tempfile.TemporaryDirectory(prefix="wardmesh-cli-") as place:
        yield Path(place)


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WARDMESH_")}
    return subprocess.run(
        [*WARDMESH, *arguments], cwd=folder, env=environ, input=stdin, capture_output=True, text=True, timeout=120
    )


@contextlib.contextmanager
def up(folder: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """`wardmesh up --json` until the block ends; what it said when it was ready."""
    process = subprocess.Popen(
        [*WARDMESH, "up", "--json", *PORTS], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        give_up = time.monotonic() + READY_SECONDS
        for line in process.stdout:
            said = json.loads(line)
            if said["event"] == "ready":
                yield said, process
                break
            assert time.monotonic() < give_up
        else:
            raise AssertionError(process.stderr.read() if process.stderr else "")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)


def test_the_tour_shows_every_step_and_a_second_one_too(folder: Path) -> None:
    for _ in range(2):
        ran = run(folder, "demo", "--json")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        told = [json.loads(line) for line in ran.stdout.splitlines()]
        assert told[-1]["shown"] == sum("shown" in item and "step" in item for item in told) >= 30
        assert told[-1]["chapters"] == 7
        assert "wmk_" not in ran.stdout + ran.stderr
        assert "whsec_" not in ran.stdout + ran.stderr


def test_a_mesh_of_ones_own_from_first_start_to_second(folder: Path) -> None:
    with up(folder) as (said, process):
        first = said["first_administrator"]
        assert first["password"]
        profile = folder / ".wardmesh" / "profile.json"
        assert stat.S_IMODE(profile.stat().st_mode) == 0o600
        assert "wmk_" not in json.dumps(said)
        assert first["password"] not in profile.read_text()

        assert run(folder, "secret", "put", "a/b", stdin="value\n").returncode == 0
        assert run(folder, "secret", "get", "a/b").stdout == "value"
        status = run(folder, "status", "--json")
        assert status.returncode == 0, status.stderr
        assert json.loads(status.stdout)["missing"] == []
        assert {"AUDIT", "EVENTS"} <= {stream["name"] for stream in json.loads(status.stdout)["streams"]}
        doctor = run(folder, "doctor", "--json")
        assert doctor.returncode == 0, doctor.stdout
        login = run(folder, "login", "--email", first["email"], stdin=first["password"] + "\n")
        assert login.returncode == 0, login.stderr
        assert json.loads(run(folder, "whoami", "--json").stdout)["principal"] == first["user"]
        assert json.loads(run(folder, "whoami", "--org", "--json").stdout)["level"] == "owner"
        assert run(folder, "logout").returncode == 0
        assert run(folder, "audit", "export", "export").returncode == 0
        assert run(folder, "audit", "export", "part", "--format", "csv", "--outcome", "success").returncode == 0
        signed = json.loads(run(folder, "audit", "checkpoint", "--json").stdout)
        keys = "--key", signed["verifier_key"], "--mldsa-key", signed["mldsa_key"]
        (folder / "kept").write_text(signed["note"])
        grown = run(folder, "audit", "growth", "kept", *keys)
        assert (grown.returncode, "ML-DSA-44 key has signed" in grown.stdout) == (0, True), grown.stderr
        event = json.loads(run(folder, "audit", "query", "--limit", "1", "--json").stdout)["entries"][0]["event"]["id"]
        assert run(folder, "audit", "receipt", event, "--output", "receipt").returncode == 0
        erase = "audit", "erase", first["user"], "--org", "--yes", "--output", "certificate", "--receipt", "told"
        assert run(folder, *erase).returncode == 0
        of_org = json.loads(run(folder, "audit", "checkpoint", "--org", "--json").stdout)
        assert "in use by the mesh of process" in run(folder, "up", *PORTS).stderr
    assert process.returncode == 0

    certified = "verify-certificate", "certificate", "--receipt", "told"
    keys_of_org = "--key", of_org["verifier_key"], "--mldsa-key", of_org["mldsa_key"]
    verified = run(folder, "audit", *certified, *keys_of_org)
    assert (verified.returncode, "ML-DSA-44 key has signed it too" in verified.stdout) == (0, True), verified.stderr
    for what in (("verify", "export"), ("verify", "part"), ("verify-receipt", "receipt")):
        verified = run(folder, "audit", *what, *keys)
        assert (verified.returncode, "ML-DSA-44 key has signed it too" in verified.stdout) == (0, True), verified.stdout
    down = run(folder, "secret", "get", "a/b")
    assert (down.returncode, down.stdout) == (1, "")
    assert "service_unavailable" in down.stderr

    with up(folder) as (said, process):
        assert said["first_administrator"] is None
        assert run(folder, "secret", "get", "a/b").stdout == "value"
        revoked = run(folder, "status", "--url", said["mesh"]["url"], "--operator-seed-file", "/dev/null")
        assert revoked.returncode == 1
        assert "Traceback" not in revoked.stderr
