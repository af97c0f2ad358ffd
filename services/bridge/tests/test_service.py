"""Agreeing and sending, and the attacks on both, on a bridge in memory."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from wardmesh.bridge_signing import sign as sign_with
from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.bridge import (
    Agreement,
    AgreementState,
    Kind,
    ListAgreements,
    NameAgreement,
    Propose,
    Send,
    SignedMessage,
)
from wardmesh.crypto.errors import Undecryptable
from wardmesh.crypto.vault import bridge_key_info
from wardmesh.errors import InvalidRequest, ServiceUnavailable, WardmeshError
from wardmesh.ids import AgreementId, MessageId, RequestId, WorkspaceId
from wardmesh.server.kek import LocalKey
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.domain import CLOCK_SKEW
from wardmesh_bridge.errors import (
    AlreadyUsed,
    NoHolderKey,
    NoSuchAgreement,
    NotAccepted,
    NotFresh,
    NotTheSender,
    NotYours,
    ProposedByThem,
    SignatureRefused,
    StoredKeyUnopenable,
    WrongTarget,
)
from wardmesh_bridge.service import BridgeService


def at(store: Any, now: datetime, kek: bytes = bytes(range(32))) -> BridgeService:
    inbox: Any = None  # nothing is fetched here
    return BridgeService(store, AgreementKeys(LocalKey(kek)), inbox, lambda: now)


@pytest.fixture
def service(fake_store: Any, now: datetime) -> BridgeService:
    return at(fake_store, now)


async def agree(service: BridgeService, source: Any, target: Any) -> Agreement:
    proposed = await service.propose(source.ask(contracts.PROPOSE), Propose(target=target.workspace))
    return await service.accept(target.ask(contracts.ACCEPT), NameAgreement(agreement=proposed.id))


async def open_key(service: BridgeService, who: Any, agreement: Agreement) -> tuple[str, bytes]:
    call = who.ask(contracts.KEY)
    answer = await service.key(call, NameAgreement(agreement=agreement.id))
    info = bridge_key_info(
        workspace=who.workspace,
        principal=who.caller.principal,
        agreement=agreement.id,
        key_id=answer.key_id,
        request_id=call.request_id,
    )
    return answer.key_id, who.holder.open(answer.sealed, info)


@pytest.fixture
async def sign(service: BridgeService, alice: Any, bob: Any, signer: Any, now: datetime) -> Any:
    agreement = await agree(service, alice, bob)
    key_id, key = await open_key(service, alice, agreement)
    assert (key_id, key) == await open_key(service, bob, agreement)
    return signer(agreement, key_id, key, now)


async def send(service: BridgeService, who: Any, *messages: SignedMessage) -> tuple[MessageId, ...]:
    return (await service.send(who.ask(), Send.model_construct(messages=messages))).ids


# --- agreeing


async def test_agreeing(service: BridgeService, alice: Any, bob: Any, fake_store: Any, now: datetime) -> None:
    proposed = await service.propose(alice.ask(contracts.PROPOSE), Propose(target=bob.workspace))
    assert (proposed.source, proposed.target, proposed.state) == (alice.workspace, bob.workspace, "proposed")
    assert await service.propose(alice.ask(contracts.PROPOSE), Propose(target=bob.workspace)) == proposed
    with pytest.raises(NotAccepted):
        await service.key(alice.ask(contracts.KEY), NameAgreement(agreement=proposed.id))
    accepted = await service.accept(bob.ask(contracts.ACCEPT), NameAgreement(agreement=proposed.id))
    assert (accepted.state, accepted.accepted_at) == (AgreementState.ACCEPTED, now)
    assert await service.accept(bob.ask(contracts.ACCEPT), NameAgreement(agreement=proposed.id)) == accepted
    assert len(fake_store.state.keys) == 1
    # Either may propose again, and learns of the one that there is.
    assert await service.propose(bob.ask(contracts.PROPOSE), Propose(target=alice.workspace)) == accepted
    listed = await service.list(bob.ask(contracts.LIST), ListAgreements())
    assert listed.agreements == (accepted,)


async def test_both_logs_tell_of_an_agreement(service: BridgeService, alice: Any, bob: Any, fake_store: Any) -> None:
    """The caller's own event is the gates' (IN_TRANSACTION); the other side's is recorded here."""
    agreement = await agree(service, alice, bob)
    await service.revoke(alice.ask(contracts.REVOKE), NameAgreement(agreement=agreement.id))
    told = [(scope, event.action, event.actor, event.targets) for scope, event in fake_store.state.recorded]
    assert told == [
        (bob.workspace, "agreement.propose", alice.caller.principal, (agreement.id,)),
        (alice.workspace, "agreement.accept", bob.caller.principal, (agreement.id,)),
        (bob.workspace, "agreement.revoke", alice.caller.principal, (agreement.id,)),
    ]
    assert all(event.request_id is None and event.details == {} for _, event in fake_store.state.recorded)


