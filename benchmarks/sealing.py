"""Sealed events a second, and how long sealing takes: two copies of the audit service on a real broker and database.

Every rate is taken the same way: the stream is filled while nobody reads it; then two processes work it off. The clock
starts when the first message is given to one of them and stops when the last is acknowledged. `sealing_floor` says
what the log is compared with; floor and log alternate, in the same run, on the same database server.

A chained row's cost does not depend on how many there are, so the peer is measured on a slice.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg
import nats
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from benchmarks import sealing_floor
from benchmarks.log_events import make_envelopes, make_scopes
from benchmarks.log_world import broker_as_audit, log_world, publish, sealers
from benchmarks.report import Figure, median_ratio, step
from benchmarks.servers import broker
from wardmesh.ids import Scope
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.messaging import Messaging
from wardmesh.server.streams import AUDIT, Choices, declared
from wardmesh.subjects import AuditSubject
from wardmesh_audit.subscriber import CONSUMER
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER

PROCESSES: Final = 2
TENANTS: Final = 50
ENVELOPE_EVENTS: Final = 100
SMALL_ENVELOPE_EVENTS: Final = 5
POLL_SECONDS: Final = 0.01
GIVE_UP_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.002
LOOK_SHARE: Final = 0.05
"""Of what has passed, between two looks: so exact is the latency, and a late entry is not looked for all the time."""
SAMPLES_A_SECOND: Final = 20
"""Envelopes whose way into the log is timed; looking for all of them would be a load of its own."""


_IS_IN: Final = "select true from audit.leaves where scope_id = $1 and event_id = $2"


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    events: int
    chained: int
    """Events that the peer is given."""
    latency_seconds: float


@dataclass(slots=True)
class Rates:
    """Events a second, a number for each round."""

    floor: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    small_floor: list[float] = field(default_factory=list)
    small: list[float] = field(default_factory=list)
    chain: list[float] = field(default_factory=list)


def messages_for(scopes: Sequence[Scope], envelopes: Sequence[bytes]) -> list[OutboundMessage]:
    """Return the envelopes, dealt out to the scopes in turn."""
    subjects = itertools.cycle([AuditSubject(scope, "audit").format() for scope in scopes])
    return [OutboundMessage(subject, envelope) for subject, envelope in zip(subjects, envelopes, strict=False)]


@dataclass(frozen=True, slots=True)
class Queue:
    """A stream that is emptied by the readers of one consumer."""

    jetstream: JetStreamContext
    stream: str
    consumer: str

    async def undelivered(self) -> int | None:
        """Return how many messages nobody has been given yet; None while there is no consumer."""
        try:
            return (await self.jetstream.consumer_info(self.stream, self.consumer)).num_pending
        except nats.js.errors.NotFoundError:
            return None

    async def left(self) -> int:
        """Return how many messages are not acknowledged."""
        return (await self.jetstream.stream_info(self.stream)).state.messages

    async def work_off(self, messages: int, events_each: int) -> float:
        """Return the events a second at which so many messages are taken and acknowledged."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while await self.undelivered() in {None, messages}:
                await asyncio.sleep(POLL_SECONDS)
            started = time.perf_counter()
            while await self.left():
                await asyncio.sleep(POLL_SECONDS)
        return messages * events_each / (time.perf_counter() - started)


async def _sealed(mesh: EmbeddedMesh, messaging: Messaging, messages: Sequence[OutboundMessage], each: int) -> float:
    await publish(messaging, messages)
    async with sealers(mesh, PROCESSES):
        return await Queue(messaging.jetstream, AUDIT, CONSUMER).work_off(len(messages), each)


