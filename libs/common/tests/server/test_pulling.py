"""FastStream's batches, and messages one by one, on a real broker: prompt, and nothing pulled is lost."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import nats.errors
import pytest
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from wardmesh.server import pulling
from wardmesh.server.pulling import PromptFetch


class Received:
    """What arrived, and when."""

    def __init__(self, pause: float) -> None:
        self.batches: list[list[bytes]] = []
        self.arrived = asyncio.Event()
        self._pause = pause
        """How long each batch is worked on."""

    async def take(self, messages: list[Msg]) -> None:
        await asyncio.sleep(self._pause)
        self.batches.append([message.data for message in messages])
        for message in messages:
            await message.ack()
        self.arrived.set()


async def raw(message: StreamMessage[Any]) -> list[Msg]:
    return message.raw_message if isinstance(message.raw_message, list) else [message.raw_message]


ways = pytest.mark.parametrize("batch", [True, False], ids=["batches", "one by one"])


@asynccontextmanager
async def reading(
    url: str, stream: str, timeout: float, lost: list[str], *, pause: float = 0.0, batch: bool = True
) -> AsyncIterator[Received]:
    received = Received(pause)
    broker = NatsBroker(url, apply_types=False, logger=None)

    @broker.subscriber(
        f"{stream}.>",
        stream=JStream(stream, declare=False),
        durable="reader",
        config=ConsumerConfig(ack_wait=30.0),
        pull_sub=PullSub(batch_size=64, timeout=timeout, batch=batch),
        ack_policy=AckPolicy.MANUAL,
        decoder=raw,
    )
    async def read(messages: list[Msg]) -> None:
        await received.take(messages)

    pulled = await pulling.start(broker, lost=lambda: lost.append("lost"))
    try:
        yield received
    finally:  # or a test that fails would leave the session waiting for its reader
        await pulled.stop()


@pytest.fixture
async def stream(nats_client: Client) -> AsyncIterator[str]:
    name = f"S{uuid4().hex}"
    await nats_client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
    yield name
    await nats_client.jetstream().delete_stream(name)


@ways
async def test_a_lone_message_does_not_wait_for_company(
    bare_nats: Any, nats_client: Client, stream: str, batch: bool
) -> None:
    loop = asyncio.get_running_loop()
    async with reading(bare_nats.url, stream, 5.0, [], batch=batch) as received:
        await asyncio.sleep(0.2)
        started = loop.time()
        await nats_client.jetstream().publish(f"{stream}.x", b"1")
        await asyncio.wait_for(received.arrived.wait(), 1)
        assert loop.time() - started < 0.5


async def test_one_by_one_a_lone_message_does_not_wait_for_a_rest_that_is_not_there(
    bare_nats: Any, nats_client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "REST_SECONDS", 5.0)
    jetstream = nats_client.jetstream()
    async with reading(bare_nats.url, stream, 5.0, [], batch=False) as received:
        for _ in range(3):
            received.arrived.clear()
            await jetstream.publish(f"{stream}.x", b"1")
            await asyncio.wait_for(received.arrived.wait(), 2)


async def test_nothing_that_was_pulled_is_lost(bare_nats: Any, nats_client: Client, stream: str) -> None:
    """Pulls so short that their ends and the messages meet all the time; a lost one would come after 30 s."""
    choose = random.Random(7)
    jetstream = nats_client.jetstream()
    async with reading(bare_nats.url, stream, 0.02, []) as received, asyncio.timeout(20):
        for number in range(300):
            received.arrived.clear()
            await jetstream.publish(f"{stream}.x", b"%d" % number)
            await received.arrived.wait()
            await asyncio.sleep(choose.random() * 0.04)
    assert [data for batch in received.batches for data in batch] == [b"%d" % number for number in range(300)]


async def test_batches_grow_with_the_load(bare_nats: Any, nats_client: Client, stream: str) -> None:
    jetstream = nats_client.jetstream()
    for number in range(200):
        await jetstream.publish(f"{stream}.x", b"%d" % number)
    async with reading(bare_nats.url, stream, 5.0, []) as received, asyncio.timeout(5):
        while sum(map(len, received.batches)) < 200:
            await asyncio.sleep(0.01)
    assert len(received.batches) < 20


async def test_a_batch_has_as_many_as_fit(
    bare_nats: Any, nats_client: Client, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "BATCH_BYTES", 4_000)
    monkeypatch.setattr(pulling, "LARGEST_BYTES", 1_000)
    monkeypatch.setattr(pulling, "REST_SECONDS", 1.0)  # a busy machine is no reason for fewer
    jetstream = nats_client.jetstream()
    sizes = [100] * 60 + [1_000] * 60 + [5_000] * 3
    for size in sizes:
        await jetstream.publish(f"{stream}.x", b"x" * size)
    async with reading(bare_nats.url, stream, 5.0, []) as received, asyncio.timeout(10):
        while sum(map(len, received.batches)) < len(sizes):
            await asyncio.sleep(0.01)
    assert [len(data) for batch in received.batches for data in batch] == sizes
    assert len(received.batches[0]) == 4, "before any was seen, each may be the largest"
    assert len(received.batches[1]) > 4
    for before, batch in itertools.pairwise(received.batches):
        assert len(batch) <= max(1, 4_000 // max(map(len, before)))


@pytest.mark.parametrize("published", [64, 65, 128])
async def test_after_a_full_batch_a_lone_message_does_not_wait_for_company_either(
    bare_nats: Any, nats_client: Client, stream: str, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    """The broker says that a batch is complete after its last message, when nobody waits for a word any more."""
    monkeypatch.setattr(pulling, "LARGEST_BYTES", 1)
    jetstream = nats_client.jetstream()
    async with asyncio.timeout(30):
        for _ in range(5):
            for number in range(published):
                await jetstream.publish(f"{stream}.x", b"%d" % number)
            async with reading(bare_nats.url, stream, 20.0, []) as received:
                while sum(map(len, received.batches)) < published:
                    await asyncio.sleep(0.001)
                received.arrived.clear()
                await jetstream.publish(f"{stream}.x", b"alone")
                await asyncio.wait_for(received.arrived.wait(), 3)


@ways
async def test_a_consumer_that_is_gone_is_reported(
    bare_nats: Any, nats_client: Client, stream: str, monkeypatch: pytest.MonkeyPatch, batch: bool
) -> None:
    monkeypatch.setattr(pulling, "FAILED_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(pulling, "LOST_SECONDS", 0.2)
    lost: list[str] = []
    async with reading(bare_nats.url, stream, 0.3, lost, batch=batch):
        await nats_client.jetstream().delete_consumer(stream, "reader")
        async with asyncio.timeout(10):
            while not lost:
                await asyncio.sleep(0.05)


async def is_read(client: Client, stream: str, count: int) -> bool:
    """Tell whether so many messages were published, and all of them acknowledged."""
    found = await client.jetstream().consumer_info(stream, "reader")
    return found.ack_floor.stream_seq == count


@asynccontextmanager
async def publishing(client: Client, stream: str, count: list[int]) -> AsyncIterator[None]:
    """Publish as fast as the broker takes it while the block runs; `count` is how many so far."""
    jetstream, going = client.jetstream(), True

    async def publish() -> None:
        while going:
            await jetstream.publish(f"{stream}.x", b"x")
            count[0] += 1

    tasks = [asyncio.create_task(publish()) for _ in range(8)]
    try:
        yield
    finally:
        going = False
        await asyncio.gather(*tasks)


@ways
@pytest.mark.parametrize("at", range(6))
async def test_what_was_pulled_when_it_stops_is_at_once_anothers(
    bare_nats: Any, nats_client: Client, stream: str, at: int, batch: bool
) -> None:
    """Stopped under load, in the middle of everything; what is forgotten would come after 30 s."""
    choose, count = random.Random(at), [0]
    async with publishing(nats_client, stream, count):
        async with reading(bare_nats.url, stream, 5.0, [], pause=choose.random() * 0.02, batch=batch) as first:
            await asyncio.sleep(0.2 + choose.random() * 0.1)
        in_hand = sum(map(len, first.batches))
    async with reading(bare_nats.url, stream, 5.0, [], batch=batch) as second, asyncio.timeout(10):
        while not await is_read(nats_client, stream, count[0]):
            await asyncio.sleep(0.02)
    assert 0 < in_hand < count[0], "there was something to give back"
    assert in_hand + sum(map(len, second.batches)) == count[0], "and nobody had any of it twice"


@ways
async def test_what_is_in_hand_when_it_stops_is_finished(
    bare_nats: Any, nats_client: Client, stream: str, batch: bool
) -> None:
    for _ in range(10):
        await nats_client.jetstream().publish(f"{stream}.x", b"x")
    async with reading(bare_nats.url, stream, 5.0, [], pause=1.5, batch=batch) as received:
        async with asyncio.timeout(5):
            while (await nats_client.jetstream().consumer_info(stream, "reader")).num_ack_pending < 10:
                await asyncio.sleep(0.01)
        assert received.batches == []
    assert sum(map(len, received.batches)) == 10
    found = await nats_client.jetstream().consumer_info(stream, "reader")
    assert (found.num_redelivered, found.num_ack_pending) == (0, 0)


async def test_an_idle_reader_stops_soon_and_takes_nothing_with_it(
    bare_nats: Any, nats_client: Client, stream: str
) -> None:
    """What is published from the moment on at which it is asked to stop is another's, also in that moment."""
    loop, jetstream = asyncio.get_running_loop(), nats_client.jetstream()
    for number in range(1, 5):
        async with reading(bare_nats.url, stream, 5.0, []) as received:
            await asyncio.sleep(0.05 * number)
            stopped = loop.time()
            late = asyncio.create_task(jetstream.publish(f"{stream}.x", b"late"))
        assert loop.time() - stopped < pulling.PULL_SECONDS + pulling.SETTLE_SECONDS + 1
        await late
        async with reading(bare_nats.url, stream, 5.0, []) as other, asyncio.timeout(5):
            while not await is_read(nats_client, stream, number):
                await asyncio.sleep(0.01)
        assert len(received.batches) + len(other.batches) == 1


