"""What delivery means, on a real broker and a real database: exactly once in the log, whatever dies in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import pytest
from fake_ports import LETTERS, SUBJECTS
from faststream.specification.asyncapi import AsyncAPI
from makers import NOW, Person, envelope, event, published, seal_all
from nats.js.api import AckPolicy, ConsumerConfig

from wardmesh.contracts.audit import Administration, AuditEvent, SealedEntries, typed
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import OrgId, Scope, WorkspaceId
from wardmesh.server import pulling, streams
from wardmesh.server.database import Database
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.messaging import Messaging
from wardmesh.server.nkey import Kind, new_seed
from wardmesh.server.publishing import AuditPublisher
from wardmesh.server.pulling import Finish
from wardmesh.server.settings import read_seed
from wardmesh.subjects import AuditSubject
from wardmesh_audit import domain, subscriber
from wardmesh_audit.backlog import StreamBacklog
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import Candidate
from wardmesh_audit.letter_box import StreamLetters
from wardmesh_audit.letters import MAX_DEAD_BYTES, Letter
from wardmesh_audit.ports import Check, Sealed, SignedMeanwhile
from wardmesh_audit.proofs import Head, SignedHead
from wardmesh_audit.sealer import Sealer
from wardmesh_audit.signing import BucketMemory, LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.subscriber import DeliveredEnvelope, sealing_broker
from wardmesh_audit.wakeups import NatsWakeups
from wardmesh_cli.embedded.mesh import EmbeddedMesh

SOON = 15.0
Seal = Callable[[Sequence[DeliveredEnvelope]], Awaitable[None]]
Sealing = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture(autouse=True)
async def short_ack_wait(messaging: Messaging) -> None:
    """A consumer that notices dead sealers sooner; the subscriber takes the one that is there."""
    config = ConsumerConfig(
        durable_name=subscriber.CONSUMER,
        filter_subject="audit.>",
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=1.0,
        max_deliver=-1,
        max_ack_pending=-1,
    )
    await messaging.jetstream.add_consumer(streams.AUDIT, config)


@pytest.fixture
async def emitting(messaging: Messaging) -> AsyncIterator[AuditPublisher]:
    publisher = AuditPublisher(messaging, "audit")
    publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
def store(database: Database) -> PostgresStore:
    return PostgresStore(database)


@pytest.fixture
def sealer(store: PostgresStore, messaging: Messaging, emitting: AuditPublisher) -> Sealer:
    return Sealer(store, messaging, emitting, SUBJECTS, LETTERS)


@pytest.fixture
def sealing(servers: EmbeddedMesh) -> Sealing:
    """`async with sealing(sealer.take, sealer.finish)`: a process's worth of sealing, as the service does it."""

    @asynccontextmanager
    async def running(seal: Seal, finish: Finish | None = None) -> AsyncIterator[None]:
        seed = read_seed(servers.layout.identities.seed_file("audit"))
        broker = sealing_broker([servers.nats_url], seed=seed, seal=seal)
        pulled = await pulling.start(broker, lost=lambda: None)
        try:
            yield
        finally:
            await pulled.stop(finish)

    return running


def message(scope: Scope, *events: AuditEvent, source: str = "audit") -> OutboundMessage:
    return OutboundMessage(AuditSubject(scope, source).format(), envelope(*events))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON):
        while not await condition():
            await asyncio.sleep(0.05)


async def sealed_ids(store: PostgresStore, scope: Scope) -> list[str]:
    size = (await store.head(the_log(scope))).size
    return [domain.decode_leaf(leaf).event.id for leaf in await store.leaves(the_log(scope), start=0, end=size)]


async def is_empty(messaging: Messaging) -> bool:
    return (await messaging.jetstream.stream_info("AUDIT")).state.messages == 0


