"""At least once, in order, whatever dies: the outbox and its relays on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeAlias

import asyncpg
import pytest

from wardmesh.ids import EventId, OrgId
from wardmesh.server.database import Database, DatabaseRefused, DatabaseUnavailable, TenantContext
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.outbox import MAX_PAYLOAD_BYTES, Outbox, Relay, RelayLimits

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PATIENT = RelayLimits(batch_messages=3, poll_seconds=60, first_backoff_seconds=0.01, max_backoff_seconds=0.02)


class Server(Protocol):
    def url(self, database: str, user: str = ...) -> str: ...


class Broker:
    """What a broker's disk would hold; it can be told to fail before, between or after writing."""

    def __init__(self) -> None:
        self.stored: list[OutboundMessage] = []
        self.failures: list[str] = []
        self.written = asyncio.Event()

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.stored]

    async def publish_many(self, messages: Sequence[OutboundMessage]) -> None:
        failure = self.failures.pop(0) if self.failures else ""
        await asyncio.sleep(0)
        if failure == "before":
            raise ConnectionError("not one was written")
        self.stored += messages[:1] if failure == "between" else messages
        self.written.set()
        if failure == "hangs":
            await asyncio.sleep(60)
        if failure:
            raise ConnectionError("the acknowledgement was lost")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def pool(
    postgres_server: Server, database_name: str, database: Database, superuser: Superuser
) -> AsyncIterator[Database]:
    """A second pool, of more connections; the first one keeps emptying the tables."""
    async with Database(postgres_server.url(database_name, "wardmesh_secrets"), application="secrets") as opened:
        yield opened


@pytest.fixture
def outbox() -> Outbox:
    return Outbox("secrets")


async def put(database: Database, outbox: Outbox, tenant: TenantContext, *payloads: bytes) -> None:
    for payload in payloads:
        async with database.transaction(tenant) as connection:
            await outbox.put(connection, "evt.a", payload, {"ce-type": "a.b"}, message_id=EventId.new())


async def waiting(superuser: Superuser) -> int:
    count = await superuser.fetchval("select count(*) from secrets.outbox")
    assert isinstance(count, int)
    return count


