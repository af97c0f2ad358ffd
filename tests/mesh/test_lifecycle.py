"""A whole mesh from its first start to its last stop: what it leaves, what it finds again, and how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.mesh.processes import no_processes_of, processes_of, uids_of

import wardmesh
from wardmesh.subjects import SERVICES
from wardmesh_cli.bootstrap import first_administrator
from wardmesh_cli.door import open_door
from wardmesh_cli.embedded import leftovers
from wardmesh_cli.embedded.errors import DataFolderInUse, IdentityMissing, PortInUse, ProcessFailed
from wardmesh_cli.embedded.launching import RunAs, in_child
from wardmesh_cli.embedded.layout import Ports
from wardmesh_cli.embedded.mesh import EmbeddedMesh, service_command

PROCESSES = {"nats", "postgres", *SERVICES}
PATH, VALUE = "openai/api-key", "sk-kept-through-everything"
STOP_SECONDS = 30.0
BLAMED_SECONDS = 30.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc, and only Linux ties a child's life to ours")
pytestmark = linux

RUN = """
import asyncio, json, signal, sys
from pathlib import Path
from wardmesh_cli.embedded.mesh import EmbeddedMesh
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
async def main():
    async with EmbeddedMesh(data_dir=Path(sys.argv[1])) as mesh:
        print(json.dumps({"http": mesh.http_url, "nats": mesh.nats_url, "pids": dict(mesh.processes)}), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@dataclass(frozen=True)
class House:
    """A folder that a mesh was started in once, and stopped."""

    folder: Path
    api_key: str
    first_pids: dict[str, int]

    async def is_whole(self, nats_url: str) -> None:
        """The organization's key lets us in, and the secret from the first time can be read."""
        async with wardmesh.connect(nats_url, self.api_key) as mesh:
            assert await mesh.secrets.get(PATH) == VALUE


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-life-"))
    async with EmbeddedMesh(data_dir=folder / "data") as mesh:
        async with open_door(mesh.http_url) as door:
            owner = await first_administrator(door)
        async with wardmesh.connect(mesh.nats_url, owner.workspace_key) as client:
            await client.secrets.put(PATH, VALUE)
        made = House(folder / "data", owner.workspace_key, dict(mesh.processes))
    yield made
    shutil.rmtree(folder)


async def test_stopped_it_has_left_no_process(house: House) -> None:
    assert house.first_pids.keys() == PROCESSES
    assert processes_of(house.folder) == {}
    assert not [pid for pid in house.first_pids.values() if leftovers.started(pid)]


async def test_a_second_start_finds_its_data_has_the_folder_alone_and_ends_with_its_supervisor(house: House) -> None:
    async with running(house.folder) as (process, told):
        await house.is_whole(told["nats"])
        with pytest.raises(DataFolderInUse, match=rf"{house.folder} is in use.* {process.pid}: stop .*another folder"):
            await EmbeddedMesh(data_dir=house.folder).start()
        assert told["pids"].keys() == PROCESSES
        assert set(told["pids"].values()) <= processes_of(house.folder).keys()
        process.kill()
        await process.wait()
        await no_processes_of(house.folder)


async def test_the_start_after_that_recovers(house: House) -> None:
    async with EmbeddedMesh(data_dir=house.folder) as mesh:
        with pytest.raises(RuntimeError, match="started already"):
            await mesh.start()
        assert mesh.processes.keys() == PROCESSES
        await house.is_whole(mesh.nats_url)
    assert processes_of(house.folder) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_while_services_start_leaves_nothing(house: House, number: signal.Signals) -> None:
    process, before = await interrupted_up(house.folder, number, after="the streams are declared")
    assert process.returncode in {0, 130}, before
    assert processes_of(house.folder) == {}


async def test_a_first_start_that_is_cut_off_anywhere_can_be_begun_again(tmp_path: Path) -> None:
    """Ctrl-C and then `kill -9` while the database is made, which takes a second or so."""
    folder = tmp_path / "data"
    await interrupted_up(folder, signal.SIGINT, after="starting PostgreSQL")
    assert processes_of(folder) == {}
    await interrupted_up(folder, signal.SIGKILL, after="starting PostgreSQL")
    await no_processes_of(folder)
    async with EmbeddedMesh(data_dir=folder) as mesh:
        assert mesh.processes.keys() == PROCESSES
    assert processes_of(folder) == {}


@pytest.mark.parametrize(("name", "what"), [("nats", "NATS"), ("http", "the gateway"), ("ingest", "webhooks")])
async def test_a_port_that_is_taken_is_named_before_anything_starts(house: House, name: str, what: str) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        lines: list[str] = []
        mesh = EmbeddedMesh(data_dir=house.folder, ports=Ports(**{name: port}), progress=lines.append)
        with pytest.raises(PortInUse, match=rf"port {port}, meant for {what}, is in use.*choose another port"):
            await mesh.start()
    assert lines == []
    assert processes_of(house.folder) == {}


async def test_a_service_that_keeps_failing_is_named_with_its_log(house: House) -> None:
    def command(service: str) -> tuple[str, ...]:
        program = "print('cannot work like this', flush=True); raise SystemExit(3)"
        return (sys.executable, "-c", program) if service == "auth" else tuple(service_command(service))

    await fails(EmbeddedMesh(data_dir=house.folder, command=command), "auth", "cannot work like this")


async def test_a_service_with_a_broken_environment_is_named_with_what_it_said(house: House) -> None:
    class Broken(EmbeddedMesh):
        def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
            wrong = {"WARDMESH_NATS_SEED_FILE": "/nowhere/bridge.nkey"} if service == "bridge" else {}
            return super().environment(service, health_port=health_port) | wrong

    await fails(Broken(data_dir=house.folder), "bridge", "/nowhere/bridge.nkey")


async def fails(mesh: EmbeddedMesh, service: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(ProcessFailed) as failed:
        await mesh.start()
    assert failed.value.process_name == service
    log = mesh.layout.log(service)
    assert str(log) in str(failed.value)
    assert words in str(failed.value)
    assert time.monotonic() - began < BLAMED_SECONDS
    assert processes_of(mesh.data_dir) == {}


async def test_identities_that_are_gone_are_not_made_again(house: House) -> None:
    kept = house.folder / "identities"
    away = kept.rename(house.folder / "away")
    try:
        with pytest.raises(IdentityMissing, match="identities is missing: restore it"):
            await EmbeddedMesh(data_dir=house.folder).start()
        assert not kept.exists()
    finally:
        away.rename(kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="everything here runs as a user already")
async def test_it_runs_as_a_user_as_well_as_root() -> None:
    nobody = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-user-"))
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    try:
        # The interpreter may lie in a home that is closed to others; nothing else of root's is kept.
        run_as = RunAs(nobody.pw_uid, nobody.pw_gid, walks_through_closed_folders=True)
        async with running(folder / "data", before=in_child(signal.SIGKILL, run_as)) as (process, told):
            assert {uid for pid in told["pids"].values() for uid in uids_of(pid)} == {nobody.pw_uid}
            async with open_door(told["http"]) as door:
                owner = await first_administrator(door)
            async with wardmesh.connect(told["nats"], owner.workspace_key) as client:
                await client.secrets.put(PATH, VALUE)
                assert await client.secrets.get(PATH) == VALUE
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        assert processes_of(folder) == {}
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="another account runs PostgreSQL only for root")
async def test_root_may_have_its_data_in_a_folder_that_is_open() -> None:
    """As `make demo` leaves one for `make up`: the way to the data is open, and the way to the socket is not."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-open-"))
    try:
        data = folder / "data"
        data.mkdir()
        for each in (folder, data):
            each.chmod(0o755)
        async with EmbeddedMesh(data_dir=data, services=()) as mesh:
            assert mesh.processes.keys() == {"nats", "postgres"}
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def running(
    folder: Path, before: Callable[[], None] | None = None
) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """A mesh in a process of its own, and what it told once it was up."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(folder), stdout=PIPE, stderr=DEVNULL, env=environment, cwd="/", preexec_fn=before
    )
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        assert line, "it ended before it was up"
        yield process, json.loads(line)
    finally:
        await end(process)


async def interrupted_up(folder: Path, number: signal.Signals, *, after: str) -> tuple[Process, list[str]]:
    """Run `wardmesh up` until it says something, and send it a signal."""
    options = ("--port", "0", "--websocket-port", "0", "--http-port", "0", "--ingest-port", "0")
    command = (sys.executable, "-m", "wardmesh_cli", "up", "--data", str(folder), *options)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        said: list[str] = []
        while not said or after not in said[-1]:
            line = await process.stdout.readline()
            assert line, said
            said.append(line.decode())
        await asyncio.sleep(0.2)  # into the middle of what it said it would do
        process.send_signal(number)
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
        return process, said
    finally:
        await end(process)


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
