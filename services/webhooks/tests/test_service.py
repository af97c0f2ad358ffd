"""Use cases of callers with a token, on fakes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from services.webhooks.tests.conftest import KEY, NOW, SECRET, Clock, FakeStore, FakeStream, Person, make_person

from wardmesh.contracts import webhooks as contracts
from wardmesh.contracts.operation import Empty
from wardmesh.contracts.webhooks import (
    MAX_EVENT_BYTES,
    CreateSource,
    DeleteSource,
    Fetch,
    NewEvent,
    Publish,
    Scheme,
)
from wardmesh.envelope import Event
from wardmesh.errors import BodyTooLarge, Conflict, InvalidRequest, RateLimited, ServiceUnavailable
from wardmesh.server.fetching import Delivery
from wardmesh.subjects import EventSubject
from wardmesh_webhooks.domain import MAX_SOURCES
from wardmesh_webhooks.errors import SecretRefused, SourceUnusable
from wardmesh_webhooks.service import MAX_POLLS_OF_PRINCIPAL, WebhookService
from wardmesh_webhooks.vault import SecretVault


@pytest.fixture
def service(fake_store: FakeStore, vault: SecretVault, stream: FakeStream, clock: Clock) -> WebhookService:
    return WebhookService(fake_store, vault, stream, stream, clock)


@pytest.fixture
def admin() -> Person:
    return make_person()


def new_source(name: str = "stripe", scheme: Scheme = Scheme.STRIPE, secret: str = SECRET) -> CreateSource:
    return CreateSource(name=name, scheme=scheme, signing_secret=secret)


def publish(*events: NewEvent) -> Publish:
    return Publish(events=events)


async def test_a_source_has_an_address_and_its_secret_is_nowhere_in_plain(
    service: WebhookService, fake_store: FakeStore, vault: SecretVault, admin: Person
) -> None:
    source = await service.create_source(admin.ask(), new_source())
    assert source.path == f"/hooks/{admin.workspace}/stripe"
    stored = fake_store.sources[admin.workspace]["stripe"]
    assert SECRET.encode() not in stored.sealed_secret
    assert vault.open(stored) == (SECRET.encode(),)
    listed = await service.list_sources(admin.ask(contracts.LIST_SOURCES), Empty())
    assert listed.sources == (source,)
    assert SECRET not in listed.model_dump_json()


async def test_a_sealed_secret_moved_to_another_source_does_not_open(
    service: WebhookService, fake_store: FakeStore, vault: SecretVault, admin: Person
) -> None:
    """The attack: somebody who writes to the database puts a secret that they know under another's address."""
    rival = make_person()
    await service.create_source(admin.ask(), new_source())
    await service.create_source(rival.ask(), new_source())
    victim, moved = fake_store.sources[admin.workspace]["stripe"], fake_store.sources[rival.workspace]["stripe"]
    for swapped in (
        replace(victim, sealed_secret=moved.sealed_secret),
        replace(victim, name="other"),
        replace(victim, scheme=Scheme.GITHUB),
    ):
        with pytest.raises(SourceUnusable):
            vault.open(swapped)
    with pytest.raises(SourceUnusable):
        SecretVault(KEY[::-1]).open(victim)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (new_source("app"), InvalidRequest),
        (new_source(secret="short"), SecretRefused),
        (new_source(scheme=Scheme.STANDARD, secret="whsec_not-base64-at-all!"), SecretRefused),
    ],
)
async def test_a_source_that_could_not_work_is_refused(
    service: WebhookService, fake_store: FakeStore, admin: Person, request_: CreateSource, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await service.create_source(admin.ask(), request_)
    assert not fake_store.sources


async def test_a_workspace_has_so_many_sources_and_no_more(service: WebhookService, admin: Person) -> None:
    for number in range(MAX_SOURCES):
        await service.create_source(admin.ask(), new_source(f"s{number}"))
    with pytest.raises(Conflict, match="at the most"):
        await service.create_source(admin.ask(), new_source("one-more"))
    await service.delete_source(admin.ask(contracts.DELETE_SOURCE), DeleteSource(name="s0"))
    await service.create_source(admin.ask(), new_source("one-more"))


async def test_deleting_twice_amounts_to_once(service: WebhookService, admin: Person) -> None:
    await service.create_source(admin.ask(), new_source())
    for _ in range(2):
        await service.delete_source(admin.ask(contracts.DELETE_SOURCE), DeleteSource(name="stripe"))
    assert (await service.list_sources(admin.ask(), Empty())).sources == ()


async def test_events_are_published_as_cloudevents_of_the_callers_workspace(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    published = await service.publish(
        admin.ask(contracts.PUBLISH),
        publish(
            NewEvent(type="order.shipped", data={"order": 7, "ü": 1}, id="o-7", time=at), NewEvent(type="x", data=1)
        ),
    )
    first, second = stream.messages
    assert first.subject == f"evt.{admin.workspace}.app.order.shipped"
    event = Event.read(EventSubject.parse(first.subject), first.headers, first.payload)
    assert (event.id, event.time, event.json()) == ("o-7", at, {"order": 7, "ü": 1})
    assert published.ids == ("o-7", second.headers["ce-id"])
    assert second.headers["ce-time"] == NOW.isoformat()


async def test_an_id_makes_a_repetition_known_within_the_workspace_only(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    for person in (admin, admin, make_person()):
        await service.publish(person.ask(contracts.PUBLISH), publish(NewEvent(type="x", data=1, id="1")))
    first, again, elsewhere = [message.message_id for message in stream.messages]
    assert first == again == f"{admin.workspace}:app:1"
    assert elsewhere != first


@pytest.mark.parametrize("data", [float("nan"), [float("inf")], {"a": {"b": float("-inf")}}])
async def test_what_is_not_json_everywhere_is_refused(
    service: WebhookService, stream: FakeStream, admin: Person, data: object
) -> None:
    event = NewEvent.model_construct(type="x", data=data, id=None, time=None)
    with pytest.raises(InvalidRequest, match="Event 0"):
        await service.publish(admin.ask(contracts.PUBLISH), Publish.model_construct(events=(event,)))
    assert not stream.messages


async def test_one_event_too_large_and_none_is_published(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    with pytest.raises(BodyTooLarge, match="Event 1"):
        await service.publish(
            admin.ask(contracts.PUBLISH),
            publish(NewEvent(type="x", data=1), NewEvent(type="x", data="x" * MAX_EVENT_BYTES)),
        )
    assert not stream.messages


async def test_what_is_not_durable_is_not_answered_as_published(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    stream.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await service.publish(admin.ask(contracts.PUBLISH), publish(NewEvent(type="x", data=1)))


def delivery(person: Person, number: int = 1, **headers: str) -> Delivery:
    event = Event(f"evt_{number}", EventSubject(person.workspace, "stripe", "invoice.paid"), NOW, b"\xff{")
    return Delivery(event.subject.format(), event.headers() | headers, event.data, f"{number}.1.1.1.0", number)


async def test_a_fetch_stays_in_the_workspace_and_within_the_deadline(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    stream.deliveries = [delivery(admin)]
    fetched = await service.fetch(
        admin.ask(contracts.FETCH, seconds=5), Fetch(pattern="stripe.>", group="g", acks=("1.2.3.4.5",))
    )
    (event,) = fetched.events
    assert (event.id, event.source, event.type, event.data) == ("evt_1", "stripe", "invoice.paid", b"\xff{")
    assert (event.ack, event.delivery) == ("1.1.1.1.0", 1)
    (asked,) = stream.fetches
    assert asked["filter"] == f"evt.{admin.workspace}.stripe.>"
    assert asked["acks"] == ("1.2.3.4.5",)
    wait = asked["wait"]
    assert isinstance(wait, float)
    assert 3 < wait < 4, "less than the caller waits, more than nothing"


async def test_groups_of_different_principals_and_workspaces_are_different(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    for person in (admin, make_person()):
        for group in ("g", "h"):
            await service.fetch(person.ask(contracts.FETCH), Fetch(pattern=">", group=group))
    assert len({str(asked["consumer"]) for asked in stream.fetches}) == 4


async def test_an_event_that_cannot_be_read_is_put_away_and_the_others_come(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    stream.deliveries = [delivery(admin, 1, **{"ce-source": "/elsewhere"}), delivery(admin, 2)]
    call = admin.ask(contracts.FETCH)
    fetched = await service.fetch(call, Fetch(pattern=">", group="g"))
    assert [event.id for event in fetched.events] == ["evt_2"]
    assert stream.terminated == ["1.1.1.1.0"]
    assert call.hand_back is not None
    await call.hand_back()
    assert stream.handed_back == [event.ack for event in fetched.events]


async def test_one_principal_cannot_take_every_place(
    service: WebhookService, stream: FakeStream, admin: Person
) -> None:
    stream.release.clear()
    waiting = [
        asyncio.create_task(service.fetch(admin.ask(contracts.FETCH), Fetch(pattern=">", group="g")))
        for _ in range(MAX_POLLS_OF_PRINCIPAL)
    ]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await service.fetch(admin.ask(contracts.FETCH), Fetch(pattern=">", group="g"))
    other = asyncio.create_task(service.fetch(make_person().ask(contracts.FETCH), Fetch(pattern=">", group="g")))
    await asyncio.sleep(0)
    stream.release.set()
    await asyncio.gather(*waiting, other)
    await service.fetch(admin.ask(contracts.FETCH), Fetch(pattern=">", group="g"))
