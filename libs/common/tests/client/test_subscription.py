"""At least once, in bounded number, and nothing done that is not acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from wardmesh.client import subscription
from wardmesh.client.subscription import Delivery, Subscription
from wardmesh.contracts.webhooks import DeliveredEvent, Fetched
from wardmesh.errors import InvalidRequest, PermissionDenied, ServiceUnavailable


@dataclass
class Queue:
    """A durable consumer, in memory: complete, and able to fail."""

    def __init__(self, count: int) -> None:
        self.waiting = list(range(count))
        self.out: dict[str, int] = {}
        self.done: list[int] = []
        self.handed_back: list[int] = []
        self.fetches: list[tuple[int, int, int]] = []
        self.most_out = 0
        self.failures: list[Exception] = []
        self.more = asyncio.Event()
        self._delivery = 0

    async def __call__(self, *, batch, wait_seconds, acks, naks, deadline):
        self.fetches.append((batch, len(acks), len(naks)))
        if self.failures:
            raise self.failures.pop(0)
        self.done += [self.out.pop(token) for token in acks if token in self.out]
        back = [self.out.pop(token) for token in naks if token in self.out]
        self.handed_back += back
        self.waiting = sorted(back + self.waiting)
        if back:
            self.more.set()
        if batch and not self.waiting and wait_seconds:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), wait_seconds)
        taken, self.waiting = self.waiting[:batch], self.waiting[batch:]
        arrived = []
        for number in taken:
            self._delivery += 1
            token = f"1.{self._delivery}.1.1.{number}"
            self.out[token] = number
            arrived.append(Arrived(number, token))
        self.most_out = max(self.most_out, len(self.out))
        return arrived


@dataclass(frozen=True)
class Arrived:
    number: int
    ack: str


class Got(Delivery):
    def __init__(self, arrived: Arrived, settle) -> None:
        super().__init__(arrived.ack, settle)
        self.number = arrived.number


async def admit(arrived: Arrived, settle) -> Got:
    return Got(arrived, settle)


async def test_every_delivery_is_acknowledged_once_its_block_succeeded() -> None:
    queue = Queue(100)
    seen = []
    async for got in Subscription(queue, admit, prefetch=8):
        assert got.number not in queue.done
        async with got:
            seen.append(got.number)
        if len(seen) == 100:
            break
    await wait_until(lambda: sorted(queue.done) == list(range(100)))
    assert seen == list(range(100))
    assert queue.most_out <= 16
    assert not queue.handed_back
    # They ride on fetches: about one a batch, not one an acknowledgement.
    assert len(queue.fetches) < 30


async def test_what_raises_is_delivered_again() -> None:
    queue = Queue(3)
    tries: dict[int, int] = {}
    async with Subscription(queue, admit, prefetch=2) as events:
        async for got in events:
            tries[got.number] = tries.get(got.number, 0) + 1
            try:
                async with got:
                    if got.number == 1 and tries[1] == 1:
                        raise RuntimeError("not today")  # noqa: TRY301
            except RuntimeError:
                pass
            if tries.get(1) == 2:
                break
    assert tries == {0: 1, 1: 2, 2: 1}
    assert sorted(queue.done) == [0, 1, 2]
    assert queue.handed_back == [1]


async def test_leaving_the_loop_hands_back_what_was_not_handed_out() -> None:
    queue = Queue(20)
    async with Subscription(queue, admit, prefetch=5) as events:
        async for got in events:
            async with got:
                break
    assert queue.done == [0]
    assert sorted(queue.waiting) == list(range(1, 20))
    assert not queue.out


async def test_breaking_out_without_closing_is_enough() -> None:
    queue = Queue(20)
    async for got in Subscription(queue, admit, prefetch=5):
        async with got:
            break
    await wait_until(lambda: queue.done == [0] and not queue.out)


async def test_a_slow_reader_fetches_slowly() -> None:
    queue = Queue(100)
    held = []
    async with Subscription(queue, admit, prefetch=4) as events:

        async def read() -> None:
            async for got in events:
                held.append(got)  # noqa: PERF401 - it never ends

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        assert queue.most_out == 8
        for got in held:
            got.ack()
        await asyncio.sleep(0.1)
        assert len(queue.done) == 8
        assert len(held) == 16
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_what_is_dropped_unsettled_counts_as_not_done_and_blocks_nothing() -> None:
    queue = Queue(12)
    count = 0
    async with Subscription(queue, admit, prefetch=2) as events:
        async for got in events:
            del got
            count += 1
            if count == 10:
                break
    assert not queue.done
    assert queue.handed_back


async def test_acknowledgements_do_not_wait_for_a_poll_that_finds_nothing(monkeypatch) -> None:
    monkeypatch.setattr(subscription, "ACK_DELAY_SECONDS", 0.05)
    queue = Queue(1)
    async with Subscription(queue, admit) as events:
        async for got in events:
            got.ack()
            await wait_until(lambda: queue.done == [0])
            break
    assert (0, 1, 0) in queue.fetches


async def test_an_interruption_loses_no_acknowledgement() -> None:
    queue = Queue(6)
    seen = []
    async with Subscription(queue, admit, prefetch=2, jitter=lambda: 0.0) as events:
        async for got in events:
            async with got:
                seen.append(got.number)
                queue.failures = [ServiceUnavailable(), ServiceUnavailable()]
            if len(seen) == 6:
                queue.failures = []
                break
    assert sorted(queue.done) == list(range(6))
    assert sorted(set(seen)) == list(range(6))


async def test_a_refusal_is_raised_where_the_loop_waits() -> None:
    queue = Queue(0)
    queue.failures = [PermissionDenied()]
    with pytest.raises(PermissionDenied):
        async for _ in Subscription(queue, admit):
            pass


async def test_what_is_not_admitted_is_handed_back_and_never_handed_out(monkeypatch) -> None:
    monkeypatch.setattr(subscription, "ACK_DELAY_SECONDS", 0.02)
    queue = Queue(3)

    async def admit_even(arrived: Arrived, settle) -> Got | None:
        return Got(arrived, settle) if arrived.number % 2 == 0 else None

    seen = []
    async with Subscription(queue, admit_even, prefetch=4) as events:
        async for got in events:
            async with got:
                seen.append(got.number)
            if len(seen) == 2:
                break
    assert seen == [0, 2]
    assert sorted(queue.done) == [0, 2]
    assert set(queue.handed_back) == {1}


async def test_it_is_read_once() -> None:
    queue = Queue(1)
    events = Subscription(queue, admit)
    async for got in events:
        got.ack()
        break
    with pytest.raises(RuntimeError, match="once"):
        async for _ in events:
            pass


async def test_events_come_through_the_mesh(mesh, services) -> None:
    acked: list[str] = []
    asked = []

    def fetch(request):
        asked.append(request.body)
        acked.extend(request.body["acks"])
        if request.body["batch"] == 0 or len(asked) > 1:
            return Fetched(events=()) if request.body["batch"] == 0 else None
        event = DeliveredEvent(
            id="evt_1P", source="stripe", type="invoice.paid", time=datetime.now(UTC), content_type="application/json",
            data=b'{"amount": 7}', delivery=1, ack="1.2.3.4.5",
        )  # fmt: skip
        return Fetched(events=(event,))

    services.on("webhooks.fetch", fetch)
    async with mesh.events.subscribe("stripe.invoice.*", group="billing", prefetch=3) as events:
        async for event in events:
            async with event:
                assert (event.id, event.source, event.type, event.data) == (
                    "evt_1P",
                    "stripe",
                    "invoice.paid",
                    {"amount": 7},
                )
            break
    assert set(acked) == {"1.2.3.4.5"}
    assert asked[0] | {"wait_seconds": 0} == {
        "pattern": "stripe.invoice.*", "group": "billing", "batch": 3, "wait_seconds": 0, "acks": [], "naks": [],
    }  # fmt: skip


async def test_leaving_the_mesh_closes_its_subscriptions(connect, services) -> None:
    acked: list[str] = []

    def fetch(request):
        acked.extend(request.body["acks"])
        event = DeliveredEvent(
            id="e", source="app", type="x", time=datetime.now(UTC), content_type="text/plain", data=b"", delivery=1,
            ack="1.1.1.1.1",
        )  # fmt: skip
        return Fetched(events=(event,) if request.body["batch"] and not acked else ())

    services.on("webhooks.fetch", fetch)
    async with connect() as mesh:
        reading = aiter(mesh.events.subscribe("app.>", group="g"))
        async with await anext(reading):
            pass
    assert acked
    with pytest.raises(StopAsyncIteration):
        await anext(reading)


async def test_a_pattern_that_is_none_is_refused_at_once(mesh) -> None:
    with pytest.raises(InvalidRequest):
        mesh.events.subscribe("stripe..*", group="billing")


async def wait_until(condition, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
