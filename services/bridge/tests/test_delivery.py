"""What comes out of the stream, under attack by somebody who can write into it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.audit import Outcome
from wardmesh.contracts.bridge import Kind, NameAgreement, Propose, Send, SignedMessage
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import MessageId, ServiceId
from wardmesh.server.kek import LocalKey
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.delivery import Deliverer
from wardmesh_bridge.errors import StoredKeyUnopenable
from wardmesh_bridge.service import BridgeService

KEYS = AgreementKeys(LocalKey(bytes(range(32))))


@pytest.fixture
def service(fake_store: Any, now: datetime) -> BridgeService:
    return BridgeService(fake_store, KEYS, None, lambda: now)  # type: ignore[arg-type]  # nothing is fetched here


@pytest.fixture
def deliverer(fake_store: Any, now: datetime) -> Deliverer:
    return Deliverer(fake_store, KEYS, lambda: now + timedelta(hours=1))  # it was down for longer than a message lives


@pytest.fixture
async def sign(service: BridgeService, alice: Any, bob: Any, fake_store: Any, signer: Any, now: datetime) -> Any:
    proposed = await service.propose(alice.ask(contracts.PROPOSE), Propose(target=bob.workspace))
    agreement = await service.accept(bob.ask(contracts.ACCEPT), NameAgreement(agreement=proposed.id))
    [stored] = fake_store.state.keys.values()
    return signer(agreement, stored.key_id, await KEYS.open(stored, agreement), now)


async def sent(service: BridgeService, fake_store: Any, who: Any, message: SignedMessage) -> tuple[str, bytes]:
    """Send a message, and take what the stream then has."""
    await service.send(who.ask(), Send.model_construct(messages=(message,)))
    fake_store.state.recorded.clear()
    subject, payload = fake_store.state.forwarded.pop()
    return subject, payload


async def test_delivered_once_and_both_logs_say_so(
    service: BridgeService, deliverer: Deliverer, alice: Any, bob: Any, sign: Any, fake_store: Any
) -> None:
    message = sign.message(alice.workspace, kind=Kind.REQUEST)
    subject, payload = await sent(service, fake_store, alice, message)
    for _ in range(3):
        await deliverer.deliver(subject, payload)
    assert fake_store.state.forwarded == [(f"inbox.{bob.workspace}.{alice.workspace}.report.build", payload)]
    assert [(scope, event.action, event.targets) for scope, event in fake_store.state.recorded] == [
        (alice.workspace, "message.deliver", (bob.workspace,)),
        (bob.workspace, "message.deliver", (alice.workspace,)),
    ]
    event = fake_store.state.recorded[0][1]
    assert event.actor == ServiceId.nil()
    assert event.details["message"] == message.id
    assert fake_store.state.letters == []


def assert_refused(fake_store: Any, alice: Any, bob: Any, subject: str, payload: bytes, code: str) -> None:
    assert fake_store.state.forwarded == []
    [letter] = fake_store.state.letters
    assert (letter.subject, letter.payload, letter.sender, letter.receiver) == (
        subject,
        payload,
        alice.workspace,
        bob.workspace,
    )
    assert letter.reason.startswith(code)
    told = [(scope, event.action, event.outcome, event.reason) for scope, event in fake_store.state.recorded]
    assert told == [
        (workspace, "message.refuse", Outcome.REFUSED, code) for workspace in (alice.workspace, bob.workspace)
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"body": "e30="}, "invalid_signature"),
        ({"kind": "reply"}, "invalid_signature"),
        ({"id": MessageId.new()}, "invalid_signature"),
        ({"correlation": MessageId.new()}, "invalid_signature"),
        ({"expires_at": "2027-01-01T00:00:00Z"}, "invalid_signature"),
        ({"issued_at": "2026-01-01T00:00:00Z"}, "invalid_signature"),
        ({"content_type": "text/html"}, "invalid_signature"),
        ({"type": "report.delete"}, "invalid_signature"),
        ({"key_id": "mac_other"}, "invalid_signature"),
        ({"agreement": "agr_00000000000000000000000000"}, "not_found"),
        ({"unknown": 1}, "invalid_request"),
        ({"signature": None}, "invalid_request"),
    ],
    ids=lambda change: change if isinstance(change, str) else "-".join(change),
)
async def test_tampered_with_in_the_stream(
    service: BridgeService,
    deliverer: Deliverer,
    alice: Any,
    bob: Any,
    sign: Any,
    fake_store: Any,
    change: dict[str, Any],
    code: str,
) -> None:
    subject, payload = await sent(service, fake_store, alice, sign.message(alice.workspace))
    tampered = json.dumps(json.loads(payload) | change).encode()
    await deliverer.deliver(subject, tampered)
    assert_refused(fake_store, alice, bob, subject, tampered, code)
    # The real one is not harmed by it.
    await deliverer.deliver(subject, payload)
    assert [found for _, found in fake_store.state.forwarded] == [payload]


async def test_moved_to_another_subject(
    service: BridgeService, deliverer: Deliverer, alice: Any, bob: Any, mallory: Any, sign: Any, fake_store: Any
) -> None:
    _, payload = await sent(service, fake_store, alice, sign.message(alice.workspace))
    for subject in (
        f"bridge.{alice.workspace}.{mallory.workspace}.report.build",  # to somebody else
        f"bridge.{mallory.workspace}.{bob.workspace}.report.build",  # from somebody else
        f"bridge.{bob.workspace}.{alice.workspace}.report.build",  # turned round
        f"bridge.{alice.workspace}.{bob.workspace}.report",
    ):
        await deliverer.deliver(subject, payload)
    assert fake_store.state.forwarded == []
    assert [letter.reason.partition(":")[0] for letter in fake_store.state.letters] == ["invalid_signature"] * 4


async def test_signed_and_never_admitted(
    deliverer: Deliverer, alice: Any, bob: Any, sign: Any, fake_store: Any
) -> None:
    """Whoever has the key and can write into the stream still has to pass the gates."""
    fake_store.state.recorded.clear()
    message = sign.message(alice.workspace)
    subject = f"bridge.{alice.workspace}.{bob.workspace}.report.build"
    payload = message.model_dump_json().encode()
    await deliverer.deliver(subject, payload)
    assert_refused(fake_store, alice, bob, subject, payload, "not_admitted")


async def test_another_message_under_an_admitted_nonce(
    service: BridgeService, deliverer: Deliverer, alice: Any, bob: Any, sign: Any, fake_store: Any
) -> None:
    message = sign.message(alice.workspace)
    subject, _ = await sent(service, fake_store, alice, message)
    other = sign.message(alice.workspace, nonce=message.nonce, id=message.id, body=b"other").model_dump_json().encode()
    await deliverer.deliver(subject, other)
    assert_refused(fake_store, alice, bob, subject, other, "conflict")


async def test_revoked_while_it_was_under_way(
    service: BridgeService, deliverer: Deliverer, alice: Any, bob: Any, sign: Any, fake_store: Any
) -> None:
    subject, payload = await sent(service, fake_store, alice, sign.message(alice.workspace))
    await service.revoke(bob.ask(contracts.REVOKE), NameAgreement(agreement=sign.agreement.id))
    fake_store.state.recorded.clear()
    await deliverer.deliver(subject, payload)
    assert_refused(fake_store, alice, bob, subject, payload, "conflict")


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"[]", b'{"agreement":1}', b"x" * 100_000])
async def test_rubbish(deliverer: Deliverer, alice: Any, bob: Any, sign: Any, fake_store: Any, payload: bytes) -> None:
    fake_store.state.recorded.clear()
    subject = f"bridge.{alice.workspace}.{bob.workspace}.report.build"
    await deliverer.deliver(subject, payload)
    assert_refused(fake_store, alice, bob, subject, payload, "invalid_request")


@pytest.mark.parametrize("subject", ["bridge.a.b.c", "bridge", "inbox.x", "bridge.ws_1.ws_2.x"])
async def test_subjects_that_are_none_of_ours(deliverer: Deliverer, fake_store: Any, subject: str) -> None:
    await deliverer.deliver(subject, b"{}")
    assert fake_store.state.letters == []
    assert fake_store.state.recorded == []


async def test_what_cannot_be_decided_now_is_not_refused(
    service: BridgeService, deliverer: Deliverer, alice: Any, sign: Any, fake_store: Any, now: datetime
) -> None:
    subject, payload = await sent(service, fake_store, alice, sign.message(alice.workspace))
    fake_store.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await deliverer.deliver(subject, payload)
    with pytest.raises(StoredKeyUnopenable):
        await Deliverer(fake_store, AgreementKeys(LocalKey(bytes(32))), lambda: now).deliver(subject, payload)
    assert fake_store.state.letters == []
    await deliverer.deliver(subject, payload)
    assert len(fake_store.state.forwarded) == 1
