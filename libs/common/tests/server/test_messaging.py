"""What the services rely on of the broker, on a real one that is killed and comes back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import nats
import nats_server
import pytest
from nats.js.api import StreamConfig

from wardmesh.errors import OutcomeUnknown, ServiceUnavailable
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.messaging import PUBLISH_TIMEOUT_SECONDS, Messaging
from wardmesh.server.mirror import Mirror
from wardmesh.server.streams import Choices, declared


@pytest.fixture
async def broker() -> AsyncIterator[Any]:
    """A broker of the test's own, because the test kills it."""
    server = nats_server.NatsServer()
    server.start()
    yield server
    server.close()


async def connect(url: str) -> Messaging:
    messaging = Messaging("audit")
    await messaging.nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, disconnected_cb=messaging._disconnected,  # type: ignore[arg-type]
        error_cb=messaging._error, closed_cb=messaging._closed,
    )  # fmt: skip
    return messaging


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_publish_returns_when_the_stream_has_it_and_fails_at_once_when_the_broker_is_away(broker: Any) -> None:
    messaging = await connect(broker.url)
    await messaging.jetstream.add_stream(StreamConfig(name="AUDIT", subjects=["audit.>"]))
    message = OutboundMessage("audit.x.y", b"one", message_id="1")
    await messaging.publish([message, message])
    broker.stop(signal.SIGKILL)
    await until(lambda: not messaging.is_connected)
    with pytest.raises(ServiceUnavailable):
        await messaging.publish([OutboundMessage("audit.x.y", b"two")])
    broker.start()
    await until(lambda: messaging.is_connected)
    await messaging.publish([OutboundMessage("audit.x.y", b"three")])
    state = (await messaging.jetstream.stream_info("AUDIT")).state
    assert state.messages == 2, "the repetition was dropped by its id, the one that failed is not there"
    await messaging.drain()
    assert messaging.closed.is_set()


async def test_a_publish_that_waits_when_the_broker_dies_fails_then_and_not_when_time_is_up(broker: Any) -> None:
    messaging = await connect(broker.url)
    await messaging.jetstream.add_stream(StreamConfig(name="AUDIT", subjects=["audit.>"]))
    broker.pause()
    publishing = asyncio.create_task(messaging.publish([OutboundMessage("audit.x.y", b"one")]))
    await asyncio.sleep(0.1)
    assert not publishing.done()
    broker.stop(signal.SIGKILL)
    async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS / 2):
        with pytest.raises(OutcomeUnknown):  # the broker took it, and may have it
            await publishing
    broker.start()
    await until(lambda: messaging.is_connected)
    await messaging.publish([OutboundMessage("audit.x.y", b"two")])
    await messaging.drain()


async def test_a_subject_that_no_stream_takes_is_an_error_and_not_a_wait(broker: Any) -> None:
    messaging = await connect(broker.url)
    with pytest.raises(ServiceUnavailable):
        await messaging.publish([OutboundMessage("nobody.listens", b"")])
    await messaging.drain()


async def test_only_what_is_in_no_stream_at_all_is_said_not_to_have_been_taken(broker: Any) -> None:
    messaging = await connect(broker.url)
    await messaging.jetstream.add_stream(StreamConfig(name="AUDIT", subjects=["audit.>"]))
    taken, nobodys = OutboundMessage("audit.x.y", b"one"), OutboundMessage("nobody.listens", b"")
    for messages in ([taken, nobodys], [nobodys, taken]):
        with pytest.raises(OutcomeUnknown):
            await messaging.publish(messages)
    with pytest.raises(ServiceUnavailable):
        await messaging.publish([nobodys, nobodys])
    assert (await messaging.jetstream.stream_info("AUDIT")).state.messages == 2
    await messaging.drain()


async def test_a_service_waits_for_its_stream(broker: Any) -> None:
    messaging = await connect(broker.url)
    waiting = asyncio.create_task(messaging.expect_stream("EVENTS"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await messaging.jetstream.add_stream(declared(Choices(events_max_bytes=1024 * 1024))["EVENTS"])
    async with asyncio.timeout(5):
        await waiting
    assert not messaging.drift, "how large it may become is the provisioner's to know"
    await messaging.drain()


async def test_a_stream_that_is_something_else_is_reported_and_left_alone(broker: Any) -> None:
    messaging = await connect(broker.url)
    present = replace(declared(Choices())["AUDIT"], subjects=["audit.>", "rpc.>"], max_age=3600.0, deny_purge=False)
    await messaging.jetstream.add_stream(present)
    await messaging.expect_stream("AUDIT")
    assert messaging.drift == {"AUDIT": ["deny_purge", "max_age", "subjects"]}
    assert (await messaging.jetstream.stream_info("AUDIT")).config.subjects == ["audit.>", "rpc.>"]
    await messaging.expect_stream("AUDIT", replicas=3)
    assert "num_replicas" in messaging.drift["AUDIT"]
    await messaging.drain()


async def test_patience_for_a_stream_ends(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardmesh.server.messaging.EXPECT_SECONDS", 0.3)
    messaging = await connect(broker.url)
    with pytest.raises(ServiceUnavailable, match="KV_jwks"):
        await messaging.expect_bucket("jwks")
    await messaging.drain()


async def test_a_mirror_follows_its_bucket_through_a_restart_and_says_when_it_does_not(broker: Any) -> None:
    messaging = await connect(broker.url)
    bucket = await messaging.jetstream.create_key_value(bucket="revocations")
    await bucket.put("key_1", b"1.5")
    mirror: Mirror[float] = Mirror(messaging, "revocations", lambda value: float(value))
    running = asyncio.create_task(mirror.run())
    await until(mirror.ready.is_set)
    assert dict(mirror) == {"key_1": 1.5}

    await bucket.put("key_2", b"2")
    await bucket.put("key_3", b"not a number")
    await bucket.delete("key_1")
    await until(lambda: dict(mirror) == {"key_2": 2.0})

    broker.stop(signal.SIGKILL)
    await until(lambda: not mirror.ready.is_set())
    broker.start()
    writer = await nats.connect(broker.url)
    await (await writer.jetstream().key_value("revocations")).put("key_4", b"4")
    await until(lambda: mirror.ready.is_set() and mirror.get("key_4") == 4.0)
    assert mirror.get("key_2") == 2.0
    running.cancel()
    await writer.close()
    await messaging.drain()


async def test_a_mirror_of_an_empty_bucket_is_ready_and_one_of_no_bucket_is_not(broker: Any) -> None:
    messaging = await connect(broker.url)
    mirror: Mirror[float] = Mirror(messaging, "later", lambda value: float(value))
    running = asyncio.create_task(mirror.run())
    await asyncio.sleep(0.3)
    assert not mirror.ready.is_set()
    await messaging.jetstream.create_key_value(bucket="later")
    await until(mirror.ready.is_set)
    assert not mirror
    running.cancel()
    await messaging.drain()
