"""What `up` says before it starts anything, and what it needs to be installed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command_shell import Shell

from wardmesh_cli.commands.up import Interruption
from wardmesh_cli.embedded.files import FolderLock


def test_a_port_that_is_taken_is_named_with_a_way_out(wardmesh: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = wardmesh("up", "--port", "0", "--websocket-port", "0", "--ingest-port", "0", "--http-port", port)
    assert ran.status == 1
    assert f"Port {port}, meant for the gateway, is in use by another program." in ran.err
    assert "--http-port 0 for any" in ran.err


def test_a_folder_in_use_is_said_so_first(wardmesh: Shell) -> None:
    folder = wardmesh.profile_file.parent
    with FolderLock(folder):
        ran = wardmesh("up", "--data", str(folder))
    assert ran.status == 1
    assert f"is in use by the mesh of process {os.getpid()}" in ran.err


def test_a_folder_that_cannot_be_made_is_said_so(wardmesh: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = wardmesh("up", "--data", str(tmp_path / "file" / "data"))
    assert ran.status == 1
    assert "Name another folder with --data." in ran.err


def test_the_data_folder_is_closed_and_never_committed(wardmesh: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wardmesh("up", "--data", str(folder), "--port", str(taken.getsockname()[1]))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text().endswith("*\n")


@pytest.mark.parametrize("command", [["up"], ["demo"], ["init", "--compose", "x"], ["docs", "x"]])
def test_a_missing_extra_is_said_in_words(wardmesh: Shell, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    for module in [
        name for name in sys.modules if name.startswith(("wardmesh_cli.embedded", "wardmesh_cli.deployment"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("wardmesh_cli.embedded.mesh", "wardmesh_cli.embedded.layout", "wardmesh_cli.deployment"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "wardmesh_auth.openapi", None)
    ran = wardmesh(*command)
    assert ran.status == 1
    assert "pip install 'wardmesh-cli[embedded]'" in ran.err


def test_working_with_a_mesh_loads_no_server() -> None:
    """What the extra `embedded` brings is not loaded, and so not needed, by any command but those that say so."""
    program = (
        "import json, sys; import wardmesh_cli.application as a; import typer; typer.main.get_command(a.build());"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    servers = ("wardmesh_cli.embedded", "wardmesh.server", "wardmesh_", "faststream", "asyncpg", "starlette", "stripe")
    allowed = ("wardmesh_cli",)
    found = [
        name
        for name in loaded
        if name.startswith(servers) and not (name.startswith(allowed) and not name.startswith("wardmesh_cli.embedded"))
    ]
    assert found == []


async def test_an_interruption_cancels_what_is_begun() -> None:
    cancelled = asyncio.Event()

    async def forever() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with Interruption() as interruption:
        assert not await interruption.or_done(forever)
    assert cancelled.is_set()


async def test_what_fails_before_an_interruption_fails() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async with Interruption() as interruption:
        with pytest.raises(ZeroDivisionError):
            await interruption.or_done(fail)
