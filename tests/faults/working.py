"""What the clients of a load do: each again and again until it stops, and readers with whatever comes."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final, TypeAlias

import httpx2
import stripe
from tests.faults.load import DEADLINES, HTTP_SECONDS, PAUSE_SECONDS, Load
from tests.faults.world import SIGNING_SECRET, House

import wardmesh
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import NewAuditEvent
from wardmesh.contracts.operation import Category
from wardmesh.ids import EventId

HOOK_TRIES: Final = 40
Step: TypeAlias = Callable[[random.Random, float], Awaitable[object]]


def sign_as_stripe(body: bytes) -> dict[str, str]:
    seconds = int(time.time())
    signature = stripe.WebhookSignature._compute_signature(f"{seconds}.{body.decode()}", SIGNING_SECRET)
    return {"stripe-signature": f"t={seconds},v1={signature}", "content-type": "application/json"}


@asynccontextmanager
async def working(house: House, seed: int, deadlines: tuple[float, ...] = DEADLINES) -> AsyncIterator[Load]:
    """A load that is at work while the block runs, and whose readers go on until its end."""
    load = Load(house, seed, deadlines)
    async with AsyncExitStack() as stack:
        here = [await stack.enter_async_context(house.tenant.connect(house.here.api_key)) for _ in range(2)]
        there = await stack.enter_async_context(house.tenant.connect(house.there.api_key))
        http = await stack.enter_async_context(
            # A connection for each request: one that is kept alive may end by itself at any moment.
            httpx2.AsyncClient(headers={"connection": "close"}, timeout=HTTP_SECONDS)
        )
        load.readers = [
            asyncio.create_task(load.read(name, reader), name=name)
            for name, reader in (
                ("events.subscribe", _receive_events(load, here[0])),
                ("events.subscribe", _receive_events(load, here[1])),
                ("bridge.receive", _receive_messages(load, there)),
                ("audit.tail", _follow(load, here[1])),
            )
        ]
        steps: list[tuple[Step, float]] = [
            (_secrets(load, here[0], "load/one"), PAUSE_SECONDS),
            (_secrets(load, here[1], "load/two"), PAUSE_SECONDS),
            *[(_publish(load, here[number % 2]), PAUSE_SECONDS) for number in range(3)],
            *[(_emit(load, here[number % 2]), PAUSE_SECONDS) for number in range(3)],
            *[(_send(load, here[number % 2]), PAUSE_SECONDS) for number in range(3)],
            (_hook(load, http), PAUSE_SECONDS),
            (_hook(load, http), PAUSE_SECONDS),
            (_who_am_i(load, here[0]), PAUSE_SECONDS),
            (_connect(load), 0.3),
            (_gateway(load, http), 0.3),
        ]
        clock = asyncio.create_task(load.watch_the_clock(), name="clock")
        load.workers = [
            asyncio.create_task(load.work(number, step, pause), name=f"worker-{number}")
            for number, (step, pause) in enumerate(steps)
        ]
        try:
            await load.all_kinds_succeed(15)
            yield load
        finally:
            load.stopping = True
            await asyncio.gather(*load.workers, return_exceptions=True)
            for background in (clock, *load.readers):
                background.cancel()
            await asyncio.gather(clock, *load.readers, return_exceptions=True)


def _secrets(load: Load, mesh: Mesh, path: str) -> Step:
    ledger = load.ledger

    async def step(rng: random.Random, seconds: float) -> None:
        value = rng.randbytes(24).hex()
        view = mesh.within(timedelta(seconds=seconds))
        made = await load.call("secrets.put", seconds, view.secrets.put(path, value))
        if made is not None:
            ledger.secrets[path, made.version] = value
        mine = [version for known, version in ledger.secrets if known == path]
        if mine:
            version = rng.choice(mine)
            found = await load.call("secrets.get", seconds, view.secrets.get(path, version=version))
            if found is not None:
                ledger.reads[path] += 1
                if found != ledger.secrets[path, version]:
                    load.defect(f"{path} version {version} is another value than was put")

    return step


def _publish(load: Load, mesh: Mesh) -> Step:
    async def step(rng: random.Random, seconds: float) -> None:
        event_id = str(EventId.new())
        publishing = mesh.within(timedelta(seconds=seconds)).events.publish("load.event", {"n": 1}, id=event_id)
        if await load.call("events.publish", seconds, publishing) is not None:
            load.ledger.published.add(event_id)

    return step


def _emit(load: Load, mesh: Mesh) -> Step:
    async def step(rng: random.Random, seconds: float) -> None:
        event = NewAuditEvent(id=EventId.new(), category=Category.TOOL_CALL, action="load.emit")
        emitting = mesh.within(timedelta(seconds=seconds)).audit.emit(event)
        if await load.call("audit.emit", seconds, emitting) is not None:
            load.ledger.emitted.add(str(event.id))

    return step


def _send(load: Load, mesh: Mesh) -> Step:
    async def step(rng: random.Random, seconds: float) -> None:
        bridge = mesh.within(timedelta(seconds=seconds)).bridge
        sending = bridge.send(load.house.there.workspace, "load.message", {"n": rng.random()})
        sent = await load.call("bridge.send", seconds, sending)
        if sent is not None:
            load.ledger.sent.add(str(sent))

    return step


def _who_am_i(load: Load, mesh: Mesh) -> Step:
    async def step(rng: random.Random, seconds: float) -> None:
        await load.call("auth.who_am_i", seconds, mesh.within(timedelta(seconds=seconds)).auth.who_am_i())

    return step


def _connect(load: Load) -> Step:
    """Somebody who comes anew: the callout, the exchange of the key, a first call."""
    house = load.house

    async def come(seconds: float) -> None:
        patience = timedelta(seconds=seconds)
        async with wardmesh.connect(house.mesh.nats_url, house.here.api_key, timeout=patience) as mesh:
            await mesh.within(patience).auth.who_am_i()

    async def step(rng: random.Random, seconds: float) -> None:
        # Coming and asking have a deadline each; leaving has seconds of its own for what is queued, which is nothing.
        await load.call("connect", 2 * seconds, come(seconds))

    return step


def _hook(load: Load, http: httpx2.AsyncClient) -> Step:
    """A sender that tries again until it is told that its event was accepted, as Stripe does."""

    async def step(rng: random.Random, seconds: float) -> None:
        event_id = f"evt_{rng.randbytes(12).hex()}"
        body = json.dumps({"id": event_id, "object": "event", "type": "invoice.paid"}).encode()
        for attempt in range(HOOK_TRIES):
            posted = await load.post(
                "POST /hooks", http, load.house.hook_url, content=body, headers=sign_as_stripe(body)
            )
            if posted is not None:
                load.ledger.hooked.add(event_id)
                return
            if load.stopping:
                return
            await asyncio.sleep(min(0.05 * 2**attempt, 1.0))

    return step


def _gateway(load: Load, http: httpx2.AsyncClient) -> Step:
    house = load.house
    base = f"{house.mesh.http_url}/v1/{house.here.workspace}"

    async def step(rng: random.Random, seconds: float) -> None:
        asked = {"api_key": house.here.api_key, "scope": house.here.workspace}
        exchanged = await load.post("POST /v1", http, f"{base}/auth/exchange_key", json=asked)
        if exchanged is None:
            return
        headers = {"authorization": f"Bearer {exchanged.json()['token']}"}
        await load.post("POST /v1", http, f"{base}/secrets/list", json={"prefix": "load/"}, headers=headers)

    return step


async def _receive_events(load: Load, mesh: Mesh) -> None:
    async for event in mesh.events.subscribe(">", group="books"):
        async with event:
            load.ledger.events_received[event.id] += 1


async def _receive_messages(load: Load, mesh: Mesh) -> None:
    async for message in mesh.bridge.receive(group="books"):
        async with message:
            load.ledger.messages_received[str(message.id)] += 1


async def _follow(load: Load, mesh: Mesh) -> None:
    following = 0
    async for entry in mesh.audit.tail(start=0):
        if entry.index != following:
            load.defect(f"the tail went from entry {following - 1} to {entry.index}")
        following = entry.index + 1
        load.ledger.tailed[str(entry.event.id)] += 1
