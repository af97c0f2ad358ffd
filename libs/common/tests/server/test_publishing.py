"""Group commit: callers share envelopes, nobody returns before the disk has it, nothing is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import AuditUnavailable, ServiceUnavailable
from wardmesh.ids import AgentId, EventId, OrgId, WorkspaceId
from wardmesh.server import publishing
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.publishing import AuditPublisher, encode

SCOPE = WorkspaceId.new()


class FakeStream:
    """Acknowledges when told to. Can be made to fail."""

    def __init__(self) -> None:
        self.messages: list[OutboundMessage] = []
        self.disk = asyncio.Event()
        self.disk.set()
        self.failure: Exception | None = None

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        await self.disk.wait()
        if self.failure is not None:
            raise self.failure
        self.messages.extend(messages)

    def events(self) -> list[AuditEvent]:
        return [
            event for message in self.messages for event in AuditEnvelope.model_validate_json(message.payload).events
        ]


def event() -> AuditEvent:
    return AuditEvent(
        id=EventId.new(), occurred_at=datetime.now(UTC), category=Category.TOOL_CALL, action="tool.call",
        outcome=Outcome.SUCCESS, actor=AgentId.new(),
    )  # fmt: skip


async def test_concurrent_callers_share_envelopes_and_every_event_arrives_once() -> None:
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    events = [event() for _ in range(500)]
    stream.disk.clear()
    emitted = [asyncio.create_task(publisher.emit(SCOPE, [item])) for item in events]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in emitted), "nobody returns before the disk has it"
    stream.disk.set()
    await asyncio.gather(*emitted)
    assert sorted(item.id for item in stream.events()) == sorted(item.id for item in events)
    assert len(stream.messages) < 10
    assert len({message.message_id for message in stream.messages}) == len(stream.messages)
    await publisher.stop()


@pytest.mark.parametrize(("limit", "value"), [("MAX_ENVELOPE_EVENTS", 10), ("MAX_ENVELOPE_BYTES", 2_000)])
async def test_an_envelope_ends_at_its_count_and_at_its_bytes(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(publishing, limit, value)
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    await publisher.emit(SCOPE, [event() for _ in range(95)])
    await publisher.stop()
    shares = [len(AuditEnvelope.model_validate_json(message.payload).events) for message in stream.messages]
    assert sum(shares) == 95
    assert max(shares) <= 10
    assert len(shares) < 20, "and is filled before it ends"
    assert all(len(message.payload) <= publishing.MAX_ENVELOPE_BYTES + 64 for message in stream.messages)


async def test_events_that_nobody_waits_for_gather_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "LINGER_SECONDS", 0.5)  # milliseconds, but not for a busy machine to miss
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    for _ in range(20):
        await publisher.enqueue(SCOPE, event())
        await asyncio.sleep(0)
    assert not stream.messages
    async with asyncio.timeout(5):
        while not stream.messages:
            await asyncio.sleep(0.001)
    assert len(stream.events()) == 20
    assert len(stream.messages) == 1
    await publisher.stop()


async def test_scopes_never_share_an_envelope() -> None:
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    scopes = [WorkspaceId.new(), OrgId.new()]
    await asyncio.gather(*[publisher.emit(scope, [event()]) for scope in scopes * 5])
    assert {message.subject for message in stream.messages} == {f"audit.{scope}.secrets" for scope in scopes}
    await publisher.stop()


@pytest.mark.parametrize("failure", [ServiceUnavailable(), AuditUnavailable()])
async def test_a_failure_reaches_every_caller_of_the_envelope_and_the_next_one_goes_on(failure: Exception) -> None:
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    stream.failure = failure
    results = await asyncio.gather(*[publisher.emit(SCOPE, [event()]) for _ in range(5)], return_exceptions=True)
    assert [type(result) for result in results] == [AuditUnavailable] * 5
    stream.failure = None
    await publisher.emit(SCOPE, [event()])
    await publisher.stop()


async def test_stopping_sends_what_was_accepted_and_accepts_no_more() -> None:
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    stream.disk.clear()
    for _ in range(20):
        await publisher.enqueue(SCOPE, event())
    stopping = asyncio.create_task(publisher.stop())
    await asyncio.sleep(0.01)
    with pytest.raises(AuditUnavailable):
        await publisher.enqueue(SCOPE, event())
    stream.disk.set()
    await stopping
    assert len(stream.events()) == 20


@pytest.mark.parametrize(
    ("bound", "most"), [("MAX_WAITING_EVENTS", 3), ("MAX_WAITING_BYTES", 2 * len(encode(event())) + 3)]
)
async def test_the_queue_is_bounded_and_callers_wait_their_turn(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(f"wardmesh.server.publishing.{bound}", most)
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    stream.disk.clear()
    for _ in range(3):
        await publisher.enqueue(SCOPE, event())
    fourth = asyncio.create_task(publisher.enqueue(SCOPE, event()))
    await asyncio.sleep(0.01)
    assert not fourth.done()
    stream.disk.set()
    await fourth
    await publisher.stop()
    assert len(stream.events()) == 4


async def test_who_waits_for_room_when_it_stops_is_told_and_nothing_is_accepted_that_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wardmesh.server.publishing.MAX_WAITING_EVENTS", 1)
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    stream.disk.clear()
    await publisher.enqueue(SCOPE, event())
    waiting = [asyncio.create_task(publisher.emit(SCOPE, [event()])) for _ in range(2)]
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(publisher.stop())
    await asyncio.sleep(0)
    stream.disk.set()
    await stopping
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [AuditUnavailable] * 2
    assert len(stream.events()) == 1


async def test_a_caller_that_goes_while_it_waits_takes_no_room_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wardmesh.server.publishing.MAX_WAITING_EVENTS", 1)
    stream = FakeStream()
    publisher = AuditPublisher(stream, "secrets")
    publisher.start()
    stream.disk.clear()
    await publisher.enqueue(SCOPE, event())
    going, staying = (asyncio.create_task(publisher.emit(SCOPE, [event()])) for _ in range(2))
    await asyncio.sleep(0.01)
    stream.disk.set()
    going.cancel()
    async with asyncio.timeout(5):
        await staying
    assert going.cancelled()
    await publisher.stop()
    assert len(stream.events()) == 2
