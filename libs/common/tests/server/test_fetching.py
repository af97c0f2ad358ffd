"""Fetching on a real broker, as the service's own user with the service's own permissions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libs.common.tests.server.fetching_broker import (
    ACK_WAIT,
    LIMITS,
    START_SECONDS,
    STREAM,
    Broker,
    Group,
    bodies,
    delete_consumers,
)
from nats.aio.client import Client
from nats.js.api import StreamConfig

from wardmesh.errors import Conflict, InternalError, ServiceUnavailable
from wardmesh.ids import UserId, WorkspaceId
from wardmesh.server import fetching
from wardmesh.server.fetching import (
    MAX_NAK_DELAY,
    Fetcher,
    FetchLimits,
    consumer_name,
    nak_delay,
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Client]:
    """A replica's connection, and an empty stream."""
    async with broker.as_service() as client:
        async with asyncio.timeout(START_SECONDS):
            root = await nats.connect(broker.url, user="root", password="root")
            jetstream = root.jetstream()
            for name in await jetstream.streams_info():
                await jetstream.delete_stream(str(name.config.name))
            await jetstream.add_stream(StreamConfig(name=STREAM, subjects=["evt.>"]))
            await root.close()
        yield client


async def test_what_is_there_comes_at_once_and_in_order(client: Client) -> None:
    group = Group(client)
    await group.publish(b"1", b"2", b"3")
    started = time.monotonic()
    deliveries = await group.fetch(wait=20)
    assert bodies(deliveries) == [b"1", b"2", b"3"]
    assert [delivery.delivered for delivery in deliveries] == [1, 1, 1]
    assert time.monotonic() - started < 5, "it waited for the batch to fill"


async def test_a_poll_returns_with_the_first_event(client: Client) -> None:
    group = Group(client)
    poll = asyncio.create_task(group.fetch(wait=20))
    await asyncio.sleep(0.3)
    await group.publish(b"late")
    async with asyncio.timeout(5):
        assert bodies(await poll) == [b"late"]


async def test_a_poll_without_events_ends_when_its_time_is_over(client: Client) -> None:
    group = Group(client)
    started = time.monotonic()
    assert await group.fetch(wait=0.5) == []
    assert 0.4 < time.monotonic() - started < 3


async def test_what_was_acknowledged_does_not_come_again_on_any_replica(client: Client, broker: Broker) -> None:
    group = Group(client)
    await group.publish(b"1", b"2")
    first, second = await group.fetch()
    async with broker.as_service() as other:
        elsewhere = Fetcher(other, STREAM, LIMITS)
        assert await group.fetch(acks=[first.ack], fetcher=elsewhere) == []
        await asyncio.sleep(ACK_WAIT.total_seconds() + 0.3)
        (again,) = await group.fetch(wait=3, fetcher=elsewhere)
    assert (again.data, again.delivered) == (b"2", 2)
    assert again.ack != second.ack


async def test_two_replicas_share_the_work_of_a_group(client: Client, broker: Broker) -> None:
    group = Group(client)
    await group.publish(*[str(number).encode() for number in range(40)])
    async with broker.as_service() as other:
        replicas = [group.fetcher, Fetcher(other, STREAM, LIMITS)]
        seen: list[bytes] = []
        for turn in range(8):
            taken = await group.fetch(batch=5, fetcher=replicas[turn % 2])
            seen += bodies(taken)
            await group.fetch(batch=1, acks=[one.ack for one in taken], fetcher=replicas[(turn + 1) % 2])
    assert len(seen) >= 33
    assert len(set(seen)) == len(seen), "one event went to both"


async def test_what_was_handed_back_rests_and_comes_again(client: Client) -> None:
    group = Group(client, FetchLimits(forget_after=timedelta(days=7), ack_wait=timedelta(minutes=1)))
    await group.publish(b"1")
    (delivery,) = await group.fetch()
    started = time.monotonic()
    (again,) = await group.fetch(naks=[delivery.ack], wait=5)
    assert again.delivered == 2
    assert 0.7 < time.monotonic() - started < 3, "the first rest is one second"