@contextmanager
def _workers(kind: str, nats_url: str, database_url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.sealing_floor", kind, nats_url, database_url]
    with ExitStack() as stack:
        started = []
        for _ in range(PROCESSES):
            worker = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(worker.terminate)
            started.append(worker)
        for worker in started:
            assert worker.stdin is not None
            assert worker.stdout is not None
            assert worker.stdout.readline().strip() == "ready"
        for worker in started:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        yield


async def _floor(
    kind: str, nats_url: str, jetstream: JetStreamContext, database: str, envelopes: Sequence[bytes], each: int
) -> float:
    subjects = itertools.cycle([f"floor.{scope}" for scope in make_scopes(TENANTS)])
    pending = [await jetstream.publish_async(next(subjects), envelope) for envelope in envelopes]
    await asyncio.gather(*pending)
    with _workers(kind, nats_url, database):
        queue = Queue(jetstream, sealing_floor.STREAM, sealing_floor.CONSUMER)
        return await queue.work_off(len(envelopes), each)


async def _not_there_yet(_error: Exception) -> None:
    """Say nothing: the broker is starting."""


async def _rates(mesh: EmbeddedMesh, messaging: Messaging, nats_url: str, plan: Plan) -> Rates:
    client = await nats.connect(nats_url, error_cb=_not_there_yet)
    jetstream = client.jetstream(publish_async_max_pending=100_000)
    config = replace(declared(Choices())[AUDIT], name=sealing_floor.STREAM, subjects=["floor.>"])
    await jetstream.add_stream(config)
    await jetstream.add_consumer(
        sealing_floor.STREAM,
        ConsumerConfig(durable_name=sealing_floor.CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=-1),
    )
    database = mesh.database_url(SUPERUSER)
    connection = await asyncpg.connect(database)
    await connection.execute(sealing_floor.SCHEMA)
    large = make_envelopes(1, plan.events // ENVELOPE_EVENTS, ENVELOPE_EVENTS)
    small = make_envelopes(2, plan.events // 4 // SMALL_ENVELOPE_EVENTS, SMALL_ENVELOPE_EVENTS)

    async def floor(kind: str, envelopes: Sequence[bytes], each: int) -> float:
        rate = await _floor(kind, nats_url, jetstream, database, envelopes, each)
        await connection.execute("truncate floor.plain, floor.chain, floor.last")
        return rate

    async def sealed(tenants: int, envelopes: Sequence[bytes], each: int) -> float:
        return await _sealed(mesh, messaging, messages_for(make_scopes(tenants), envelopes), each)

    rates = Rates()
    for number in range(plan.rounds):
        step(f"round {number + 1} of {plan.rounds}: the floor, many tenants, one tenant, small envelopes, the chain")
        rates.floor.append(await floor("copy", large, ENVELOPE_EVENTS))
        rates.many.append(await sealed(TENANTS, large, ENVELOPE_EVENTS))
        rates.one.append(await sealed(1, large, ENVELOPE_EVENTS))
        rates.small_floor.append(await floor("copy", small, SMALL_ENVELOPE_EVENTS))
        rates.small.append(await sealed(TENANTS, small, SMALL_ENVELOPE_EVENTS))
        rates.chain.append(await floor("chain", large[: plan.chained // ENVELOPE_EVENTS], ENVELOPE_EVENTS))
        step(", ".join(f"{name} {getattr(rates, name)[-1]:,.0f}/s" for name in Rates.__slots__))
    await connection.close()
    await client.close()
    return rates


async def _latencies(mesh: EmbeddedMesh, messaging: Messaging, events_a_second: float, seconds: float) -> list[float]:
    """Return how long after its acknowledgement an envelope could be read, for a sample, under a steady load."""
    pause = ENVELOPE_EVENTS / events_a_second
    count = max(SAMPLES_A_SECOND, int(seconds / pause))
    scopes, envelopes = make_scopes(TENANTS), make_envelopes(3, count + TENANTS, ENVELOPE_EVENTS)
    first, messages = messages_for(scopes, envelopes[:TENANTS]), messages_for(scopes, envelopes[TENANTS:])
    every = max(1, round(1 / pause / SAMPLES_A_SECOND))
    pool = await asyncpg.create_pool(mesh.database_url(SUPERUSER), min_size=4, max_size=4)
    found: list[float] = []

    async def time_one(message: OutboundMessage, *, sampled: bool) -> None:
        await messaging.publish([message])
        if not sampled:
            return
        acknowledged = time.perf_counter()
        scope = AuditSubject.parse(message.subject).scope
        event = sealing_floor.last_id(message.payload)
        while not await pool.fetchval(_IS_IN, scope, event):
            await asyncio.sleep(LOOK_SECONDS + LOOK_SHARE * (time.perf_counter() - acknowledged))
        found.append(time.perf_counter() - acknowledged)

    async with sealers(mesh, PROCESSES), asyncio.timeout(GIVE_UP_SECONDS), asyncio.TaskGroup() as tasks:
        await publish(messaging, first)  # logs that exist, of people who are known
        while await Queue(messaging.jetstream, AUDIT, CONSUMER).left():
            await asyncio.sleep(POLL_SECONDS)
        begin = time.perf_counter()
        for number, message in enumerate(messages):
            await asyncio.sleep(max(0.0, begin + number * pause - time.perf_counter()))
            tasks.create_task(time_one(message, sampled=number % every == 0))
    await pool.close()
    return sorted(found)


async def _tidy(mesh: EmbeddedMesh) -> None:
    """Have PostgreSQL do what the rates left it to do: a million rows a minute are not the load that comes next."""
    connection = await asyncpg.connect(mesh.database_url(SUPERUSER))
    await connection.execute("vacuum analyze")
    await connection.execute("checkpoint")
    await connection.close()


async def _measure(plan: Plan) -> list[Figure]:
    async with log_world() as mesh, broker_as_audit(mesh) as messaging:
        with broker() as nats_url:
            rates = await _rates(mesh, messaging, nats_url, plan)
        await _tidy(mesh)
        load = statistics.median(rates.many) / 2
        step(f"latency at {load:,.0f} events/s")
        latencies = await _latencies(mesh, messaging, load, plan.latency_seconds)

    def against(side: Sequence[float], other: Sequence[float]) -> float:
        return median_ratio(list(zip(side, other, strict=True)))

    floor, many, one, small_floor, small, chain = (statistics.median(getattr(rates, name)) for name in Rates.__slots__)
    p50, p99 = (1_000 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
    compared = f"against {floor:,.0f}/s COPYed to a plain table, {PROCESSES} processes, envelopes of {ENVELOPE_EVENTS}"
    return [
        Figure("sealed events, many tenants, against the floor",
               against(rates.many, rates.floor), "×", 0.6, "more",
               f"{many:,.0f}/s of {TENANTS} tenants {compared}"),
        Figure("sealed events, one tenant, against the floor",
               against(rates.one, rates.floor), "×", 0.6, "more", f"{one:,.0f}/s {compared}"),
        Figure("the same in small envelopes, many tenants",
               against(rates.small, rates.small_floor), "×", 0.6, "more",
               f"{small:,.0f}/s against {small_floor:,.0f}/s, envelopes of {SMALL_ENVELOPE_EVENTS}"),
        Figure("sealed events, many tenants, against a hash chain by trigger",
               against(rates.many, rates.chain), "×", 10, "more",
               f"{many:,.0f}/s against {chain:,.0f}/s, one insert a transaction, "
               f"{PROCESSES} × {sealing_floor.WRITERS} at once"),
        Figure("seal latency at half of that load, p99", p99, "ms", 250, "less",
               f"p50 {p50:.0f} ms; {load:,.0f} events/s, {len(latencies)} envelopes from acknowledged to readable"),
    ]  # fmt: skip


def measure(*, short: bool = False) -> list[Figure]:
    plan = Plan(1, 4_000, 500, 2.0) if short else Plan(3, 100_000, 4_000, 20.0)
    return asyncio.run(_measure(plan))
