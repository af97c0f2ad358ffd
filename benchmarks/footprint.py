"""What an idle mesh costs, and how long a warm one takes to be ready: embedded NATS and PostgreSQL, five services.

Memory is each service's own (proportional set size where the kernel tells, else resident). The start is that of a
second `up` on a data folder that exists; its floor is the same with the two servers only, in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.report import Figure, step
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.mesh import EmbeddedMesh

IDLE_SECONDS = 5


def _memory_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    text = rollup.read_text() if rollup.exists() else Path(f"/proc/{pid}/status").read_text()
    for name in ("Pss:", "VmRSS:"):
        for line in text.splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"no memory figure for process {pid}")


async def _ready_seconds(folder: Path, *, services: tuple[str, ...] = SERVICES) -> float:
    started = time.perf_counter()
    async with EmbeddedMesh(data_dir=folder, services=services):
        return time.perf_counter() - started


async def _memory(folder: Path) -> dict[str, float]:
    async with EmbeddedMesh(data_dir=folder) as mesh:
        await asyncio.sleep(IDLE_SECONDS)
        return {name: _memory_mb(pid) for name, pid in mesh.processes.items() if name in SERVICES}


async def _measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="wardmesh-bench-") as folder:
        data = Path(folder) / "data"
        step("cold start")
        cold = await _ready_seconds(data)
        warm, floor = [], []
        for number in range(rounds):
            step(f"warm start {number + 1} of {rounds}")
            warm.append(await _ready_seconds(data))
            floor.append(await _ready_seconds(data, services=()))
        step("idle memory")
        memory = await _memory(data)
    heaviest = max(memory, key=lambda name: memory[name])
    ready, servers = statistics.median(warm), statistics.median(floor)
    return [
        Figure(
            "idle memory of the heaviest service", memory[heaviest], "MB", 120, "less",
            ", ".join(f"{name} {used:.0f}" for name, used in sorted(memory.items())),
        ),
        Figure(
            "warm start to ready", ready, "s", 6, "less",
            f"{ready / servers:.1f}× the two servers alone ({servers:.1f} s); cold, with all to make: {cold:.1f} s",
        ),
    ]  # fmt: skip


def measure(*, short: bool = False) -> list[Figure]:
    return asyncio.run(_measure(1 if short else 3))