async def test_nobody_accepts_their_own_offer(service: BridgeService, alice: Any, bob: Any, mallory: Any) -> None:
    proposed = await service.propose(alice.ask(contracts.PROPOSE), Propose(target=bob.workspace))
    name = NameAgreement(agreement=proposed.id)
    with pytest.raises(NotYours):
        await service.accept(alice.ask(contracts.ACCEPT), name)
    with pytest.raises(NoSuchAgreement):
        await service.accept(mallory.ask(contracts.ACCEPT), name)
    with pytest.raises(ProposedByThem, match=proposed.id):
        await service.propose(bob.ask(contracts.PROPOSE), Propose(target=alice.workspace))


async def test_nobody_agrees_with_themselves(service: BridgeService, alice: Any) -> None:
    with pytest.raises(InvalidRequest):
        await service.propose(alice.ask(contracts.PROPOSE), Propose(target=alice.workspace))


async def test_a_third_workspace_learns_nothing(service: BridgeService, mallory: Any, sign: Any) -> None:
    name = NameAgreement(agreement=sign.agreement.id)
    nothing = NameAgreement(agreement=AgreementId.new())
    for use_case, contract in ((service.key, contracts.KEY), (service.revoke, contracts.REVOKE)):
        refusals = []
        for request in (name, nothing):
            with pytest.raises(NoSuchAgreement) as refused:
                await use_case(mallory.ask(contract), request)
            refusals.append(refused.value.to_problem())
        assert refusals[0] == refusals[1]
    assert (await service.list(mallory.ask(contracts.LIST), ListAgreements())).agreements == ()


async def test_either_side_revokes(service: BridgeService, bob: Any, alice: Any, sign: Any) -> None:
    name = NameAgreement(agreement=sign.agreement.id)
    revoked = await service.revoke(bob.ask(contracts.REVOKE), name)
    assert revoked.state is AgreementState.REVOKED
    assert await service.revoke(alice.ask(contracts.REVOKE), name) == revoked
    with pytest.raises(NotAccepted):
        await service.accept(bob.ask(contracts.ACCEPT), name)
    # What was delivered before can still be verified.
    assert await open_key(service, alice, revoked) == (sign.key_id, sign.key)


async def test_the_key_opens_for_its_caller_and_request_only(service: BridgeService, alice: Any, sign: Any) -> None:
    call = alice.ask(contracts.KEY)
    answer = await service.key(call, NameAgreement(agreement=sign.agreement.id))
    assert sign.key not in answer.sealed
    bound = {
        "workspace": alice.workspace,
        "principal": alice.caller.principal,
        "agreement": sign.agreement.id,
        "key_id": answer.key_id,
        "request_id": call.request_id,
    }
    assert alice.holder.open(answer.sealed, bridge_key_info(**bound)) == sign.key
    others = {"request_id": RequestId.new(), "agreement": AgreementId.new(), "workspace": WorkspaceId.new()}
    for name, other in others.items():
        with pytest.raises(Undecryptable):
            alice.holder.open(answer.sealed, bridge_key_info(**bound | {name: other}))
    with pytest.raises(NoHolderKey):
        await service.key(alice.but(holder_key=None).ask(contracts.KEY), NameAgreement(agreement=sign.agreement.id))


async def test_a_key_moved_to_another_agreement_does_not_open(
    service: BridgeService, alice: Any, bob: Any, mallory: Any, sign: Any, fake_store: Any
) -> None:
    other = await agree(service, alice, mallory)
    stolen = fake_store.state.keys[sign.agreement.id, sign.key_id]
    fake_store.state.keys = {(other.id, sign.key_id): stolen}
    with pytest.raises(StoredKeyUnopenable):
        await service.key(mallory.ask(contracts.KEY), NameAgreement(agreement=other.id))


