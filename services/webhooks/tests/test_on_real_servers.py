"""The whole way on real servers: from a signed request to a fetched event, through a crash in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx2
import nats
import pytest
import stripe
from services.webhooks.tests.conftest import SECRET, Person, make_person, postgres_store

from wardmesh.contracts import webhooks as contracts
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.contracts.webhooks import CreateSource, DeliveredEvent, Fetch, NewEvent, Publish, Scheme
from wardmesh.envelope import Event
from wardmesh.ids import EventId, ServiceId
from wardmesh.server.database import Database
from wardmesh.server.fetching import Fetcher
from wardmesh.server.runtime import Runtime, running
from wardmesh.subjects import EventSubject
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_webhooks import app
from wardmesh_webhooks.domain import MAX_WEBHOOK_BYTES, Received
from wardmesh_webhooks.ports import Acceptance
from wardmesh_webhooks.service import WebhookService
from wardmesh_webhooks.settings import Settings
from wardmesh_webhooks.stream import EVENTS, FETCH_LIMITS
from wardmesh_webhooks.vault import SecretVault

MAX_PAYLOAD = 1024 * 1024


class House:
    """A running service, and its use cases as the gates would call them."""

    def __init__(self, runtime: Runtime, settings: Settings, ingest_port: int) -> None:
        self.runtime = runtime
        self.vault = SecretVault(settings.key_file.read_bytes())
        self.fetcher = Fetcher(runtime.messaging.nats, EVENTS, FETCH_LIMITS)
        self.service = WebhookService(
            postgres_store(runtime.database), self.vault, runtime.messaging, self.fetcher, lambda: datetime.now(UTC)
        )
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ingest_port}")

    async def open(self, person: Person, scheme: Scheme = Scheme.STRIPE) -> str:
        request = CreateSource(name=scheme.value, scheme=scheme, signing_secret=SECRET)
        return (await self.service.create_source(person.ask(), request)).path

    async def fetch(
        self, person: Person, pattern: str = ">", *, wait: float = 8, acks: tuple[str, ...] = (), batch: int = 64
    ) -> tuple[DeliveredEvent, ...]:
        call = person.ask(contracts.FETCH, seconds=20)
        request = Fetch(pattern=pattern, group="tests", wait_seconds=wait, acks=acks, batch=batch)
        return (await self.service.fetch(call, request)).events


@pytest.fixture(scope="module")
def settings(servers: EmbeddedMesh) -> Settings:
    return make_settings(servers)


def make_settings(servers: EmbeddedMesh) -> Settings:
    identities = servers.layout.identities
    return Settings(
        nats_url=servers.nats_url,
        nats_seed_file=identities.seed_file("webhooks"),
        database_url=servers.database_url("wardmesh_webhooks"),  # type: ignore[arg-type]  # read as from the environment
        key_file=identities.kek_file("webhooks"),
        webhooks_http_port=servers.ports.ingest,
    )


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    # The audit service's stream is not here; what is sent to it is refused by the broker, which is not the point.
    async with running("webhooks", settings, app.build) as runtime:
        house = House(runtime, settings, settings.webhooks_http_port)
        async with house.http:
            yield house


def stripe_headers(body: bytes, at: datetime | None = None) -> dict[str, str]:
    seconds = int((at or datetime.now(UTC)).timestamp())
    signature = stripe.WebhookSignature._compute_signature(f"{seconds}.{body.decode()}", SECRET)
    return {"stripe-signature": f"t={seconds},v1={signature}", "content-type": "application/json"}


async def test_a_signed_request_becomes_a_fetched_event(house: House) -> None:
    person = make_person()
    path = await house.open(person)
    body = b'{"id":"evt_1","type":"invoice.payment_failed"}'
    accepted = await house.http.post(path, content=body, headers=stripe_headers(body))
    assert (accepted.status_code, accepted.json()) == (202, {"id": "evt_1", "status": "accepted"})
    (event,) = await house.fetch(person, "stripe.invoice.*")
    assert (event.id, event.source, event.type, event.data) == ("evt_1", "stripe", "invoice.payment_failed", body)
    duplicate = await house.http.post(path, content=body, headers=stripe_headers(body))
    assert (duplicate.status_code, duplicate.json()["status"]) == (200, "duplicate")
    assert await house.fetch(person, "stripe.invoice.*", wait=0.5, acks=(event.ack,)) == ()


async def test_a_replay_and_a_forgery_become_nothing(house: House) -> None:
    person = make_person()
    path = await house.open(person)
    body = b'{"id":"evt_2","type":"invoice.paid"}'
    now = datetime.now(UTC)
    for headers in (
        stripe_headers(body + b" "),
        stripe_headers(body, now - timedelta(minutes=6)),
        stripe_headers(body, now + timedelta(minutes=6)),
        {"content-type": "application/json"},
    ):
        assert (await house.http.post(path, content=body, headers=headers)).status_code == 400
    assert await house.fetch(person, wait=0.5) == ()


async def test_acceptance_and_refusal_are_in_the_audit_stream(house: House, servers: EmbeddedMesh) -> None:
    person = make_person()
    path = await house.open(person)
    body = b'{"id":"evt_3","type":"invoice.paid"}'
    await house.http.post(path, content=body, headers=stripe_headers(body + b" "))
    await house.http.post(path, content=body, headers=stripe_headers(body))
    seed = servers.layout.identities.seed_file("audit").read_text().strip()
    client = await nats.connect(servers.nats_url, nkeys_seed_str=seed, inbox_prefix=b"_INBOX.audit")
    try:
        outcomes = set()
        subscription = await client.jetstream().pull_subscribe(f"audit.{person.workspace}.webhooks", stream="AUDIT")
        async with asyncio.timeout(10):
            while len(outcomes) < 2:
                for message in await subscription.fetch(10, timeout=5):
                    envelope = AuditEnvelope.model_validate_json(message.data)
                    outcomes |= {(event.action, event.outcome) for event in envelope.events}
        assert outcomes == {("webhook.receive", Outcome.REFUSED), ("webhook.receive", Outcome.SUCCESS)}
    finally:
        await client.close()


async def test_backends_publish_and_receive_in_their_workspace_only(house: House) -> None:
    person, stranger = make_person(), make_person()
    events = tuple(NewEvent(type="order.shipped", data={"order": number}, id=f"o-{number}") for number in range(20))
    for _ in range(2):  # the second time changes nothing
        await house.service.publish(person.ask(contracts.PUBLISH), Publish(events=events))
    received = await house.fetch(person, "app.order.>")
    assert [event.id for event in received] == [f"o-{number}" for number in range(20)]
    assert await house.fetch(stranger, ">", wait=0.5) == ()


async def test_the_largest_events_fit_the_answers_that_carry_them(house: House) -> None:
    person = make_person()
    path = await house.open(person)
    for number in range(4):
        body = b'{"id":"evt_%d","type":"x","a":"' % number
        body += b"x" * (MAX_WEBHOOK_BYTES - len(body) - 2) + b'"}'
        assert (await house.http.post(path, content=body, headers=stripe_headers(body))).status_code == 202
    small = tuple(NewEvent(type="t" * 60 + ".a.b.c", data=number, id="i" * 128 + "") for number in range(1))
    await house.service.publish(person.ask(contracts.PUBLISH), Publish(events=small))
    seen: list[str] = []
    acks: tuple[str, ...] = ()
    async with asyncio.timeout(20):
        while len(seen) < 5:
            call = person.ask(contracts.FETCH, seconds=20)
            fetched = await house.service.fetch(call, Fetch(pattern=">", group="g", batch=256, acks=acks))
            assert len(fetched.model_dump_json().encode()) < MAX_PAYLOAD
            seen += [event.id for event in fetched.events]
            acks = tuple(event.ack for event in fetched.events)
    assert len(set(seen)) == 5


async def test_many_small_events_fit_one_answer(house: House) -> None:
    person = make_person()
    for part in range(3):
        events = tuple(
            NewEvent(type="a" * 64 + ".b" * 7, data="x" * 1500, id=f"{part}-{number}-" + "i" * 100)
            for number in range(256)
        )
        await house.service.publish(person.ask(contracts.PUBLISH), Publish(events=events))
    call = person.ask(contracts.FETCH, seconds=20)
    fetched = await house.service.fetch(call, Fetch(pattern="app.>", group="g", batch=256))
    assert len(fetched.events) > 200
    assert len(fetched.model_dump_json().encode()) < MAX_PAYLOAD


async def test_what_was_committed_before_a_crash_is_delivered_after_it(
    settings: Settings, database: Database, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    """A process that dies after the commit and before its relay has published: the next one publishes."""
    person, store = make_person(), postgres_store(database)
    vault = SecretVault(settings.key_file.read_bytes())
    async with store.transaction(person.ask()) as sources:
        sealed = vault.seal(person.workspace, "stripe", Scheme.STRIPE, SECRET)
        source = await sources.add("stripe", Scheme.STRIPE, sealed)
    now = datetime.now(UTC)
    received = Received("evt_9", "invoice.paid", now, "application/json", b"k" * 32, None, b'{"id":"evt_9"}')
    event = Event("evt_9", EventSubject(person.workspace, "stripe", "invoice.paid"), now, received.body)
    audit = AuditEvent(
        id=EventId.new(), occurred_at=now, category=Category.WEBHOOK, action="webhook.receive",
        outcome=Outcome.SUCCESS, actor=ServiceId.nil(),
    )  # fmt: skip
    assert await store.accept(source, received, event, audit) is Acceptance.ACCEPTED
    waiting = "select count(*) from webhooks.outbox where org_id = $1"
    assert await superuser.fetchval(waiting, person.caller.organization) == 2, "no relay has run"

    async with running("webhooks", settings, app.build) as runtime:
        house = House(runtime, settings, settings.webhooks_http_port)
        async with house.http:
            (delivered,) = await house.fetch(person)
            assert (delivered.id, delivered.data) == ("evt_9", b'{"id":"evt_9"}')
            async with asyncio.timeout(5):
                while await superuser.fetchval(waiting, person.caller.organization):
                    await asyncio.sleep(0.05)


async def test_the_stream_is_as_declared(house: House) -> None:
    assert house.runtime.messaging.drift == {}


async def test_stopping_does_not_wait_for_long_polls(settings: Settings) -> None:
    person = make_person()
    async with running("webhooks", settings, app.build) as runtime:
        house = House(runtime, settings, settings.webhooks_http_port)
        poll = asyncio.create_task(house.fetch(person, wait=15))
        await asyncio.sleep(0.3)
        house.fetcher.close()
        async with asyncio.timeout(2):
            assert await poll == ()
        await house.http.aclose()
