"""The supervisor with tiny programs: readiness, restarts, order, and what is left when it is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from wardmesh_cli.embedded import leftovers, logs
from wardmesh_cli.embedded import supervisor as supervising
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


def total_size(*files: Path) -> int:
    return sum(file.stat().st_size for file in files if file.exists())


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


async def test_the_pause_before_another_start_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that died for an hour is back seconds after its cause is gone."""
    monkeypatch.setattr(supervising, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(supervising, "MAX_BACKOFF_SECONDS", 0.05)
    lines: list[str] = []
    async with Supervisor(tmp_path / "pids", lines.append) as supervisor:
        await supervisor.start(spec(tmp_path, "a", "import time; print('up', flush=True); time.sleep(0.05)"))
        async with asyncio.timeout(WAIT_SECONDS):
            while sum("starting it again" in line for line in lines) < 6:
                await asyncio.sleep(0.02)
    pauses = [line.rpartition(" in ")[2] for line in lines if "starting it again" in line]
    assert pauses[:6] == ["0.01 s", "0.02 s", "0.04 s", "0.05 s", "0.05 s", "0.05 s"]


async def test_one_that_cannot_even_be_started_again_is_tried_again(tmp_path: Path) -> None:
    """The program is away for a moment, as in an upgrade."""
    interpreter, away = tmp_path / "python", tmp_path / "away"
    interpreter.symlink_to(sys.executable)
    lines: list[str] = []
    whole = spec(tmp_path, "a", POLITE)
    async with Supervisor(tmp_path / "pids", lines.append) as supervisor:
        await supervisor.start(replace(whole, launch=replace(whole.launch, command=(str(interpreter), "-c", POLITE))))
        interpreter.rename(away)
        supervisor.kill("a")
        async with asyncio.timeout(WAIT_SECONDS):
            while not any("No such file" in line for line in lines):
                await asyncio.sleep(0.02)
        away.rename(interpreter)
        await supervisor["a"].wait_ready(WAIT_SECONDS)
        assert "a" in supervisor.pids


async def test_the_one_that_failed_is_blamed_at_once_and_not_who_waited_for_it(tmp_path: Path) -> None:
    began = time.monotonic()
    async with Supervisor(tmp_path / "pids") as supervisor:
        waiting = spec(tmp_path, "waiting", "import time; time.sleep(600)")
        bad = spec(tmp_path, "bad", "import time; time.sleep(0.2); raise SystemExit(3)")
        with pytest.raises(ProcessFailed, match="bad ended with status 3") as failed:
            await supervisor.start(waiting, bad)
        assert str(tmp_path / "bad.log") in str(failed.value)
        assert dict(supervisor.pids) == {}
    assert time.monotonic() - began < WAIT_SECONDS / 2


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "pids") as supervisor:
        starting = asyncio.create_task(
            supervisor.start(spec(tmp_path, "a", STUBBORN.replace("'up'", "'not yet'"), stop_timeout_seconds=0.3))
        )
        async with asyncio.timeout(WAIT_SECONDS):
            while "a" not in supervisor.pids:
                await asyncio.sleep(0.01)
        pid = supervisor.pids["a"]
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    await gone(pid)
    assert not (tmp_path / "pids").exists()


async def test_logs_are_bounded_while_a_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.05)
    program = """if True:
        import time
        print('up', flush=True)
        for number in range(100_000):
            print(f'{number:06} ' + 'x' * 93, flush=True)
            if number % 100 == 0:
                time.sleep(0.01)
    """
    log = tmp_path / "a.log"
    async with Supervisor(tmp_path / "pids", max_log_bytes=100_000) as supervisor:
        await supervisor.start(spec(tmp_path, "a", program))
        sizes = []
        for _ in range(40):
            await asyncio.sleep(0.05)
            sizes.append(total_size(log, logs.predecessor(log)))
    older, newer = logs.predecessor(log), log
    assert max(sizes) < 1_000_000
    assert older.stat().st_mode & 0o077 == 0
    lines = [*older.read_text().splitlines(), *newer.read_text().splitlines()]
    numbers = [int(line[:6]) for line in lines if line[:6].isdigit() and len(line) == 100]
    assert numbers[0] > 0  # what is oldest is gone
    assert numbers == sorted(numbers)
    assert len(numbers) > 0.9 * (numbers[-1] - numbers[0])


def test_a_log_that_cannot_be_copied_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 100)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        logs.bound(log, max_bytes=10)
    assert log.read_text() == "x" * 100
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]
    assert not logs.bound(tmp_path / "absent", max_bytes=10)


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