async def test_another_key_file_opens_no_key(fake_store: Any, alice: Any, sign: Any) -> None:
    other = at(fake_store, sign.now, bytes(32))
    with pytest.raises(StoredKeyUnopenable, match="key file"):
        await other.key(alice.ask(contracts.KEY), NameAgreement(agreement=sign.agreement.id))


# --- sending


async def test_sending_both_ways(service: BridgeService, alice: Any, bob: Any, sign: Any, fake_store: Any) -> None:
    there = sign.message(alice.workspace)
    back = sign.message(bob.workspace, kind=Kind.REPLY, correlation=there.id)
    assert await send(service, alice, there) == (there.id,)
    assert await send(service, bob, back) == (back.id,)
    assert [subject for subject, _ in fake_store.state.forwarded] == [
        f"bridge.{alice.workspace}.{bob.workspace}.report.build",
        f"bridge.{bob.workspace}.{alice.workspace}.report.build",
    ]
    assert SignedMessage.model_validate_json(fake_store.state.forwarded[0][1]) == there


async def refused(service: BridgeService, who: Any, message: SignedMessage, error: type[WardmeshError]) -> None:
    with pytest.raises(error) as caught:
        await send(service, who, message)
    assert caught.value.violations[0].pointer == "/messages/0"
    assert repr(message.body) not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"month":"2026-11"}'},
        {"body": b""},
        {"type": "report.delete"},
        {"kind": Kind.REQUEST},
        {"id": MessageId.new()},
        {"nonce": bytes(16)},
        {"correlation": MessageId.new()},
        {"content_type": "text/plain"},
        {"issued_at": timedelta(seconds=1)},
        {"expires_at": timedelta(seconds=1)},
        {"expires_at": timedelta(microseconds=-1)},
        {"signature": bytes(32)},
    ],
    ids=lambda change: "-".join(change),
)
async def test_whatever_is_tampered_with_is_refused(
    service: BridgeService, alice: Any, sign: Any, fake_store: Any, change: dict[str, Any]
) -> None:
    message = sign.message(alice.workspace)
    [(name, value)] = change.items()
    if isinstance(value, timedelta):
        value += getattr(message, name)
    await refused(service, alice, message.model_copy(update={name: value}), SignatureRefused)
    assert fake_store.state.forwarded == []
    assert fake_store.state.nonces == {}


async def test_a_tampered_target(service: BridgeService, alice: Any, mallory: Any, sign: Any) -> None:
    message = sign.message(alice.workspace).model_copy(update={"target": mallory.workspace})
    await refused(service, alice, message, WrongTarget)
    # Even if the target is signed with the right key.
    await refused(service, alice, sign.message(alice.workspace, target=mallory.workspace), WrongTarget)


async def test_a_foreign_source(service: BridgeService, alice: Any, bob: Any, mallory: Any, sign: Any) -> None:
    message = sign.message(alice.workspace)
    await refused(service, mallory, message, NotTheSender)
    await refused(service, bob, message, NotTheSender)  # who has the key, and could have signed it
    # In its own name, mallory is no side of the agreement.
    forged = sign.message(mallory.workspace, target=bob.workspace)
    await refused(service, mallory, forged, NoSuchAgreement)


async def test_an_agreement_with_somebody_else(
    service: BridgeService, alice: Any, mallory: Any, sign: Any, signer: Any, now: datetime
) -> None:
    other = await agree(service, alice, mallory)
    key_id, key = await open_key(service, alice, other)
    elsewhere = signer(other, key_id, key, now)
    message = sign.message(alice.workspace)
    # The agreement is not signed; its key is, and belongs to one agreement.
    await refused(service, alice, message.model_copy(update={"agreement": other.id}), WrongTarget)
    to_mallory = elsewhere.message(alice.workspace)
    await refused(service, alice, to_mallory.model_copy(update={"key_id": sign.key_id}), SignatureRefused)
    await refused(service, alice, sign_with(sign.key, to_mallory), SignatureRefused)
    await refused(service, alice, sign.message(alice.workspace, key_id="mac_unknown"), SignatureRefused)
    await refused(service, alice, sign.message(alice.workspace, agreement=AgreementId.new()), NoSuchAgreement)


