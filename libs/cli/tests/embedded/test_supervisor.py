"""The supervisor with tiny programs: readiness, restarts, order, and what is left when it is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from wardmesh_cli.embedded import leftovers
from wardmesh_cli.embedded.errors import ProcessFailed
from wardmesh_cli.embedded.ports import free_ports
from wardmesh_cli.embedded.processes import Launch, ProcessSpec, http_ready, line_ready
from wardmesh_cli.embedded.supervisor import Supervisor

STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
POLITE = "import time; print('up', flush=True); time.sleep(600)"
WAIT_SECONDS = 10.0


def spec(folder: Path, name: str, program: str, **changes: object) -> ProcessSpec:
    log = folder / f"{name}.log"
    options: dict[str, object] = {"ready": line_ready(log, "^up$"), "ready_timeout_seconds": WAIT_SECONDS} | changes
    return ProcessSpec(name=name, launch=Launch(command=(sys.executable, "-c", program)), log_file=log, **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    return leftovers.started(pid) is not None


async def gone(pid: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def test_what_is_killed_comes_back(tmp_path: Path) -> None:
    lines: list[str] = []
    async with Supervisor(tmp_path / "pids", lines.append) as supervisor:
        await supervisor.start(spec(tmp_path, "a", POLITE))
        first = supervisor.pids["a"]
        supervisor.kill("a")
        await supervisor["a"].wait_ready(WAIT_SECONDS)
        assert supervisor.pids["a"] != first
        assert any("SIGKILL" in line for line in lines)
        last = supervisor.pids["a"]
    await gone(last)
    assert not (tmp_path / "pids").exists()


async def test_one_that_keeps_dying_is_started_again_at_growing_intervals(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    program = f"""if True:
        import pathlib, time
        with pathlib.Path({str(marker)!r}).open("a") as file:
            file.write("x")
        print("up", flush=True)
        time.sleep(0.05)
    """
    async with Supervisor(tmp_path / "pids") as supervisor:
        await supervisor.start(spec(tmp_path, "a", program))
        await asyncio.sleep(2)
    assert 3 <= len(marker.read_text()) <= 8


async def test_one_that_never_is_ready_fails_with_the_end_of_its_log_and_takes_its_group_along(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "pids") as supervisor:
        bad = spec(tmp_path, "bad", "print('no such table: x', flush=True); raise SystemExit(3)")
        with pytest.raises(ProcessFailed, match=r"(?s)bad ended with status 3.*no such table"):
            await supervisor.start(spec(tmp_path, "good", POLITE), bad)
        assert dict(supervisor.pids) == {}
        slow = spec(tmp_path, "slow", "import time; time.sleep(600)", ready_timeout_seconds=0.3)
        with pytest.raises(ProcessFailed, match=r"slow was not ready within 0\.3 s"):
            await supervisor.start(slow)
        assert dict(supervisor.pids) == {}


async def test_groups_stop_in_reverse_order_and_the_stubborn_are_killed(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def program(name: str) -> str:
        return textwrap.dedent(f"""
            import signal, sys, time, pathlib
            def stop(*_):
                with pathlib.Path({str(order)!r}).open("a") as f: f.write("{name} ")
                sys.exit(0)
            signal.signal(signal.SIGTERM, stop)
            print("up", flush=True)
            time.sleep(600)
        """)

    async with Supervisor(tmp_path / "pids") as supervisor:
        await supervisor.start(spec(tmp_path, "first", program("first")))
        await supervisor.start(spec(tmp_path, "second", program("second")))
        await supervisor.start(spec(tmp_path, "stubborn", STUBBORN, stop_timeout_seconds=0.3))
        pid = supervisor.pids["stubborn"]
    await gone(pid)
    assert order.read_text() == "second first "


async def test_restart_is_orderly(tmp_path: Path) -> None:
    lines: list[str] = []
    async with Supervisor(tmp_path / "pids", lines.append) as supervisor:
        await supervisor.start(spec(tmp_path, "a", POLITE))
        before = supervisor.pids["a"]
        await supervisor.restart("a")
        assert supervisor.pids["a"] != before
        assert lines == []


async def test_something_else_at_the_address_does_not_make_it_ready(tmp_path: Path) -> None:
    [port] = free_ports(1)
    squatter = await asyncio.start_server(_ok, "127.0.0.1", port)
    async with Supervisor(tmp_path / "pids") as supervisor, squatter:
        dying = spec(tmp_path, "a", "raise SystemExit(1)", ready=_late(http_ready(f"http://127.0.0.1:{port}/ready")))
        with pytest.raises(ProcessFailed):
            await supervisor.start(dying)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to its parent's")
async def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_supervisor import STUBBORN, spec, Supervisor
        async def main():
            folder = Path({str(tmp_path)!r})
            supervisor = Supervisor(folder / "pids")
            await supervisor.start(spec(folder, "a", STUBBORN), spec(folder, "b", STUBBORN))
            print(*supervisor.pids.values(), flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220
        assert child.stdout is not None
        pids = [int(pid) for pid in (await asyncio.to_thread(child.stdout.readline)).split()]
        assert len(pids) == 2
        child.kill()
    for pid in pids:
        await gone(pid)


async def test_leftovers_are_ended_but_never_a_stranger_with_the_same_pid(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", POLITE], stdout=subprocess.DEVNULL) as orphan:  # noqa: ASYNC220
        file = tmp_path / "pids"
        leftovers.record(file, [orphan.pid])
        reaping = asyncio.create_task(asyncio.to_thread(orphan.wait))
        assert await asyncio.to_thread(leftovers.end, file) == [orphan.pid]
        assert await reaping != 0
    file.write_text(f'{{"{os.getpid()}": "some other time"}}')
    assert leftovers.end(file) == []


async def _ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    writer.close()


def _late(probe):  # type: ignore[no-untyped-def]
    began = time.monotonic()

    async def late() -> bool:
        return time.monotonic() - began > 0.3 and await probe()

    return late