async def test_workers_whose_queue_nobody_could_give_back_are_refused() -> None:
    broker = NatsBroker("nats://127.0.0.1:1", apply_types=False, logger=None)

    @broker.subscriber("x.>", stream=JStream("x", declare=False), durable="reader", pull_sub=PullSub(), max_workers=2)
    async def read(_message: Msg) -> None: ...

    with pytest.raises(ValueError, match="max_workers"):
        await pulling.start(broker, lost=lambda: None)


async def test_a_broker_that_is_gone_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        pending_msgs = 1

        async def fetch(self, _batch: int, _timeout: float | None, _heartbeat: float | None) -> list[Msg]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(pulling, "END_SECONDS", 0.1)
    prompt = PromptFetch(Stuck(), 64, lambda: None)  # type: ignore[arg-type]
    waiting = asyncio.create_task(prompt.fetch(64, 5.0))
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await prompt.end()
    assert not waiting.done()
    waiting.cancel()
    parked = asyncio.create_task(prompt.fetch(64, 5.0))
    await asyncio.sleep(0.05)
    assert not parked.done(), "whoever asks again waits until it is cancelled, and spins not"
    parked.cancel()
    await asyncio.wait({waiting, parked})


class Failing:
    """A subscription whose every fetch ends in `error`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def fetch(self, _batch: int, _timeout: float | None, _heartbeat: float | None) -> list[Msg]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), nats.errors.TimeoutError),
        (nats.errors.TimeoutError(), nats.errors.TimeoutError),
        (nats.errors.NoRespondersError(), nats.errors.TimeoutError),
        (nats.errors.ConnectionClosedError(), nats.errors.ConnectionClosedError),
    ],
)
async def test_what_ends_a_fetch_is_what_faststream_expects(
    error: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "FAILED_PAUSE_SECONDS", 0.0)
    fetch = PromptFetch(Failing(error), 64, lambda: None).fetch  # type: ignore[arg-type]
    with pytest.raises(expected) as caught:
        await fetch(64, 5.0)
    assert type(caught.value) is expected
