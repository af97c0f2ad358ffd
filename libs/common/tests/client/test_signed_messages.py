"""Messages are signed on the way to another workspace, and verified before anybody gets them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wardmesh.bridge_signing import sign, verify
from wardmesh.client import subscription
from wardmesh.contracts import bridge
from wardmesh.crypto import vault
from wardmesh.crypto.sealing import seal_to
from wardmesh.errors import (
    Conflict,
    InvalidSignature,
)
from wardmesh.ids import AgreementId, MessageId, WorkspaceId

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Agreement:
    """The bridge's half."""

    def __init__(self, services, here: WorkspaceId) -> None:
        self.services = services
        self.id, self.there = AgreementId.new(), WorkspaceId.new()
        self.key, self.key_id = bytes(range(32)), "key-1"
        self.sent: list[bridge.SignedMessage] = []
        accepted = bridge.Agreement(
            id=self.id, source=here, target=self.there, state=bridge.AgreementState.ACCEPTED, created_at=NOW
        )
        services.on("bridge.list", bridge.Agreements(agreements=(accepted,)))
        services.on("bridge.key", self.sealed_key)
        services.on("bridge.send", self.send)

    def sealed_key(self, request):
        info = vault.bridge_key_info(
            workspace=request.subject.scope, principal=request.subject.principal, agreement=self.id,
            key_id=self.key_id, request_id=request.id,
        )  # fmt: skip
        sealed = seal_to(self.services.holder_keys[-1], self.key, info)
        return bridge.SealedBridgeKey(agreement=self.id, key_id=self.key_id, sealed=sealed)

    def send(self, request):
        messages = bridge.Send.model_validate(request.body).messages
        for message in messages:
            if message.key_id != self.key_id:
                return InvalidSignature()
            verify(self.key, message)
        self.sent += messages
        return bridge.Sent(ids=tuple(message.id for message in messages))

    def message(self, here: WorkspaceId, honest_body: bytes, **changed) -> bridge.SignedMessage:
        message = bridge.SignedMessage(
            agreement=self.id, key_id=self.key_id, id=MessageId.new(), source=self.there, target=here, nonce=bytes(16),
            type="report.build", issued_at=NOW, expires_at=NOW + timedelta(minutes=1), body=honest_body,
            signature=bytes(32),
        )  # fmt: skip
        return sign(self.key, message).model_copy(update=changed)


async def test_what_is_sent_is_signed_with_the_agreements_key(mesh, services) -> None:
    agreement = Agreement(services, mesh.workspace)
    ids = [await mesh.bridge.send(agreement.there, "report.build", {"month": "2026-10"}) for _ in range(3)]
    assert [message.id for message in agreement.sent] == ids
    assert agreement.sent[0].body == b'{"month":"2026-10"}'
    assert len({message.nonce for message in agreement.sent}) == 3
    assert len(services.asked("bridge.key")) == len(services.asked("bridge.list")) == 1
    agreement.key, agreement.key_id = bytes(32), "key-2"
    await mesh.bridge.send(agreement.there, "report.build", b"raw", content_type="text/plain")
    assert len(services.asked("bridge.key")) == 2
    with pytest.raises(Conflict, match="no accepted agreement"):
        await mesh.bridge.send(WorkspaceId.new(), "report.build", {})


async def test_a_message_whose_signature_fails_is_never_handed_out(mesh, services, monkeypatch, caplog) -> None:
    monkeypatch.setattr(subscription, "ACK_DELAY_SECONDS", 0.01)
    here = mesh.workspace
    agreement = Agreement(services, here)
    good = agreement.message(here, b'{"n":1}')
    bad = [
        agreement.message(here, b"{}", body=b'{"evil":1}'),
        agreement.message(here, b"{}", type="report.delete"),
        agreement.message(here, b"{}", source=WorkspaceId.new()),
        agreement.message(here, b"{}", kind=bridge.Kind.REQUEST),
        agreement.message(here, b"{}", expires_at=NOW + timedelta(days=1)),
        agreement.message(here, b"{}", key_id="key-0"),
        agreement.message(here, b"{}", signature=bytes(32)),
        agreement.message(WorkspaceId.new(), b"{}"),
    ]
    batches = [tuple(bad), (good,)]
    naks: list[str] = []
    acks: list[str] = []

    def fetch(request):
        naks.extend(request.body["naks"])
        acks.extend(request.body["acks"])
        messages = batches.pop(0) if request.body["batch"] and batches else ()
        if request.body["batch"] and not messages:
            return None
        return bridge.Received(
            messages=tuple(
                bridge.DeliveredMessage(message=message, delivery=1, ack=f"{len(batches)}.{n}.1.1.1")
                for n, message in enumerate(messages)
            )
        )

    services.on("bridge.fetch", fetch)
    async with mesh.bridge.receive(group="g", prefetch=8) as messages:
        async for message in messages:
            async with message:
                assert (message.id, message.data, message.source) == (good.id, {"n": 1}, agreement.there)
            break
    assert len(set(naks)) == len(bad)
    assert set(acks) == {"0.0.1.1.1"}
    assert "withheld" in caplog.text
    assert "evil" not in caplog.text
