"""A tail that misses and repeats nothing, however often it is cut off, checked against the log.

Three readers follow one log while it is written: a client from the first entry, a client with a filter and from now,
and server-sent events through the gateway. Their connections are cut in the middle, kicked by the broker, and lose the
audit service and the broker itself to kill -9: fifty times in `make faults`, a few in `make test`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import httpx2
import pytest
from tests.faults.cutting import Wire, kick, wire
from tests.faults.ledger import Log, read_log
from tests.faults.world import House

import wardmesh
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import NewAuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId

GOES_ON_SECONDS: Final = 60.0
"""From a fault until every reader has read something new, on two cores that carry everything else as well."""
ACTION: Final = "load.emit"
WRITERS: Final = 4


@dataclass
class Reader:
    """What somebody has been shown, in order."""

    name: str
    start: int = 0
    shown: list[int] = field(default_factory=list)
    failure: BaseException | None = None


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_tail_misses_and_repeats_nothing(house: House, at_length: bool) -> None:
    cuts = 50 if at_length else 5
    rng = random.Random(50)
    mesh = house.mesh
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(wire(mesh.nats_url))
        door = await stack.enter_async_context(wire(mesh.http_url))
        writer = await stack.enter_async_context(house.tenant.connect(house.here.api_key))
        followers = [
            await stack.enter_async_context(
                wardmesh.connect(f"nats://127.0.0.1:{line.port}", house.here.api_key, timeout=timedelta(seconds=30))
            )
            for _ in range(2)
        ]
        whole, some, events = Reader("a client"), Reader("a client with a filter"), Reader("server-sent events")
        some.start = (await followers[1].audit.tail_page(wait_seconds=0)).next_start
        tasks = [
            asyncio.create_task(_guarded(whole, _follow(followers[0], whole, start=0))),
            asyncio.create_task(_guarded(some, _follow(followers[1], some, start=some.start, text="even"))),
            asyncio.create_task(_guarded(events, _stream(house, door, events))),
        ]
        stopping = asyncio.Event()
        emitted: set[str] = set()
        writers = [asyncio.create_task(_write(writer, emitted, stopping)) for _ in range(WRITERS)]
        readers = (whole, some, events)
        try:
            await _all_go_on(readers)
            cut = 0
            while cut < cuts:
                cut += await _fault(house, rng, line, door, cut, cuts)
                await _all_go_on(readers)
            stopping.set()
            await asyncio.gather(*writers)
            log = await _settled(writer, emitted)
            even = [
                index
                for index, entry in enumerate(log.entries)
                if index >= some.start and entry["event"].get("reason") == "even"
            ]
            await _caught_up(whole, len(log.entries) - 1)
            await _caught_up(events, len(log.entries) - 1)
            await _caught_up(some, even[-1])
        finally:
            stopping.set()
            for task in (*tasks, *writers):
                task.cancel()
            await asyncio.gather(*tasks, *writers, return_exceptions=True)
    size = len(log.entries)
    assert [index for index in whole.shown if index < size] == list(range(size))
    assert [index for index in events.shown if index < size] == list(range(size))
    assert [index for index in some.shown if index < size] == even
    assert emitted <= log.ids.keys()
    assert max(log.ids.values()) == 1


async def _fault(house: House, rng: random.Random, line: Wire, door: Wire, cut: int, cuts: int) -> int:
    """Disconnect readers in one of the ways there are; return how many times that was."""
    await asyncio.sleep(rng.uniform(0.0, 0.3))
    # The servers are killed in every tenth turn, and in the first and the last of a slice.
    if cut % 10 == 0 or cut == cuts - 1:
        victim = "audit" if (cut // 10) % 2 == 0 and cut != cuts - 1 else "nats"
        pid = house.mesh.processes[victim]
        house.mesh.kill(victim)
        await house.mesh.wait_ready(victim, GOES_ON_SECONDS)
        assert house.mesh.processes[victim] != pid
        return 1
    if rng.random() < 0.4:
        return 1 if await kick(house.mesh, house.here.principal) else 0
    return 1 if line.cut() + door.cut() else 0


async def _guarded(reader: Reader, work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - whatever it is, a reader has no reason to end
        reader.failure = error


async def _follow(mesh: Mesh, reader: Reader, *, start: int, text: str | None = None) -> None:
    async for entry in mesh.audit.tail(start=start, text=text):
        reader.shown.append(entry.index)


async def _stream(house: House, door: Wire, reader: Reader) -> None:
    """Follow as a browser does: connect again, and say which id was the last."""
    url = f"http://127.0.0.1:{door.port}/v1/{house.here.workspace}/audit/tail?start=0"
    last = ""
    async with httpx2.AsyncClient(timeout=60) as http:
        while True:
            with suppress(httpx2.TransportError, AssertionError, ValueError):
                token = (await house.tenant.exchange(house.here.api_key, house.here.workspace))["token"]
                headers = {"authorization": f"Bearer {token}", "last-event-id": last}
                async with http.stream("GET", url, headers=headers) as response:
                    seen = ""
                    async for text in response.aiter_lines():
                        if text.startswith("id: "):
                            seen = text.removeprefix("id: ")
                        elif text.startswith("data: "):
                            if "index" in (document := json.loads(text.removeprefix("data: "))):
                                reader.shown.append(document["index"])
                        elif not text and seen:
                            last = seen
            await asyncio.sleep(0.1)


async def _write(mesh: Mesh, emitted: set[str], stopping: asyncio.Event) -> None:
    number = 0
    while not stopping.is_set():
        number += 1
        event = NewAuditEvent(
            id=EventId.new(),
            category=Category.TOOL_CALL,
            action=ACTION,
            outcome=Outcome.SUCCESS,
            reason="even" if number % 2 else "odd",
        )
        with suppress(WardmeshError):
            await mesh.within(timedelta(seconds=5)).audit.emit(event)
            emitted.add(str(event.id))
        await asyncio.sleep(0.05)


async def _all_go_on(readers: tuple[Reader, ...]) -> None:
    before = [len(reader.shown) for reader in readers]
    for reader, count in zip(readers, before, strict=True):
        await _until(reader, lambda reader=reader, count=count: len(reader.shown) > count)


async def _caught_up(reader: Reader, index: int) -> None:
    await _until(reader, lambda: bool(reader.shown) and reader.shown[-1] >= index)


async def _until(reader: Reader, reached: Callable[[], bool]) -> None:
    give_up = asyncio.get_running_loop().time() + GOES_ON_SECONDS
    while not reached():
        assert reader.failure is None, f"{reader.name} ended: {reader.failure!r}"
        assert asyncio.get_running_loop().time() < give_up, f"{reader.name} stands still"
        await asyncio.sleep(0.02)


async def _settled(mesh: Mesh, emitted: set[str]) -> Log:
    """Return the log when it has all that was acknowledged."""
    give_up = asyncio.get_running_loop().time() + GOES_ON_SECONDS + 30
    while True:
        log = await read_log(mesh)
        if emitted <= log.ids.keys() or asyncio.get_running_loop().time() > give_up:
            return log
        await asyncio.sleep(0.5)
