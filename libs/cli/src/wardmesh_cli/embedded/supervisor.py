"""Keeps processes running: starts them in groups, restarts what dies, stops all in the reverse order.

What always holds:
- `start` returns when every process of the group is ready, or raises and says which is not and why.
- A process that dies later is started again, after a pause that doubles up to `MAX_BACKOFF_SECONDS` while it keeps
  dying, for as long as the supervisor runs.
- Logs are bounded (`logs`), for as long as the supervisor runs.
- No process outlives the supervisor: stopped on `stop`, by the kernel if the supervisor is killed (`launching`), or at
  the next start where the kernel makes no such promise (`leftovers`).

On failure: a process that never became ready raises `ProcessFailed` with the end of its log; one that dies again and
again is reported, line by line, through `report`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from wardmesh.durable_files import PRIVATE_FILE
from wardmesh_cli.embedded import leftovers, logs
from wardmesh_cli.embedded.errors import ProcessFailed
from wardmesh_cli.embedded.launching import in_child
from wardmesh_cli.embedded.processes import ProcessSpec, to_the_end

FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 5.0
HEALTHY_AFTER_SECONDS: Final = 20.0
"""Having run that long, a process that dies is started again without a pause worth the name."""
PROBE_INTERVAL_SECONDS: Final = 0.03
_LOG_TAIL_BYTES = 2_000


class Supervised:
    """One process and the task that watches over it."""

    def __init__(self, spec: ProcessSpec, changed: Callable[[], None], report: Callable[[str], None]) -> None:
        self.spec = spec
        self.starts = 0
        self._changed = changed
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set() and self.pid is not None

    async def start(self) -> None:
        """Start it and wait until it is ready; from then on it is kept running."""
        await self._spawn()
        try:
            await self._until_ready(final=True)
        except BaseException:
            await self._end()
            raise
        self._watch = asyncio.create_task(self._keep_running(), name=f"supervise {self.spec.name}")

    async def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until it is ready (again)."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._ready.wait()
        except TimeoutError:
            raise self._failed(f"was not ready within {timeout_seconds:g} s") from None

    def kill(self) -> None:
        """Kill it, as a crash would; it is started again."""
        # What died a moment ago must not look ready to whoever asks next.
        self._ready.clear()
        if self._process is not None and self.pid is not None:
            self._process.kill()

    async def stop(self) -> None:
        """Stop it, and keep it stopped."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await self._end()

    async def _keep_running(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            began = time.monotonic()
            assert self._process is not None  # noqa: S101 - `start` came before
            code = await self._process.wait()
            self._ready.clear()
            if time.monotonic() - began >= HEALTHY_AFTER_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self._report(f"{self.spec.name} {_ended(code)}; starting it again in {backoff:g} s")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
            try:
                await self._spawn()
                await self._until_ready(final=False)
            except (OSError, subprocess.SubprocessError, ProcessFailed) as error:
                self._report(f"{self.spec.name}: {error}")
                await self._end()
            else:
                if self.pid is not None:
                    self._report(f"{self.spec.name} is back (pid {self.pid})")

    async def _spawn(self) -> None:
        spec = self.spec
        if spec.before_start is not None:
            await to_the_end(spec.before_start)
        log = os.open(spec.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *spec.launch.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.launch.environment),
                cwd=spec.launch.folder,
                # Out of our session: Ctrl-C reaches the supervisor only, which stops them in order.
                start_new_session=True,
                preexec_fn=in_child(spec.launch.death_signal, spec.launch.run_as),
            )
        finally:
            os.close(log)
        self.starts += 1
        self._changed()

    async def _until_ready(self, *, final: bool) -> None:
        give_up = time.monotonic() + self.spec.ready_timeout_seconds
        while not await self.spec.ready():
            if self.pid is None:
                if not final:
                    return  # whoever watches sees that it ended
                code = self._process.returncode if self._process is not None else None
                raise self._failed(f"{_ended(code)} before it was ready")
            if time.monotonic() > give_up:
                raise self._failed(f"was not ready within {self.spec.ready_timeout_seconds:g} s")
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        # A probe may have been answered by somebody else who holds the port; ours must be alive for it to count.
        if self.pid is None:
            if final:
                raise self._failed("ended, and something else answers at its address")
            return
        self._ready.set()

    async def _end(self) -> None:
        process = self._process
        self._ready.clear()
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.spec.stop_signal)
        try:
            async with asyncio.timeout(self.spec.stop_timeout_seconds):
                await process.wait()
        except TimeoutError:
            self._report(f"{self.spec.name} did not stop within {self.spec.stop_timeout_seconds:g} s; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _failed(self, reason: str) -> ProcessFailed:
        return ProcessFailed(self.spec.name, reason, self.spec.log_file, _tail(self.spec.log_file))


class Supervisor:
    """All processes of one mesh."""

    def __init__(
        self,
        pid_file: Path,
        report: Callable[[str], None] = lambda _line: None,
        *,
        max_log_bytes: int = logs.MAX_LOG_BYTES,
    ) -> None:
        self._pid_file = pid_file
        self._report = report
        self._max_log_bytes = max_log_bytes
        self._groups: list[list[Supervised]] = []
        self._by_name: dict[str, Supervised] = {}
        self._bounding: asyncio.Task[None] | None = None

    @property
    def pids(self) -> Mapping[str, int]:
        """The pids of what runs, by name."""
        return MappingProxyType({name: one.pid for name, one in self._by_name.items() if one.pid is not None})

    def end_leftovers(self) -> list[int]:
        """End what an earlier supervisor of this folder left running. Call once, before `start`."""
        return leftovers.end(self._pid_file)

    async def start(self, *specs: ProcessSpec) -> None:
        """Start a group at once and wait until all of it is ready; it is stopped before the groups that came before.

        As soon as one fails, the rest of the group is stopped again and its error is raised: the others may be waiting
        for just this one, and would be blamed when their time is over.
        """
        group = [Supervised(spec, self._remember, self._report) for spec in specs]
        for one in group:
            if one.spec.name in self._by_name:
                raise ValueError(f"a process called {one.spec.name} is there already")
            self._by_name[one.spec.name] = one
        self._groups.append(group)
        if self._bounding is None:
            self._bounding = asyncio.create_task(self._bound_logs(), name="bound logs")
        try:
            async with asyncio.TaskGroup() as starting:
                for one in group:
                    starting.create_task(one.start())
        except BaseExceptionGroup as failures:
            await self._stop_group(self._groups.pop())
            raise failures.exceptions[0] from None  # the first that came; what follows is the cancelling of others

    def __getitem__(self, name: str) -> Supervised:
        return self._by_name[name]

    def kill(self, name: str) -> None:
        """Kill a process as a crash would; it comes back by itself."""
        self[name].kill()

    async def restart(self, name: str) -> None:
        """Stop a process in good order, start it again and wait until it is ready."""
        await self[name].stop()
        await self[name].start()

    async def stop(self) -> None:
        """Stop everything, the last group first. Goes on to the end even when cancelled."""
        stopping = asyncio.ensure_future(self._stop_all())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise

    async def _bound_logs(self) -> None:
        complained: set[Path] = set()
        while True:
            for file in [one.spec.log_file for one in self._by_name.values()]:
                try:
                    await to_the_end(partial(logs.bound, file, max_bytes=self._max_log_bytes))
                except OSError as error:
                    if file not in complained:
                        complained.add(file)
                        self._report(f"{file} can't be kept short: {error.strerror}")
            await asyncio.sleep(logs.LOOK_SECONDS)

    async def _stop_all(self) -> None:
        if self._bounding is not None:
            self._bounding.cancel()
            await asyncio.gather(self._bounding, return_exceptions=True)
            self._bounding = None
        while self._groups:
            await self._stop_group(self._groups.pop())
        self._pid_file.unlink(missing_ok=True)

    async def _stop_group(self, group: list[Supervised]) -> None:
        await asyncio.gather(*(one.stop() for one in group))
        for one in group:
            self._by_name.pop(one.spec.name, None)

    def _remember(self) -> None:
        leftovers.record(self._pid_file, self.pids.values())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _ended(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            handle.seek(max(0, file.stat().st_size - _LOG_TAIL_BYTES))
            return handle.read().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""