async def test_what_is_published_is_sealed_in_order_and_told(
    sealing: Sealing, sealer: Sealer, store: PostgresStore, messaging: Messaging, operator: Person
) -> None:
    events = [event() for _ in range(30)]
    told: list[int] = []

    async def hear(news: object) -> None:
        told.extend(entry.index for entry in SealedEntries.model_validate_json(news.data).entries)  # type: ignore[attr-defined]

    subscription = await messaging.nats.subscribe(f"sealed.{operator.scope}", cb=hear)
    await messaging.nats.flush()
    async with sealing(sealer.take, sealer.finish):
        await messaging.publish([message(operator.scope, *events[start : start + 3]) for start in range(0, 30, 3)])
        await eventually(lambda: is_empty(messaging))
    assert await sealed_ids(store, operator.scope) == [each.id for each in events]
    assert await published(store, operator.scope) == 30
    assert told == list(range(30))
    await subscription.unsubscribe()


async def test_duplicates_from_whenever_are_dropped(
    sealing: Sealing, sealer: Sealer, store: PostgresStore, messaging: Messaging, operator: Person
) -> None:
    events = [event() for _ in range(5)]
    async with sealing(sealer.take, sealer.finish):
        for _ in range(3):  # without a message id, so that the broker drops nothing
            await messaging.publish([message(operator.scope, *events), message(operator.scope, events[0])])
            await eventually(lambda: is_empty(messaging))
    assert await sealed_ids(store, operator.scope) == [each.id for each in events]


async def test_two_sealers_divide_one_tenants_work(
    sealing: Sealing, sealer: Sealer, store: PostgresStore, messaging: Messaging, operator: Person
) -> None:
    worked: Counter[int] = Counter()

    def counting(number: int) -> Seal:
        async def seal(messages: Sequence[DeliveredEnvelope]) -> None:
            worked[number] += len(messages)
            await seal_all(sealer, messages)

        return seal

    events = [event() for _ in range(600)]
    async with sealing(counting(1)), sealing(counting(2)):
        for start in range(0, 600, 20):
            await messaging.publish([message(operator.scope, each) for each in events[start : start + 20]])
            await messaging.publish([message(operator.scope, *events[start : start + 20])])  # and again
        await eventually(lambda: is_empty(messaging))
    assert Counter(await sealed_ids(store, operator.scope)) == Counter({each.id: 1 for each in events})
    assert len(worked) == 2
    assert (await store.head(the_log(operator.scope))).size == 600
    assert await published(store, operator.scope) == 600


async def test_what_a_sealer_had_pulled_when_it_was_stopped_is_at_once_anothers(
    sealing: Sealing, store: PostgresStore, messaging: Messaging, emitting: AuditPublisher, operator: Person
) -> None:
    """Stopped under load, on the accounts of a mesh and with its patience: what is forgotten comes after 30 s."""
    patient = (await messaging.jetstream.consumer_info(streams.AUDIT, subscriber.CONSUMER)).config
    patient.ack_wait = subscriber.ACK_WAIT_SECONDS
    await messaging.jetstream.add_consumer(streams.AUDIT, patient)
    begun: list[int] = []
    events: list[AuditEvent] = []
    going = True

    async def slowly(messages: Sequence[DeliveredEnvelope]) -> None:
        begun.append(len(messages))
        await asyncio.sleep(0.02)
        await sealer.take(messages)

    async def publish() -> None:
        while going:
            some = [event() for _ in range(5)]
            await messaging.publish([message(operator.scope, each) for each in some])
            events.extend(some)

    for _ in range(3):
        going = True
        publishing = [asyncio.create_task(publish()) for _ in range(4)]
        sealer = Sealer(store, messaging, emitting, SUBJECTS, LETTERS)
        async with sealing(slowly, sealer.finish):
            await asyncio.sleep(0.3)
        going = False
        await asyncio.gather(*publishing)
        async with sealing(sealer.take, sealer.finish), asyncio.timeout(10):
            while not await is_empty(messaging):
                await asyncio.sleep(0.05)
    assert 0 < sum(begun) < len(events)
    assert (await store.head(the_log(operator.scope))).size == len({each.id for each in events})


