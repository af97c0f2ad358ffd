"""Durable events a second: shared envelopes (group commit) against the same events published one by one.

Both wait until JetStream has the events on disk (`sync_interval: always`).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime

import nats
from nats.js.api import StreamConfig

from benchmarks.report import Figure, median_ratio, step
from benchmarks.servers import broker
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, WorkspaceId
from wardmesh.server.messaging import Messaging
from wardmesh.server.publishing import AuditPublisher

CALLERS = 64


def _event(actor: AgentId) -> AuditEvent:
    return AuditEvent(
        id=EventId.new(), occurred_at=datetime.now(UTC), category=Category.TOOL_CALL, action="tool.call",
        outcome=Outcome.SUCCESS, actor=actor, targets=("report.build",),
    )  # fmt: skip


async def _one_by_one(messaging: Messaging, count: int) -> float:
    scope, actor = WorkspaceId.new(), AgentId.new()
    started = time.perf_counter()
    for _ in range(count):
        await messaging.jetstream.publish(f"audit.{scope}.secrets", _event(actor).model_dump_json().encode())
    return count / (time.perf_counter() - started)


async def _shared(messaging: Messaging, count: int) -> float:
    scope, actor = WorkspaceId.new(), AgentId.new()
    publisher = AuditPublisher(messaging, "secrets")
    publisher.start()

    async def caller(share: int) -> None:
        for _ in range(share):
            await publisher.emit(scope, [_event(actor)])

    started = time.perf_counter()
    await asyncio.gather(*[caller(count // CALLERS) for _ in range(CALLERS)])
    elapsed = time.perf_counter() - started
    await publisher.stop()
    return count // CALLERS * CALLERS / elapsed


async def _measure(url: str, rounds: int, single: int, shared: int) -> list[tuple[float, float]]:
    messaging = Messaging("secrets")
    messaging.nats = await nats.connect(url)
    await messaging.jetstream.add_stream(StreamConfig(name="AUDIT", subjects=["audit.>"]))
    pairs = []
    for number in range(rounds):
        step(f"round {number + 1} of {rounds}")
        pairs.append((await _shared(messaging, shared), await _one_by_one(messaging, single)))
    await messaging.drain()
    return pairs


def measure(*, short: bool = False) -> list[Figure]:
    rounds, single, shared = (1, 100, 2_000) if short else (5, 1_000, 20_000)
    with broker() as url:
        pairs = asyncio.run(_measure(url, rounds, single, shared))
    many, one = (statistics.median(side) for side in zip(*pairs, strict=True))
    return [
        Figure(
            "durable events in shared envelopes, against one by one", median_ratio(pairs), "×", 10, "more",
            f"{many:,.0f}/s from {CALLERS} callers against {one:,.0f}/s, each on disk before its caller goes on",
        )
    ]  # fmt: skip
