"""What a process of the mesh is: how it is launched, when it is ready, how it is stopped.

A probe asks once and answers at once: True if the process is ready. It never raises for a process that isn't there yet.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, TypeVar
from urllib.parse import urlsplit, urlunsplit

from wardmesh_cli.embedded.launching import RunAs

DEFAULT_READY_TIMEOUT_SECONDS: Final = 60.0
"""A cold start of five Python processes on one slow core."""
DEFAULT_STOP_TIMEOUT_SECONDS: Final = 10.0
"""Longer than a service drains; after that it is killed, which everything here survives."""
PROBE_TIMEOUT_SECONDS: Final = 2.0

Probe: TypeAlias = Callable[[], Awaitable[bool]]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Launch:
    """A program, its arguments, its environment and the account that it runs as."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    run_as: RunAs | None = None
    death_signal: signal.Signals = signal.SIGKILL
    """What it gets if we die. SIGKILL, unless it has children of its own to end."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to supervise."""

    name: str
    launch: Launch
    log_file: Path
    """Takes its standard output and error as they come, appended."""
    ready: Probe
    ready_timeout_seconds: float = DEFAULT_READY_TIMEOUT_SECONDS
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_seconds: float = DEFAULT_STOP_TIMEOUT_SECONDS
    before_start: Callable[[], None] | None = None
    """Runs before every start, restarts too: clears away what a killed predecessor left."""


async def to_the_end(function: Callable[[], ResultT]) -> ResultT:
    """Run `function` in a thread. Who is cancelled meanwhile waits for it all the same: a thread can't be stopped, and
    what it does to a folder must not go on when the folder is somebody else's."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # retrieved, so that it isn't reported a second time
        raise


def http_ready(url: str) -> Probe:
    """Return a probe that asks for `url` and wants a 200."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    request = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()

    async def probe() -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(request)
                    status = (await reader.readline()).split()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return status[1:2] == [b"200"]

    return probe


def line_ready(log_file: Path, pattern: str) -> Probe:
    """Return a probe that wants a line of the log that matches; lines from before the probe was made don't count."""
    compiled = re.compile(pattern.encode(), re.MULTILINE)
    offset = log_file.stat().st_size if log_file.exists() else 0

    async def probe() -> bool:
        try:
            with log_file.open("rb") as handle:
                handle.seek(offset)
                return compiled.search(handle.read()) is not None
        except FileNotFoundError:
            return False

    return probe