async def test_the_token_of_another_group_acknowledges_nothing_of_it(client: Client) -> None:
    """The attack: a principal takes the numbers of somebody else's deliveries for its own acknowledgements."""
    victim, attacker = Group(client), Group(client)
    await victim.publish(b"precious")
    (delivery,) = await victim.fetch()
    assert await attacker.fetch(acks=[delivery.ack]) == []
    assert await attacker.fetch(naks=[delivery.ack]) == []
    same_workspace = Group(client, group="other")
    same_workspace.workspace = victim.workspace
    await same_workspace.fetch(batch=1, acks=[delivery.ack])
    await asyncio.sleep(ACK_WAIT.total_seconds() + 0.3)
    (again,) = await victim.fetch(wait=3)
    assert (again.data, again.delivered) == (b"precious", 2)


@pytest.mark.parametrize(
    "token", ["", "1.1.1.1", "1.1.1.1.1.1", "*.1.1.1.1", ">", "1.1.1.1.x", "1.1.1.1.1 ", "\r\nPUB x"]
)
async def test_a_token_that_is_not_five_numbers_is_dropped(client: Client, token: str) -> None:
    group = Group(client)
    await group.publish(b"1")
    assert bodies(await group.fetch(acks=[token], naks=[token])) == [b"1"]


async def test_another_workspaces_events_never_come(client: Client) -> None:
    mine, theirs = Group(client), Group(client)
    await theirs.publish(b"theirs")
    await mine.publish(b"mine")
    mine.pattern = ">"
    assert bodies(await mine.fetch()) == [b"mine"]


async def test_another_pattern_is_another_group_and_skips_nothing(client: Client) -> None:
    group = Group(client)
    await group.publish(b"stripe")
    await group.publish(b"github", of_type="github.push")
    (delivery,) = await group.fetch()
    assert await group.fetch(acks=[delivery.ack]) == []
    group.pattern = "github.>"
    assert bodies(await group.fetch()) == [b"github"], "it lies behind the first pattern's place"
    group.pattern = "stripe.>"
    assert await group.fetch() == [], "the first pattern's place was lost"


async def test_a_consumer_deleted_underneath_is_made_again(broker: Broker, client: Client) -> None:
    group = Group(client)
    await group.publish(b"1")
    (delivery,) = await group.fetch()
    await group.fetch(acks=[delivery.ack])
    await delete_consumers(broker)
    # Its place is lost, so what it had done comes again: repeated, not lost.
    await group.publish(b"2")
    assert bodies(await group.fetch(acks=[delivery.ack])) == [b"1", b"2"]


async def test_a_consumer_deleted_while_it_is_polled_is_made_again(broker: Broker, client: Client) -> None:
    group = Group(client)
    poll = asyncio.create_task(group.fetch(wait=20))
    await asyncio.sleep(0.3)
    await delete_consumers(broker)
    await asyncio.sleep(0.3)
    await group.publish(b"1")
    async with asyncio.timeout(5):
        assert bodies(await poll) == [b"1"]


async def test_closing_ends_every_poll(client: Client) -> None:
    group = Group(client)
    polls = [asyncio.create_task(group.fetch(wait=20)) for _ in range(5)]
    await asyncio.sleep(0.3)
    group.fetcher.close()
    async with asyncio.timeout(1):
        assert await asyncio.gather(*polls) == [[], [], [], [], []]
        assert await group.fetch(wait=20) == []


async def test_a_poll_that_the_broker_forgot_is_ended_and_nothing_is_lost(client: Client, broker: Broker) -> None:
    group = Group(client)
    await group.publish(b"1")
    (delivery,) = await group.fetch()
    poll = asyncio.create_task(group.fetch(wait=20, acks=[delivery.ack]))
    await asyncio.sleep(0.2)
    broker.stop(kill=True)
    with pytest.raises(ServiceUnavailable):
        await group.fetch(wait=0)
    broker.start()
    async with asyncio.timeout(15):  # well before its 20 s: silence is noticed
        with pytest.raises(ServiceUnavailable):
            await poll
        await group.publish(b"2")
        assert bodies(await group.fetch(wait=5)) == [b"2"], "an acknowledgement that was confirmed holds"


