"""`emit` by a spool, on a real broker that goes away and processes that are killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

import wardmesh
from wardmesh.client.spool_errors import SpoolFull, SpoolUnusable
from wardmesh.client.spool_files import inspect
from wardmesh.contracts.audit import Emitted
from wardmesh.errors import CredentialRefused, InvalidRequest, ServiceUnavailable

SOON = 20.0
USAGE = wardmesh.ToolCall(tool="search")
EMITTER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
import wardmesh

async def main():
    url, key, folder = sys.argv[1:]
    async with wardmesh.connect(url, key, audit_spool=Path(folder), timeout=timedelta(seconds=0.5)) as mesh:
        async def emit():
            while True:
                print(await mesh.audit.emit(wardmesh.ToolCall(tool="search")), flush=True)
        await asyncio.gather(*(emit() for _ in range(8)))

asyncio.run(main())
"""


class Log:
    """The log's end: takes events, unless told not to, and counts how often each came."""

    def __init__(self, services) -> None:
        self.times: Counter[str] = Counter()
        self.order: list[str] = []
        self.refusing: set[str] = set()
        self.down = False
        self.requests = 0
        services.on("audit.emit", self.emit)

    def emit(self, request):
        self.requests += 1
        if self.down:
            return ServiceUnavailable()
        ids = [event["id"] for event in request.body["events"]]
        if any(event["targets"][0] in self.refusing for event in request.body["events"]):
            return InvalidRequest()
        self.order += [each for each in ids if each not in self.times]
        self.times.update(ids)
        return Emitted(ids=tuple(ids))


@pytest.fixture(autouse=True)
def short_goodbye(monkeypatch) -> None:
    """What is left stays in the spool: nobody need wait for it here."""
    monkeypatch.setattr("wardmesh.client.mesh.CLOSE_SECONDS", 0.3)


@pytest.fixture
def log(services) -> Log:
    return Log(services)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def eventually(holds) -> None:
    async with asyncio.timeout(SOON):
        while not holds():
            await asyncio.sleep(0.02)


async def test_what_is_emitted_is_on_disk_at_once_and_in_the_log_soon(connect, log, folder) -> None:
    async with connect(audit_spool=folder) as mesh:
        ids = await asyncio.gather(*(mesh.audit.emit(USAGE) for _ in range(300)))
        await eventually(lambda: not inspect(folder).events)
    assert log.order == ids
    assert log.requests < 60, "concurrent callers share envelopes"


async def test_without_a_spool_who_emits_learns_that_the_mesh_is_away(mesh, broker) -> None:
    broker.kill()
    with pytest.raises(wardmesh.WardmeshError):
        await mesh.within(timedelta(seconds=0.5)).audit.emit(USAGE)


async def test_events_outlive_the_broker_and_come_in_their_order(connect, log, folder, broker) -> None:
    async with connect(audit_spool=folder) as mesh:
        first = await mesh.audit.emit(USAGE)
        await eventually(lambda: log.times[first])
        broker.kill()
        ids = [await mesh.audit.emit(USAGE) for _ in range(20)]
        assert inspect(folder).events == 20
        broker.start()
        await eventually(lambda: not inspect(folder).events)
    assert log.order == [first, *ids]


async def test_the_next_process_drains_what_is_left(connect, log, folder) -> None:
    log.down = True
    async with connect(audit_spool=folder) as mesh:
        ids = [await mesh.audit.emit(USAGE) for _ in range(5)]
    assert inspect(folder).events == 5
    log.down = False
    async with connect(audit_spool=folder):
        await eventually(lambda: not inspect(folder).events)
    assert log.order == ids


async def test_a_process_that_starts_while_the_mesh_is_away_can_emit(connect, log, folder, broker) -> None:
    broker.kill()
    async with connect(audit_spool=folder, timeout=timedelta(seconds=0.3)) as mesh:
        event = await mesh.audit.emit(USAGE)
        broker.start()
        await eventually(lambda: log.times[event])


async def test_an_event_that_the_log_refuses_is_kept_and_holds_up_none(connect, log, folder) -> None:
    log.refusing, log.down = {"poison"}, True
    async with connect(audit_spool=folder) as mesh:
        before = await mesh.audit.emit(USAGE)
        await mesh.audit.emit(wardmesh.ToolCall(tool="poison"))
        after = await mesh.audit.emit(USAGE)
        log.down = False
        await eventually(lambda: not inspect(folder).events)
    assert log.order == [before, after]
    assert inspect(folder).refused == 1
    assert b"poison" in (folder / "refused.events").read_bytes()
    assert (folder / "refused.events").read_bytes().startswith(b"invalid_request ")


async def test_who_emits_into_a_full_spool_is_told(connect, log, folder, monkeypatch) -> None:
    monkeypatch.setattr("wardmesh.client.spool_files.SpoolFolder.open.__func__.__kwdefaults__", {"max_bytes": 2000})
    log.down = True
    async with connect(audit_spool=folder) as mesh:
        outcomes = await asyncio.gather(*(mesh.audit.emit(USAGE) for _ in range(5)))
        taken = list(outcomes)
        for _ in range(100):
            try:
                taken.append(await mesh.audit.emit(USAGE))
            except SpoolFull:
                break
        assert len(taken) < 100
        log.down = False
        await eventually(lambda: not inspect(folder).events)
        taken.append(await mesh.audit.emit(USAGE))
    assert log.order == taken


async def test_a_wrong_credential_is_no_outage(services, connect, folder) -> None:
    services.on("auth.exchange_key", CredentialRefused())
    with pytest.raises(CredentialRefused):
        async with connect(audit_spool=folder):
            pass
    services.on("auth.exchange_key", services._exchange_key)
    async with connect(audit_spool=folder):  # the folder was given up
        with pytest.raises(SpoolUnusable):
            async with connect(audit_spool=folder):
                pass


@pytest.mark.parametrize("broker_is_there", [True, False])
async def test_what_was_acknowledged_outlives_kill_9(
    connect, log, folder, broker, identity, broker_is_there: bool
) -> None:
    if not broker_is_there:
        broker.kill()
    acknowledged: list[str] = []
    for round_number in range(2):
        command = [sys.executable, "-c", EMITTER, broker.url, identity.api_key, str(folder)]
        emitter = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert emitter.stdout is not None
        lines = [await asyncio.wait_for(emitter.stdout.readline(), SOON) for _ in range(30 + 13 * round_number)]
        emitter.send_signal(signal.SIGKILL)
        rest = await emitter.stdout.read()
        await emitter.wait()
        acknowledged += (b"".join(lines) + rest[: rest.rfind(b"\n") + 1]).decode().split()
    if not broker_is_there:
        broker.start()
    async with connect(audit_spool=folder):
        await eventually(lambda: not inspect(folder).events)
    assert len(acknowledged) >= 73
    assert set(acknowledged) <= set(log.times), "every event that was acknowledged is in the log"
    assert inspect(folder).damaged == 0
