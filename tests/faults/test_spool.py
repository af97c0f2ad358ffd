"""A spool through deaths: emitters killed at random, a broker that is away, and a log that has each event once."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import Final

from tests.faults.conftest import ReportedMesh
from tests.faults.world import House

import wardmesh
from wardmesh.client.spool_files import inspect

SOON: Final = 60.0
EMITTER: Final = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
import wardmesh

drill = wardmesh.ToolCall(action="spool.drill", tool="search")

async def main():
    url, key, folder = sys.argv[1:]
    async with wardmesh.connect(url, key, audit_spool=Path(folder), timeout=timedelta(seconds=0.5)) as mesh:
        async def emit():
            while True:
                print(await mesh.audit.emit(drill), flush=True)
                await asyncio.sleep(0.01)
        await asyncio.gather(*(emit() for _ in range(4)))

asyncio.run(main())
"""


async def test_every_acknowledged_event_is_in_the_log_once(
    breakable: ReportedMesh, house: House, tmp_path: Path, seed: int
) -> None:
    chance, folder = random.Random(seed), tmp_path / "spool"
    acknowledged: list[str] = []
    for broker_dies in (False, True, True):
        command = [sys.executable, "-c", EMITTER, breakable.nats_url, house.here.api_key, str(folder)]
        emitter = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert emitter.stdout is not None
        lines = [await asyncio.wait_for(emitter.stdout.readline(), SOON) for _ in range(chance.randrange(5, 40))]
        if broker_dies:
            breakable.kill("nats")
            lines += [await asyncio.wait_for(emitter.stdout.readline(), SOON) for _ in range(chance.randrange(1, 40))]
        emitter.send_signal(signal.SIGKILL)
        rest = await emitter.stdout.read()
        await emitter.wait()
        acknowledged += (b"".join(lines) + rest[: rest.rfind(b"\n") + 1]).decode().split()
    async with wardmesh.connect(breakable.nats_url, house.here.api_key, audit_spool=folder) as mesh:
        async with asyncio.timeout(SOON):
            while inspect(folder).events:
                await asyncio.sleep(0.05)
            logged: list[str] = []
            while not set(acknowledged) <= set(logged):
                events = [json.loads(leaf)["event"] async for leaf in mesh.audit.leaves()]
                logged = [event["id"] for event in events if event["action"] == "spool.drill"]
    assert len(logged) == len(set(logged)), "the log has none twice"
    assert inspect(folder).damaged == inspect(folder).refused == 0