class DyingStore(PostgresStore):
    """Commits, and then the process is gone: nobody publishes, nobody acknowledges, nobody asks for a retry."""

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        await super().seal(scope, candidates, check)
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_crash_between_commit_and_acknowledgement(
    sealing: Sealing,
    sealer: Sealer,
    store: PostgresStore,
    database: Database,
    messaging: Messaging,
    emitting: AuditPublisher,
    operator: Person,
) -> None:
    events = [event() for _ in range(4)]
    dying = Sealer(DyingStore(database), messaging, emitting, SUBJECTS, LETTERS)

    async def seal_and_die(messages: Sequence[DeliveredEnvelope]) -> None:
        try:
            await asyncio.wait_for(seal_all(dying, messages), 0.5)
        except TimeoutError:
            return

    async with sealing(seal_and_die):
        await messaging.publish([message(operator.scope, *events)])
        await eventually(lambda: _has(store, operator.scope, 4))
        await asyncio.sleep(0.6)
    assert await published(store, operator.scope) == 0
    assert not await is_empty(messaging)

    async with sealing(sealer.take, sealer.finish):
        await eventually(lambda: is_empty(messaging))
    assert await sealed_ids(store, operator.scope) == [each.id for each in events]
    assert await published(store, operator.scope) == 4


async def _has(store: PostgresStore, scope: Scope, size: int) -> bool:
    return (await store.head(the_log(scope))).size == size


class AwayStore(PostgresStore):
    """A database that is away at first."""

    failures = 2

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable
        return await super().seal(scope, candidates, check)


async def test_what_could_not_be_sealed_comes_again(
    sealing: Sealing, database: Database, messaging: Messaging, emitting: AuditPublisher, operator: Person
) -> None:
    store = AwayStore(database)
    sealer = Sealer(store, messaging, emitting, SUBJECTS, LETTERS)
    async with sealing(sealer.take, sealer.finish):
        await messaging.publish([message(operator.scope, event())])
        await eventually(lambda: is_empty(messaging))
    assert store.failures == 0
    assert await _has(store, operator.scope, 1)


async def test_what_waits_in_the_stream_is_known_until_it_is_sealed(
    sealing: Sealing, sealer: Sealer, store: PostgresStore, messaging: Messaging, operator: Person
) -> None:
    backlog = StreamBacklog(messaging.jetstream)
    async with sealing(sealer.take, sealer.finish):
        assert await backlog.settled(SOON)
    await messaging.publish([message(operator.scope, event())])
    assert not await backlog.settled(0.3), "nobody seals"
    async with sealing(sealer.take, sealer.finish):
        assert await backlog.settled(SOON)
        assert await _has(store, operator.scope, 1)