async def test_an_abandoned_poll_hands_back_what_it_took(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes away between the moment that the broker delivered and the moment that the poll would answer."""
    group = Group(client, FetchLimits(forget_after=timedelta(days=7), ack_wait=timedelta(minutes=1)))
    await group.publish(b"1", b"2")
    with monkeypatch.context() as patched:
        patched.setattr(fetching._Poll, "wait", lambda *_, **__: asyncio.sleep(60))
        poll = asyncio.create_task(group.fetch())
        await asyncio.sleep(0.3)
        poll.cancel()
        await asyncio.wait({poll})
    again = await group.fetch(wait=3)
    assert [(delivery.data, delivery.delivered) for delivery in again] == [(b"1", 2), (b"2", 2)]


async def test_an_answer_holds_no_more_bytes_than_it_may(client: Client) -> None:
    group = Group(client, FetchLimits(forget_after=timedelta(days=7), max_bytes=3000))
    await group.publish(b"a" * 1000, b"b" * 1000, b"c" * 1000)
    first = await group.fetch()
    assert [body[:1] for body in bodies(first)] == [b"a", b"b"]
    assert [body[:1] for body in bodies(await group.fetch(acks=[one.ack for one in first]))] == [b"c"]


async def test_a_message_over_the_limit_is_an_error_and_not_an_endless_wait(client: Client) -> None:
    group = Group(client, FetchLimits(forget_after=timedelta(days=7), max_bytes=500))
    await group.publish(b"a" * 1000)
    with pytest.raises(InternalError, match="too large"):
        await group.fetch(wait=20)


async def test_a_message_that_nobody_can_read_is_put_away(client: Client) -> None:
    group = Group(client)
    await group.publish(b"unreadable")
    (delivery,) = await group.fetch()
    name = consumer_name(group.workspace, group.principal, group.group)
    await group.fetcher.terminate(consumer=name, filter_subject=group.filter_subject, token=delivery.ack)
    await asyncio.sleep(ACK_WAIT.total_seconds() + 0.3)
    assert await group.fetch() == []


async def test_what_comes_while_a_poll_is_ended_is_answered_or_comes_again_at_once(client: Client) -> None:
    """The broker sends until it has heard that nobody waits: what it sends meanwhile must not wait to be overdue."""
    group = Group(client)
    for number in range(40):
        fetcher = Fetcher(client, STREAM, LIMITS)
        poll = asyncio.create_task(group.fetch(wait=20, fetcher=fetcher))
        await asyncio.sleep(0.02)
        publishing = asyncio.create_task(group.publish(str(number).encode()))
        await asyncio.sleep(0.0002 * (number % 20))
        fetcher.close()
        await publishing
        found = await poll or await group.fetch(wait=ACK_WAIT.total_seconds() / 2)
        assert bodies(found) == [str(number).encode()]
        assert await group.fetch(acks=[one.ack for one in found], batch=0) == []


async def test_what_is_handed_back_comes_again_at_once(client: Client) -> None:
    group = Group(client)
    await group.publish(b"taken for nobody")
    (delivery,) = await group.fetch()
    name = consumer_name(group.workspace, group.principal, group.group)
    await group.fetcher.hand_back(consumer=name, filter_subject=group.filter_subject, tokens=[delivery.ack])
    (again,) = await group.fetch(wait=ACK_WAIT.total_seconds() / 2)
    assert (again.data, again.delivered) == (b"taken for nobody", 2)


async def test_a_workspace_has_so_many_groups_and_no_more(client: Client) -> None:
    limits = FetchLimits(forget_after=timedelta(days=7), max_groups=3)
    group = Group(client, limits)
    for number in range(3):
        group.group = f"g{number}"
        await group.fetch()
    group.group = "one-too-many"
    with pytest.raises(Conflict, match="3 groups"):
        await group.fetch()
    group.group = "g0"
    assert await group.fetch(fetcher=Fetcher(client, STREAM, limits)) == [], "those that exist go on"
    other = Group(client, limits)
    assert await other.fetch() == [], "another workspace has groups of its own"


def test_a_groups_name_is_stable_and_says_nothing_of_the_group() -> None:
    workspace, principal = WorkspaceId.new(), UserId.new()
    name = consumer_name(workspace, principal, "billing")
    assert name == consumer_name(workspace, principal, "billing")
    assert "billing" not in name
    assert name.startswith(f"{workspace}-")


@given(st.text(max_size=40), st.text(max_size=40))
def test_groups_never_share_a_name(first: str, second: str) -> None:
    workspace, principal = WorkspaceId.nil(), UserId.nil()
    names = {consumer_name(workspace, principal, first), consumer_name(workspace, principal, second)}
    assert len(names) == len({first, second})
    for name in names:
        assert name.replace("-", "").replace("_", "").isalnum()
        assert name.isascii()
        assert len(name) < 128


@given(st.integers(min_value=-5, max_value=10**20))
def test_a_rest_is_between_a_second_and_five_minutes(delivered: int) -> None:
    assert timedelta(seconds=1) <= nak_delay(delivered) <= MAX_NAK_DELAY
