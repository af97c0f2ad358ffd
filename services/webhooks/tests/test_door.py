"""The door, attacked, on fakes: what is taken, what is refused, and what the audit log says of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
import stripe
from services.webhooks.tests.conftest import NOW, SECRET, Clock, FakeAudit, FakeStore, Sender, make_person

from wardmesh.contracts.audit import Outcome
from wardmesh.contracts.webhooks import Scheme
from wardmesh.errors import InternalError, MalformedJson, ServiceUnavailable
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh_webhooks.door import REFUSALS, UNKNOWN_REFUSALS, Door, Origin
from wardmesh_webhooks.errors import Reason, SourceUnknown, Unverified
from wardmesh_webhooks.vault import SecretVault

JSON = "application/json"
BODY = b'{"action":"opened","number":1}'


async def test_a_webhook_is_kept_with_its_event_and_its_audit_event(
    sender: Sender, door: Door, fake_store: FakeStore, origin: Origin
) -> None:
    source = await sender.open()
    answer = await door.receive(source, sender.headers(BODY), BODY, JSON, origin)
    assert not answer.duplicate
    (event,) = fake_store.published
    assert event.subject.format() == f"evt.{source.workspace}.github.push.opened"
    assert (event.id, event.data, event.content_type) == (answer.event_id, BODY, JSON)
    (audited,) = fake_store.audited
    assert (audited.action, audited.outcome, audited.targets) == ("webhook.receive", Outcome.SUCCESS, ("github",))
    assert (audited.source_address, audited.user_agent) == ("203.0.113.7", "GitHub-Hookshot/abc")
    assert audited.details == {
        "event": event.id,
        "trigger": "push.opened",
        "provider": "github",
        "processed": True,
    }


async def test_the_body_arrives_byte_for_byte(
    sender: Sender, door: Door, fake_store: FakeStore, origin: Origin
) -> None:
    source = await sender.open()
    odd = b' {"b" : 1.0,\r\n "a":"\\u00fc" , "b":2 }\n'
    await door.receive(source, sender.headers(odd), odd, JSON, origin)
    assert fake_store.published[0].data == odd


async def test_a_duplicate_changes_nothing(
    sender: Sender, door: Door, fake_store: FakeStore, audit: FakeAudit, origin: Origin
) -> None:
    source = await sender.open()
    first = await door.receive(source, sender.headers(BODY), BODY, JSON, origin)
    again = await door.receive(source, sender.headers(BODY), BODY, JSON, origin)
    assert (again.duplicate, again.event_id) == (True, first.event_id)
    assert len(fake_store.published) == len(fake_store.audited) == 1
    ((scope, noted),) = audit.events
    assert (scope, noted.outcome, noted.reason) == (source.workspace, Outcome.SUCCESS, "duplicate")


async def test_what_could_not_be_committed_is_not_answered_and_comes_again(
    sender: Sender, door: Door, fake_store: FakeStore, origin: Origin
) -> None:
    source = await sender.open()
    fake_store.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await door.receive(source, sender.headers(BODY), BODY, JSON, origin)
    assert not fake_store.published
    assert not (await door.receive(source, sender.headers(BODY), BODY, JSON, origin)).duplicate


async def test_a_signature_moved_to_another_source_is_refused(
    sender: Sender, door: Door, fake_store: FakeStore, vault: SecretVault, origin: Origin
) -> None:
    """The attack: whoever may send to one address sends the same request to another."""
    await sender.open()
    other = Sender(fake_store, door, vault, make_person())
    foreign = await other.open(secret="another-secret-of-another-workspace")
    with pytest.raises(Unverified) as refused:
        await door.receive(foreign, sender.headers(BODY), BODY, JSON, origin)
    assert refused.value.reason is Reason.MISMATCH
    assert not fake_store.published


async def test_nothing_is_parsed_before_it_is_verified(sender: Sender, door: Door, origin: Origin) -> None:
    source = await sender.open()
    with pytest.raises(Unverified):
        await door.receive(source, [("x-hub-signature-256", "sha256=" + "0" * 64)], b"[" * 100_000, JSON, origin)
    not_json = b"[" * 100_000
    with pytest.raises(MalformedJson):
        await door.receive(source, sender.headers(not_json), not_json, JSON, origin)


async def test_a_source_removed_while_a_body_was_on_its_way_takes_nothing(
    sender: Sender, door: Door, fake_store: FakeStore, origin: Origin
) -> None:
    source = await sender.open()
    del fake_store.sources[source.workspace]["github"]
    with pytest.raises(SourceUnknown):
        await door.receive(source, sender.headers(BODY), BODY, JSON, origin)
    assert not fake_store.published


async def test_every_unknown_address_is_refused_in_the_same_words(sender: Sender, door: Door) -> None:
    source = await sender.open()
    said = set()
    for workspace, name in (
        (source.workspace, "other"),
        (WorkspaceId.new(), "github"),
        ("not-an-id", "github"),
        ("*", ">"),
        (source.workspace, "GitHub"),
        (source.workspace, "x" * 5000),
        (source.workspace, "app"),
        ("", ""),
    ):
        with pytest.raises(SourceUnknown) as refused:
            await door.find(workspace, name)
        said.add((str(refused.value), refused.value.status))
    assert len(said) == 1
    assert await door.find(source.workspace, "github") == source


async def test_a_refusal_is_in_the_log_of_the_sources_workspace(
    sender: Sender, door: Door, audit: FakeAudit, origin: Origin
) -> None:
    source = await sender.open()
    await door.refused(source, Unverified(Reason.TOO_OLD), origin)
    await door.refused(source, ServiceUnavailable(), origin)
    (scope, refused), (_, failed) = audit.events
    assert scope == source.workspace
    assert (refused.outcome, refused.reason) == (Outcome.REFUSED, "timestamp_too_old")
    assert (failed.outcome, failed.reason) == (Outcome.FAILED, "service_unavailable")
    assert refused.request_id == origin.request_id


async def test_strangers_cannot_fill_a_tenants_log(
    sender: Sender, door: Door, audit: FakeAudit, clock: Clock, origin: Origin
) -> None:
    """The attack: a thousand wrong signatures a second, for the tenant to store and pay for."""
    source = await sender.open()
    for _ in range(1000):
        await door.refused(source, Unverified(Reason.MISMATCH), origin)
    assert len(audit.events) == REFUSALS.burst
    clock.pass_(timedelta(seconds=1 / REFUSALS.per_second))
    await door.refused(source, Unverified(Reason.MISMATCH), origin)
    assert audit.events[-1][1].details["not_recorded"] == 1000 - REFUSALS.burst
    clock.pass_(timedelta(seconds=1 / REFUSALS.per_second))
    await door.refused(source, Unverified(Reason.MISMATCH), origin)
    assert audit.events[-1][1].details == {"provider": "github", "processed": False}


async def test_an_address_without_a_source_is_never_in_a_tenants_log(
    door: Door, audit: FakeAudit, origin: Origin
) -> None:
    for _ in range(1000):
        await door.refused(None, SourceUnknown(), origin)
    assert len(audit.events) == UNKNOWN_REFUSALS.burst
    assert {scope for scope, _ in audit.events} == {OrgId.nil()}


async def test_one_sources_refusals_do_not_hide_anothers(
    sender: Sender, door: Door, fake_store: FakeStore, vault: SecretVault, audit: FakeAudit, origin: Origin
) -> None:
    flooded = await sender.open()
    quiet = await Sender(fake_store, door, vault).open()
    for _ in range(1000):
        await door.refused(flooded, Unverified(Reason.MISMATCH), origin)
    await door.refused(quiet, Unverified(Reason.MISMATCH), origin)
    assert audit.events[-1][0] == quiet.workspace


async def test_a_log_that_is_down_stops_no_answer(sender: Sender, door: Door, audit: FakeAudit, origin: Origin) -> None:
    source = await sender.open()
    audit.available = False
    await door.refused(source, InternalError(), origin)
    await door.refused(None, InternalError(), origin)


async def test_no_header_and_no_body_is_in_the_audit_log(
    sender: Sender, door: Door, fake_store: FakeStore, audit: FakeAudit, origin: Origin
) -> None:
    source = await sender.open()
    canary = b'{"action":"opened","token":"canary-7f3a"}'
    headers = [*sender.headers(canary), ("authorization", "canary-7f3a")]
    await door.receive(source, headers, canary, JSON, origin)
    with pytest.raises(Unverified) as refused:
        await door.receive(source, [("x-hub-signature-256", "sha256=canary-7f3a")], canary, JSON, origin)
    assert "canary" not in str(refused.value)
    await door.refused(source, refused.value, origin)
    said = "".join(event.model_dump_json() for event in [*fake_store.audited, *(event for _, event in audit.events)])
    assert "canary" not in said
    assert SECRET not in said


async def test_a_webhook_of_yesterday_is_refused_and_the_present_one_taken(
    sender: Sender, door: Door, clock: Clock, origin: Origin
) -> None:
    source = await sender.open(Scheme.STRIPE)
    body = b'{"id":"evt_1","type":"invoice.paid"}'
    seconds = int(NOW.timestamp())
    signature = stripe.WebhookSignature._compute_signature(f"{seconds}.{body.decode()}", SECRET)
    headers = [("stripe-signature", f"t={seconds},v1={signature}")]
    clock.pass_(timedelta(minutes=6))
    with pytest.raises(Unverified) as refused:
        await door.receive(source, headers, body, JSON, origin)
    assert refused.value.reason is Reason.TOO_OLD
    clock.pass_(timedelta(minutes=-12))
    with pytest.raises(Unverified) as refused:
        await door.receive(source, headers, body, JSON, origin)
    assert refused.value.reason is Reason.IN_FUTURE
    clock.pass_(timedelta(minutes=6))
    assert (await door.receive(source, headers, body, JSON, origin)).event_id == "evt_1"
