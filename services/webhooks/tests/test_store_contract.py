"""What every store promises (`ports.Store`), on the fake and on PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from services.webhooks.tests.conftest import NOW, Person, make_person, postgres_store

from wardmesh.contracts import webhooks as contracts
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category, Level
from wardmesh.contracts.webhooks import Scheme
from wardmesh.envelope import Event
from wardmesh.errors import Conflict, PermissionDenied
from wardmesh.ids import EventId, OrgId, ServiceId, WorkspaceId
from wardmesh.server.database import Database, TenantContext
from wardmesh.subjects import EventSubject
from wardmesh_webhooks.domain import Received, StoredSource
from wardmesh_webhooks.ports import Acceptance, Store
from wardmesh_webhooks.store import RECEIVE


async def add(store: Store, person: Person, name: str = "stripe") -> StoredSource:
    async with store.transaction(person.ask()) as sources:
        return await sources.add(name, Scheme.STRIPE, b"sealed")


def received(key: bytes = b"k" * 32, *, event_id: str = "evt_1", forget_at: bool = True) -> Received:
    forget = NOW + timedelta(days=36500) if forget_at else None
    return Received(event_id, "invoice.paid", NOW, "application/json", key, forget, b'{"id":"evt_1"}')


async def accept(store: Store, source: StoredSource, what: Received | None = None) -> Acceptance:
    what = what or received()
    event = Event(what.event_id, EventSubject(source.workspace, source.name, what.type), what.time, what.body)
    audit = AuditEvent(
        id=EventId.new(), occurred_at=NOW, category=Category.WEBHOOK, action="webhook.receive",
        outcome=Outcome.SUCCESS, actor=ServiceId.nil(),
    )  # fmt: skip
    return await store.accept(source, what, event, audit)


async def test_a_source_is_found_by_its_address(store: Store) -> None:
    person = make_person()
    added = await add(store, person)
    found = await store.find(person.workspace, "stripe")
    assert found == added
    assert (found.organization, found.workspace) == (person.caller.organization, person.workspace)
    assert found.sealed_secret == b"sealed"


async def test_other_addresses_have_no_source(store: Store) -> None:
    person = make_person()
    await add(store, person)
    assert await store.find(person.workspace, "github") is None
    assert await store.find(WorkspaceId.new(), "stripe") is None


async def test_sources_are_listed_by_name_and_only_ones_own(store: Store) -> None:
    person, other = make_person(), make_person()
    for name in ("b", "a"):
        await add(store, person, name)
    await add(store, other, "c")
    async with store.transaction(person.ask(contracts.LIST_SOURCES), read_only=True) as sources:
        assert [source.name for source in await sources.list()] == ["a", "b"]


async def test_a_name_is_taken_once(store: Store) -> None:
    person = make_person()
    await add(store, person)
    with pytest.raises(Conflict):
        await add(store, person)
    await add(store, make_person())


async def test_a_removed_source_is_gone_and_removing_it_again_is_harmless(store: Store) -> None:
    person = make_person()
    source = await add(store, person)
    for existed in (True, False):
        async with store.transaction(person.ask()) as sources:
            assert await sources.remove("stripe") is existed
    assert await store.find(person.workspace, "stripe") is None
    assert await accept(store, source) is Acceptance.SOURCE_GONE


async def test_another_workspaces_source_cannot_be_removed(store: Store) -> None:
    person, other = make_person(), make_person()
    await add(store, person)
    async with store.transaction(other.ask()) as sources:
        assert await sources.remove("stripe") is False
    assert await store.find(person.workspace, "stripe") is not None


async def test_an_event_is_accepted_once(store: Store) -> None:
    source = await add(store, make_person())
    assert await accept(store, source) is Acceptance.ACCEPTED
    assert await accept(store, source) is Acceptance.DUPLICATE
    assert await accept(store, source, received(b"l" * 32)) is Acceptance.ACCEPTED


async def test_the_same_key_at_another_source_is_another_event(store: Store) -> None:
    person = make_person()
    assert await accept(store, await add(store, person, "a")) is Acceptance.ACCEPTED
    assert await accept(store, await add(store, person, "b")) is Acceptance.ACCEPTED
    assert await accept(store, await add(store, make_person(), "a")) is Acceptance.ACCEPTED


async def test_of_many_at_once_one_is_accepted(store: Store) -> None:
    source = await add(store, make_person())
    answers = await asyncio.gather(*[accept(store, source) for _ in range(8)])
    assert sorted(answer.name for answer in answers) == ["ACCEPTED"] + ["DUPLICATE"] * 7


async def test_a_source_made_again_is_another_incarnation_with_the_same_memory(store: Store) -> None:
    """The attack: a body that never grows old, sent again after the source was removed and made anew."""
    person = make_person()
    first = await add(store, person)
    await accept(store, first, received(forget_at=False))
    async with store.transaction(person.ask()) as sources:
        await sources.remove("stripe")
    second = await add(store, person)
    assert await accept(store, first, received(b"n" * 32)) is Acceptance.SOURCE_GONE
    assert await accept(store, second, received(forget_at=False)) is Acceptance.DUPLICATE


async def test_what_fails_before_the_commit_leaves_nothing(store: Store) -> None:
    person = make_person()

    async def add_and_fail() -> None:
        async with store.transaction(person.ask()) as sources:
            await sources.add("stripe", Scheme.STRIPE, b"sealed")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await add_and_fail()
    assert await store.find(person.workspace, "stripe") is None


# PostgreSQL alone: what the policies hold, whatever the code above them does.


async def test_the_event_and_the_audit_event_are_committed_with_the_receipt(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    store, person = postgres_store(database), make_person()
    source = await add(store, person)
    await accept(store, source)
    await accept(store, source)
    rows = await superuser.fetch(
        "select subject, headers, payload from webhooks.outbox where org_id = $1 order by position",
        person.caller.organization,
    )
    assert [row["subject"] for row in rows] == [
        f"evt.{person.workspace}.stripe.invoice.paid",
        f"audit.{person.workspace}.webhooks",
    ]
    assert rows[0]["payload"] == b'{"id":"evt_1"}'
    assert '"ce-id": "evt_1"' in rows[0]["headers"]


async def test_an_outbox_that_refuses_leaves_no_receipt(database: Database) -> None:
    store = postgres_store(database)
    source = await add(store, make_person())
    unpublishable = replace(received(), event_id="evt_1\r\nNats-Msg-Id: x")
    with pytest.raises(ValueError, match="printable"):
        await accept(store, source, unpublishable)
    assert await accept(store, source) is Acceptance.ACCEPTED, "it is still new"


async def test_a_viewer_can_neither_make_nor_remove_a_source(database: Database) -> None:
    store, viewer = postgres_store(database), make_person(Level.VIEWER)
    with pytest.raises(PermissionDenied):
        await add(store, viewer)


async def test_no_token_can_read_receipts_or_come_by_the_door(database: Database) -> None:
    store, owner = postgres_store(database), make_person(Level.OWNER)
    await accept(store, await add(store, owner))
    caller = owner.caller
    assert RECEIVE not in caller.permissions
    tenant = TenantContext(caller.organization, owner.workspace, caller.principal, caller.permissions)
    async with database.transaction(tenant, read_only=True) as connection:
        assert await connection.fetchval("select count(*) from webhooks.receipt") == 0
    # Without the permission of the door, the workspace alone opens nothing; with it, one workspace's sources.
    for permissions, workspace, expected in (
        (caller.permissions, owner.workspace, 0),
        (frozenset({RECEIVE}), owner.workspace, 1),
        (frozenset({RECEIVE}), WorkspaceId.new(), 0),
        (frozenset({RECEIVE}), None, 0),
    ):
        nobody = TenantContext(OrgId.nil(), workspace, ServiceId.nil(), permissions)
        async with database.transaction(nobody, read_only=True) as connection:
            assert await connection.fetchval("select count(*) from webhooks.source") == expected
            assert await connection.fetchval("select count(*) from webhooks.receipt") == 0


async def test_what_is_old_is_forgotten_as_new_events_come(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    store, person = postgres_store(database), make_person()
    source = await add(store, person)
    for number in range(20):
        await accept(store, source, received(bytes([number]) * 32))
    await accept(store, source, received(b"g" * 32, forget_at=False))
    await superuser.execute(
        "update webhooks.receipt set forget_at = now() - interval '1 day' where org_id = $1 and forget_at is not null",
        person.caller.organization,
    )
    for number in range(100, 103):
        assert await accept(store, source, received(bytes([number]) * 32)) is Acceptance.ACCEPTED
    count = await superuser.fetchval(
        "select count(*) from webhooks.receipt where org_id = $1", person.caller.organization
    )
    assert count == 4, "three new ones, and the one that is never forgotten"
    assert await accept(store, source, received(b"g" * 32, forget_at=False)) is Acceptance.DUPLICATE
