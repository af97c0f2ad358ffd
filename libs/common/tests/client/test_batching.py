"""Callers share calls; none pays for another's fault."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from wardmesh import Category, ModelUsage, NewAuditEvent
from wardmesh.client import batching
from wardmesh.client.batching import Batcher, BatchLimits
from wardmesh.contracts.audit import Emitted
from wardmesh.contracts.webhooks import Published
from wardmesh.errors import DeadlineExceeded, InvalidRequest, PermissionDenied, ServiceUnavailable
from wardmesh.ids import EventId


class Sink:
    """Takes batches, slowly."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.deadlines: list[timedelta | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, bodies, deadline) -> list[str]:
        self.batches.append(list(bodies))
        self.deadlines.append(deadline)
        await asyncio.sleep(0.01)
        await self.gate.wait()
        if any(body == b"wrong" for body in bodies):
            raise InvalidRequest
        if any(body == b"forbidden" for body in bodies):
            raise PermissionDenied
        return [f"id-{body.decode()}" for body in bodies]


LIMITS = BatchLimits(items=100, bytes=1000)


@pytest.mark.parametrize(
    ("deadlines", "shared"),
    [((None, None), None), ((2, 5), 5), ((2, None), 10), ((20, None), 20)],
)
async def test_a_call_may_take_as_long_as_the_most_patient_who_share_it(deadlines, shared) -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    named = [None if seconds is None else timedelta(seconds=seconds) for seconds in deadlines]
    await asyncio.gather(*(batcher.add(b"x", deadline=deadline) for deadline in named))
    [deadline] = sink.deadlines
    assert (deadline is None) == (shared is None)
    if deadline is not None:
        assert shared - 1 < deadline.total_seconds() <= shared


async def test_concurrent_callers_share_a_call_and_each_gets_its_own_answer() -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    ids = await asyncio.gather(*(batcher.add(str(n).encode()) for n in range(150)))
    assert ids == [f"id-{n}" for n in range(150)]
    assert [len(batch) for batch in sink.batches] == [100, 50]
    assert [body for batch in sink.batches for body in batch] == [str(n).encode() for n in range(150)]


async def test_a_batch_holds_no_more_bytes_than_a_call_may() -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    await asyncio.gather(*(batcher.add(b"x" * 400) for _ in range(5)), batcher.add(b"y" * 1500))
    assert all(sum(map(len, batch)) <= 1000 or len(batch) == 1 for batch in sink.batches)


async def test_one_item_that_is_wrong_refuses_itself_only() -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    outcomes = await asyncio.gather(*(batcher.add(body) for body in (b"a", b"wrong", b"b")), return_exceptions=True)
    assert [outcomes[0], type(outcomes[1]), outcomes[2]] == ["id-a", InvalidRequest, "id-b"]