@pytest.mark.parametrize(
    ("issued", "lifetime"),
    [
        (-61, 60),  # expired
        (-60, 60),  # expires now
        (CLOCK_SKEW.total_seconds() + 1, 60),  # from the future
        (3600, 60),
        (0, 301),  # lives too long
        (0, 0),
        (10, -5),
    ],
)
async def test_freshness(
    service: BridgeService, alice: Any, sign: Any, now: datetime, issued: float, lifetime: float
) -> None:
    issued_at = now + timedelta(seconds=issued)
    times = {"issued_at": issued_at, "expires_at": issued_at + timedelta(seconds=lifetime)}
    await refused(service, alice, sign.message(alice.workspace, **times), NotFresh)
    # Judged after the signature: whoever can't sign learns nothing of our clock.
    unsigned = sign.unsigned(alice.workspace, **times)
    await refused(service, alice, unsigned, SignatureRefused)


async def test_a_clock_a_little_ahead(service: BridgeService, alice: Any, sign: Any, now: datetime) -> None:
    times = {"issued_at": now + CLOCK_SKEW, "expires_at": now + CLOCK_SKEW + timedelta(minutes=5)}
    await send(service, alice, sign.message(alice.workspace, **times))


async def test_sending_again_is_acknowledged_and_delivered_once(
    service: BridgeService, alice: Any, sign: Any, fake_store: Any, now: datetime
) -> None:
    message = sign.message(alice.workspace)
    assert await send(service, alice, message) == await send(service, alice, message)
    later = at(fake_store, now + timedelta(minutes=10))
    assert await send(later, alice, message) == (message.id,)  # a late retry of what was admitted in time
    assert len(fake_store.state.forwarded) == 1


async def test_a_nonce_is_for_one_message(service: BridgeService, alice: Any, bob: Any, sign: Any) -> None:
    message = sign.message(alice.workspace)
    await send(service, alice, message)
    used = {"nonce": message.nonce, "id": message.id}
    for again in ({"nonce": message.nonce}, {"id": message.id}, {**used, "body": b"another"}):
        await refused(service, alice, sign.message(alice.workspace, **again), AlreadyUsed)
    await refused(service, bob, sign.message(bob.workspace, nonce=message.nonce), AlreadyUsed)


async def test_a_revoked_agreement(service: BridgeService, alice: Any, bob: Any, sign: Any) -> None:
    await service.revoke(bob.ask(contracts.REVOKE), NameAgreement(agreement=sign.agreement.id))
    await refused(service, alice, sign.message(alice.workspace), NotAccepted)


async def test_an_agreement_that_was_not_accepted(
    service: BridgeService, alice: Any, mallory: Any, signer: Any, now: datetime
) -> None:
    proposed = await service.propose(mallory.ask(contracts.PROPOSE), Propose(target=alice.workspace))
    forged = signer(proposed, "mac_own", bytes(32), now).message(mallory.workspace)
    await refused(service, mallory, forged, NotAccepted)


async def test_all_or_none(service: BridgeService, alice: Any, sign: Any, fake_store: Any) -> None:
    good = [sign.message(alice.workspace) for _ in range(3)]
    bad = sign.message(alice.workspace).model_copy(update={"body": b"tampered"})
    with pytest.raises(SignatureRefused) as caught:
        await send(service, alice, *good, bad)
    assert caught.value.violations[0].pointer == "/messages/3"
    assert fake_store.state.forwarded == []
    assert await send(service, alice, *good) == tuple(message.id for message in good)
    twice = sign.message(alice.workspace)
    assert await send(service, alice, twice, twice) == (twice.id, twice.id)
    assert len(fake_store.state.forwarded) == 4


async def test_nothing_is_acknowledged_that_was_not_committed(
    service: BridgeService, alice: Any, sign: Any, fake_store: Any
) -> None:
    message = sign.message(alice.workspace)
    fake_store.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await send(service, alice, message)
    assert fake_store.state.forwarded == []
    await send(service, alice, message)
    assert len(fake_store.state.forwarded) == 1