async def until_empty(superuser: Superuser, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while await waiting(superuser):
            await asyncio.sleep(0.005)


async def drain(relay: Relay) -> None:
    while await relay.publish_batch():
        pass


async def test_what_was_committed_is_published_with_its_id_and_then_gone(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    message_id = EventId.new()
    async with pool.transaction(acme) as connection:
        await outbox.put(connection, "evt.a", b"\x00\xff", {"ce-type": "a.b"}, message_id=message_id)
    relay = Relay(pool, outbox, broker.publish_many)
    assert (await relay.oldest_seconds() or -1) >= 0
    assert await relay.publish_batch() == 1
    [stored] = broker.stored
    assert stored == OutboundMessage("evt.a", b"\x00\xff", {"ce-type": "a.b"}, message_id)
    assert stored.wire_headers() == {"ce-type": "a.b", "Nats-Msg-Id": message_id}
    assert await waiting(superuser) == 0
    assert await relay.oldest_seconds() is None
    assert await relay.publish_batch() == 0


async def test_what_was_rolled_back_is_not_published(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    async def fail() -> None:
        async with pool.transaction(acme) as connection:
            await outbox.put(connection, "evt.a", b"", message_id=EventId.new())
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await Relay(pool, outbox, broker.publish_many).publish_batch() == 0


async def test_a_commit_wakes_the_relay_at_once_and_stop_drains(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    relay = Relay(pool, outbox, broker.publish_many, limits=PATIENT)
    relay.start()
    await asyncio.sleep(0.05)  # it has looked, and would look again in a minute
    await put(pool, outbox, acme, b"0")
    await until_empty(superuser, 1.0)
    await put(pool, outbox, acme, *(b"%d" % n for n in range(1, 11)))
    await relay.stop()
    assert broker.payloads == [b"%d" % n for n in range(11)]


async def test_what_another_process_left_behind_is_found_by_polling(
    pool: Database, superuser: Superuser, broker: Broker, acme: TenantContext
) -> None:
    relay = Relay(pool, Outbox("secrets"), broker.publish_many, limits=replace(PATIENT, poll_seconds=0.05))
    relay.start()
    await put(pool, Outbox("secrets"), acme, b"left")  # an outbox that wakes nobody here
    await until_empty(superuser)
    await relay.stop()


@pytest.mark.parametrize("failure", ["before", "between", "after"])
async def test_a_failing_broker_loses_nothing_and_repeats_under_the_same_id(
    pool: Database,
    superuser: Superuser,
    outbox: Outbox,
    broker: Broker,
    acme: TenantContext,
    failure: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker.failures = [failure] * 3
    relay = Relay(pool, outbox, broker.publish_many, limits=PATIENT)
    await put(pool, outbox, acme, b"secret-1", b"secret-2", b"secret-3", b"secret-4")
    with caplog.at_level(logging.DEBUG, "wardmesh"):
        relay.start()
        await until_empty(superuser)
        await relay.stop()
    first_seen = list(dict.fromkeys(broker.payloads))
    assert first_seen == [b"secret-1", b"secret-2", b"secret-3", b"secret-4"]
    ids = {message.payload: set[str]() for message in broker.stored}
    for message in broker.stored:
        ids[message.payload].add(message.message_id)
    assert all(len(seen) == 1 for seen in ids.values())
    assert relay.failures == 0
    assert "ConnectionError" in caplog.text
    assert "secret" not in caplog.text.replace("wardmesh.server", "").replace("secrets", "")


async def test_a_relay_that_dies_between_acknowledgement_and_delete_leaves_the_rows(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    await put(pool, outbox, acme, b"1", b"2")

    async def publish_and_lose_the_database(messages: Sequence[OutboundMessage]) -> None:
        await broker.publish_many(messages)
        await superuser.execute(
            "select pg_terminate_backend(pid, 2000) from pg_stat_activity "
            "where usename = 'wardmesh_secrets' and state = 'idle in transaction'"
        )

    with pytest.raises(DatabaseUnavailable):
        await Relay(pool, outbox, publish_and_lose_the_database).publish_batch()
    assert await waiting(superuser) == 2
    await drain(Relay(pool, outbox, broker.publish_many))
    assert broker.payloads == [b"1", b"2", b"1", b"2"]
    assert broker.stored[0].message_id == broker.stored[2].message_id


async def test_a_relay_that_is_cancelled_leaves_the_rows_for_the_next(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    await put(pool, outbox, acme, b"1")
    broker.failures = ["hangs"]
    task = asyncio.create_task(Relay(pool, outbox, broker.publish_many).run())
    await asyncio.wait_for(broker.written.wait(), 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await drain(Relay(pool, outbox, broker.publish_many))
    assert broker.payloads == [b"1", b"1"]
    assert await waiting(superuser) == 0


async def test_a_broker_that_hangs_holds_the_rows_for_a_bounded_time(
    pool: Database, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    await put(pool, outbox, acme, b"1")
    broker.failures = ["hangs"]
    with pytest.raises(TimeoutError):
        await Relay(pool, outbox, broker.publish_many, limits=replace(PATIENT, publish_seconds=0.1)).publish_batch()


async def test_stopping_does_not_wait_for_ever(
    pool: Database, superuser: Superuser, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    broker.failures = ["before"] * 10_000
    relay = Relay(pool, outbox, broker.publish_many, limits=PATIENT)
    relay.start()
    await put(pool, outbox, acme, b"1")
    await asyncio.sleep(0.1)
    assert relay.failures > 1
    await asyncio.wait_for(relay.stop(drain_seconds=0.2), 2)
    assert await waiting(superuser) == 1


async def test_many_relays_keep_each_tenants_order_and_publish_each_message_once(
    pool: Database, superuser: Superuser, outbox: Outbox, acme: TenantContext
) -> None:
    tenants = [replace(acme, org_id=OrgId.new()) for _ in range(4)]
    broker = Broker()
    relays = [Relay(pool, outbox, broker.publish_many, limits=replace(PATIENT, poll_seconds=0.01)) for _ in range(4)]
    for relay in relays:
        relay.start()

    async def write(tenant: TenantContext) -> None:
        await put(pool, outbox, tenant, *(f"{tenant.org_id} {n}".encode() for n in range(25)))

    await asyncio.gather(*map(write, tenants))
    await until_empty(superuser, 10.0)
    for relay in relays:
        await relay.stop()
    assert len(broker.stored) == 100
    for tenant in tenants:
        seen = [payload for payload in broker.payloads if payload.startswith(tenant.org_id.encode())]
        assert seen == [f"{tenant.org_id} {n}".encode() for n in range(25)]


async def test_no_two_relays_are_at_one_tenant_at_once(
    pool: Database, outbox: Outbox, broker: Broker, acme: TenantContext, rival: TenantContext
) -> None:
    await put(pool, outbox, acme, b"a1", b"a2")
    await put(pool, outbox, rival, b"r1")
    inside = asyncio.Event()
    release = asyncio.Event()

    async def slowly(messages: Sequence[OutboundMessage]) -> None:
        inside.set()
        await release.wait()
        await broker.publish_many(messages)

    slow = asyncio.create_task(Relay(pool, outbox, slowly, limits=replace(PATIENT, batch_messages=1)).publish_batch())
    await inside.wait()
    # a2 must not overtake a1, which is on its way; r1 may.
    assert await Relay(pool, outbox, broker.publish_many).publish_batch() == 1
    assert broker.payloads == [b"r1"]
    release.set()
    await slow
    await drain(Relay(pool, outbox, broker.publish_many))
    assert broker.payloads == [b"r1", b"a1", b"a2"]


async def test_a_batch_is_bounded_in_bytes_but_never_empty(
    pool: Database, outbox: Outbox, broker: Broker, acme: TenantContext
) -> None:
    await put(pool, outbox, acme, b"x" * 100, b"y" * 100, b"z")
    relay = Relay(pool, outbox, broker.publish_many, limits=RelayLimits(batch_bytes=50))
    assert [await relay.publish_batch() for _ in range(4)] == [1, 1, 1, 0]


async def test_a_message_belongs_to_the_transactions_tenant(
    pool: Database, superuser: Superuser, outbox: Outbox, acme: TenantContext
) -> None:
    await put(pool, outbox, acme, b"")
    assert await superuser.fetchval("select org_id from secrets.outbox") == acme.org_id
    with pytest.raises(DatabaseRefused):
        async with pool.relay_transaction(outbox.relay_role) as connection:
            await outbox.put(connection, "evt.a", b"", message_id=EventId.new())


@pytest.mark.parametrize(
    ("subject", "payload", "headers"),
    [
        ("evt.*", b"", {}),
        ("evt.>", b"", {}),
        ("evt", b"", {}),
        ("evt..a", b"", {}),
        ("$JS.API.x", b"", {}),
        ("evt.a\r\nPUB x", b"", {}),
        ("evt." + "a" * 600, b"", {}),
        ("evt.a", b"x" * (MAX_PAYLOAD_BYTES + 1), {}),
        ("evt.a", b"", {"Nats-Msg-Id": "x"}),
        ("evt.a", b"", {"nats-rollup": "all"}),
        ("evt.a", b"", {"a b": "x"}),
        ("evt.a", b"", {"a": "x\r\nb: y"}),
        ("evt.a", b"", {"a": "x" * 40_000}),
    ],
)
async def test_what_no_broker_takes_never_enters_the_outbox(
    pool: Database, outbox: Outbox, acme: TenantContext, subject: str, payload: bytes, headers: dict[str, str]
) -> None:
    async with pool.transaction(acme) as connection:
        with pytest.raises(ValueError, match=r"subject|bytes|header"):
            await outbox.put(connection, subject, payload, headers, message_id=EventId.new())


def test_an_outbox_is_one_of_the_services() -> None:
    with pytest.raises(ValueError, match="a service is one of"):
        Outbox("secrets; drop table x")