async def test_a_refusal_of_the_caller_is_told_to_all_and_not_asked_again() -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    outcomes = await asyncio.gather(*(batcher.add(b"forbidden") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [PermissionDenied] * 3
    assert len(sink.batches) == 1


async def test_who_finds_the_queue_full_waits(monkeypatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_BYTES", 1000)
    sink = Sink()
    sink.gate.clear()
    batcher: Batcher[str] = Batcher(sink, BatchLimits(items=1, bytes=1000))
    adding = [asyncio.create_task(batcher.add(b"x" * 100)) for _ in range(30)]
    await asyncio.sleep(0.05)
    assert batcher._queued_bytes <= 1000
    with pytest.raises(DeadlineExceeded):
        await batcher.add(b"late", deadline=timedelta(seconds=0.05))
    sink.gate.set()
    assert len(await asyncio.gather(*adding)) == 30


async def test_whose_caller_gave_up_is_not_sent() -> None:
    sink = Sink()
    sink.gate.clear()
    batcher: Batcher[str] = Batcher(sink, LIMITS)
    first = asyncio.create_task(batcher.add(b"first"))
    await asyncio.sleep(0.02)
    with pytest.raises(DeadlineExceeded):
        await batcher.add(b"second", deadline=timedelta(seconds=0.02))
    sink.gate.set()
    await first
    await batcher.add(b"third")
    assert sink.batches == [[b"first"], [b"third"]]


async def test_closing_sends_what_is_queued_and_then_takes_no_more() -> None:
    sink = Sink()
    batcher: Batcher[str] = Batcher(sink, BatchLimits(items=2, bytes=1000))
    adding = [asyncio.create_task(batcher.add(b"x")) for _ in range(7)]
    await asyncio.sleep(0)
    await batcher.close(1)
    assert await asyncio.gather(*adding) == ["id-x"] * 7
    with pytest.raises(ServiceUnavailable):
        await batcher.add(b"x")


async def test_closing_does_not_wait_for_ever() -> None:
    sink = Sink()
    sink.gate.clear()
    batcher: Batcher[str] = Batcher(sink, BatchLimits(items=2, bytes=1000))
    adding = [asyncio.create_task(batcher.add(b"x")) for _ in range(7)]
    await asyncio.sleep(0.02)
    await batcher.close(0.05)
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)


async def test_emitting_shares_envelopes_and_repeats_under_the_same_id(mesh, services) -> None:
    log: dict[str, dict] = {}
    calls = []

    def emit(request):
        calls.append(request.body)
        for event in request.body["events"]:
            log.setdefault(event["id"], event)
        if len(calls) == 1:
            return ServiceUnavailable()
        return Emitted(ids=tuple(event["id"] for event in request.body["events"]))

    services.on("audit.emit", emit)
    usage = ModelUsage(model="m-1", input_tokens=812, output_tokens=97, cost_usd="0.0061", source="chat")
    event = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", details={"nothing": None})
    ids = await asyncio.gather(*(mesh.audit.emit(usage) for _ in range(50)), mesh.audit.emit(event))
    assert len(log) == 51 == len(set(ids))
    assert set(ids) == set(log)
    assert len(calls) <= 4
    assert log[ids[0]]["details"] == {"input_tokens": 812, "output_tokens": 97, "cost_usd": "0.0061", "source": "chat"}
    assert log[ids[0]]["category"] == "model_usage"
    assert log[ids[-1]]["details"] == {"nothing": None}
    assert all(event["occurred_at"] for event in log.values())


async def test_what_was_being_emitted_is_sent_before_the_mesh_is_left(connect, services) -> None:
    emitted = []

    def emit(request):
        emitted.extend(event["id"] for event in request.body["events"])
        return Emitted(ids=tuple(event["id"] for event in request.body["events"]))

    services.on("audit.emit", emit)
    services.delay_seconds = 0.05
    async with connect() as mesh:
        event = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
        emitting = [asyncio.create_task(mesh.audit.emit(event)) for _ in range(5)]
        await asyncio.sleep(0)
    assert set(await asyncio.gather(*emitting)) == set(emitted)


async def test_publishing_gives_every_event_an_id_and_a_time(mesh, services) -> None:
    seen = []

    def publish(request):
        seen.extend(request.body["events"])
        return Published(ids=tuple(event["id"] for event in request.body["events"]))

    services.on("webhooks.publish", publish)
    chosen, drawn = await asyncio.gather(
        mesh.events.publish("order.shipped", {"order": 7}, id="order-7"), mesh.events.publish("order.lost", [None])
    )
    assert chosen == "order-7"
    assert EventId.parse(drawn)
    assert [(event["type"], event["data"]) for event in seen] == [
        ("order.shipped", {"order": 7}),
        ("order.lost", [None]),
    ]
    assert json.dumps(seen).count("time") == 2
    with pytest.raises(InvalidRequest):
        await mesh.events.publish("Order Shipped", {})
    with pytest.raises(InvalidRequest):
        await mesh.events.publish("order.shipped", {"order": object()})