async def test_poison_holds_nobody_up_and_is_told_of(
    sealing: Sealing, sealer: Sealer, store: PostgresStore, messaging: Messaging, operator: Person
) -> None:
    scope, good = operator.scope, event()
    before = (await messaging.jetstream.stream_info("DEAD")).state.messages
    nil_before = (await store.head(the_log(OrgId.nil()))).size
    poison = [
        OutboundMessage(f"audit.{scope}.audit", b"\xff\x00 not an envelope"),
        OutboundMessage(f"audit.{scope}.audit", b'{"version":1,"events":[{"id":"*"}]}'),
        OutboundMessage(f"audit.{scope}.audit", b"[" * 500_000),
        OutboundMessage("audit.every-tenant.audit", envelope(event())),
        OutboundMessage(f"audit.{scope}.audit", b"x" * (1024 * 1024 - 512)),
        message(scope, event(details={"x": "y" * 70_000})),
        message(scope, event(occurred_at=NOW + timedelta(days=2))),
        message(scope, event(details={"x": [[[[[[[[[[[[]]]]]]]]]]]]})),
        OutboundMessage(f"audit.{scope}.audit", envelope(event()).replace(b'"secret_access"', b'"hearsay"')),
        OutboundMessage(f"audit.{scope}.audit", b'{"version":9,' + envelope(event())[1:]),
        OutboundMessage(f"audit.{scope}.audit", envelope(event(details={"x": "?"})).replace(b'"?"', b'"\\ud800"')),
        OutboundMessage(f"audit.{scope}.audit", envelope(event(details={"x": 1})).replace(b":1}", b":NaN}")),
    ]
    nul = event(targets=("a\x00b",), action="nul.byte")
    async with sealing(sealer.take, sealer.finish):
        await messaging.publish([*poison, message(scope, good), message(scope, nul)])
        await eventually(lambda: is_empty(messaging))
    entries = [domain.decode_leaf(leaf).event for leaf in await store.leaves(the_log(scope), start=0, end=100)]
    assert {good.id, nul.id} <= {each.id for each in entries}
    rejections = [each for each in entries if each.action == domain.REJECTED]
    assert Counter(str(each.reason) for each in rejections) == {
        "malformed_envelope": 5,
        "event_too_large": 1,
        "clock_far_off": 1,
        "details_too_deep": 1,
        "unknown_category": 1,
        "unknown_version": 1,
        "unspeakable_event": 1,
    }
    assert all(type(typed(each)) is Administration for each in rejections)
    assert (await store.head(the_log(OrgId.nil()))).size == nil_before + 1

    state = (await messaging.jetstream.stream_info("DEAD")).state
    assert state.messages == before + len(poison)
    box = StreamLetters(messaging.jetstream)
    letters = await letters_of(box, scope)
    assert await letters_of(box, OrgId.nil(), after=state.last_seq - len(poison))
    assert {letter.entry for letter in letters} == {each.id for each in rejections}
    assert {await LETTERS.open(letter) for letter in letters} == {
        each.payload[:MAX_DEAD_BYTES] for each in poison if each.subject.startswith(f"audit.{scope}.")
    }
    for letter in letters:
        raw = await messaging.jetstream.get_msg(streams.DEAD, letter.number)
        assert await LETTERS.open(letter) != raw.data, "nothing lies there in clear"
        assert await box.get(scope, letter.number) == letter
        assert await box.get(WorkspaceId.new(), letter.number) is None


async def letters_of(box: StreamLetters, scope: Scope, *, after: int = 0) -> list[Letter]:
    found: list[Letter] = []
    while (letter := await box.next(scope, found[-1].number if found else after)) is not None:
        found.append(letter)
    return found


async def test_a_tail_is_woken(messaging: Messaging, operator: Person) -> None:
    wakeups = NatsWakeups(messaging.nats)
    async with wakeups.listen(operator.scope) as first, wakeups.listen(operator.scope) as second:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await messaging.nats.publish(f"sealed.{operator.scope}", b"{}")
        await asyncio.gather(first.wait(5), second.wait(5))
        assert loop.time() - started < 1.5
        started = loop.time()
        await first.wait(0.1)
        assert 0.05 < loop.time() - started < 1
    assert not wakeups._following


async def test_what_was_signed_is_remembered_by_the_broker(
    messaging: Messaging, operator: Person, signer: LogSigner
) -> None:
    memory = await BucketMemory.open(messaging.jetstream)
    again = await BucketMemory.open(messaging.jetstream)
    assert await memory.last(operator.scope) == (None, 0)
    first = signer.sign(operator.scope, Head(size=1, frontier=(bytes(32),), root=bytes(32)))
    await memory.remember(operator.scope, first, 0)
    remembered, revision = await again.last(operator.scope)
    assert remembered == first == SignedHead(1, bytes(32), first.note)
    with pytest.raises(SignedMeanwhile):
        await memory.remember(operator.scope, first, 0)
    await again.remember(operator.scope, signer.sign(operator.scope, Head(2, (bytes(32),), bytes(32))), revision)


async def test_asyncapi_says_what_is_read_and_told() -> None:
    async def seal(_messages: Sequence[DeliveredEnvelope]) -> None: ...

    broker = sealing_broker(["nats://localhost:4222"], seed=new_seed(Kind.USER), seal=seal)
    document = AsyncAPI(broker, title="wardmesh audit").to_specification().to_jsonable()
    assert document["channels"]["AuditEnvelopes"]["address"] == "audit.>"
    assert {"AuditEnvelope", "AuditEvent", "SealedEntries"} <= document["components"]["schemas"].keys()
    assert document["operations"]["AuditEnvelopes"]["action"] == "receive"
