"""Receiving: whose inbox is asked for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pytest

from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.bridge import Agreement, Receive
from wardmesh.ids import AgreementId
from wardmesh.server.fetching import Delivery
from wardmesh.server.kek import LocalKey
from wardmesh_bridge.crypto import AgreementKeys
from wardmesh_bridge.service import BridgeService


class FakeInbox:
    """Remembers what it was asked for; answers what it was told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.deliveries: Sequence[Delivery] = ()
        self.terminated: list[str] = []
        self.handed_back: list[str] = []

    async def fetch(self, **asked: Any) -> Sequence[Delivery]:
        self.asked.append(asked)
        return self.deliveries

    async def terminate(self, *, token: str, **_asked: Any) -> None:
        self.terminated.append(token)

    async def hand_back(self, *, tokens: Iterable[str], **_asked: Any) -> None:
        self.handed_back.extend(tokens)


@pytest.fixture
def inbox() -> FakeInbox:
    return FakeInbox()


@pytest.fixture
def service(fake_store: Any, inbox: FakeInbox, now: datetime) -> BridgeService:
    return BridgeService(fake_store, AgreementKeys(LocalKey(bytes(32))), inbox, lambda: now)


async def test_a_fetch_reaches_the_callers_own_inbox_only(
    service: BridgeService, bob: Any, alice: Any, inbox: FakeInbox
) -> None:
    await service.fetch(bob.ask(contracts.FETCH), Receive(group="g"))
    await service.fetch(
        bob.ask(contracts.FETCH), Receive(group="g", source=alice.workspace, type="report.build", acks=("1.2.3.4.5",))
    )
    await service.fetch(alice.ask(contracts.FETCH), Receive(group="g"))
    assert [asked["filter_subject"] for asked in inbox.asked] == [
        f"inbox.{bob.workspace}.*.>",
        f"inbox.{bob.workspace}.{alice.workspace}.report.build",
        f"inbox.{alice.workspace}.*.>",
    ]
    assert inbox.asked[1]["acks"] == ("1.2.3.4.5",)
    assert inbox.asked[0]["consumer"] == inbox.asked[1]["consumer"] != inbox.asked[2]["consumer"]
    assert inbox.asked[0]["wait_seconds"] < 10  # less than the caller waits


async def test_fetched_messages_are_as_they_were_signed(
    service: BridgeService, alice: Any, bob: Any, signer: Any, inbox: FakeInbox, now: datetime
) -> None:
    agreement = Agreement(
        id=AgreementId.new(), source=bob.workspace, target=alice.workspace, state="accepted", created_at=now
    )
    message = signer(agreement, "mac_1", bytes(32), now).message(alice.workspace)
    payload = message.model_dump_json().encode()
    inbox.deliveries = [Delivery("inbox.x", {}, payload, ack="1.2.3.4.5", delivered=2)]
    call = bob.ask(contracts.FETCH)
    received = await service.fetch(call, Receive(group="g"))
    [delivered] = received.messages
    assert (delivered.message, delivered.delivery, delivered.ack) == (message, 2, "1.2.3.4.5")
    await call.hand_back()
    assert inbox.handed_back == ["1.2.3.4.5"]


@pytest.mark.parametrize("group", ["*", ">", "a.b", "", "A", "a" * 65])
def test_no_group_is_a_wildcard(group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        Receive(group=group)


async def test_what_cannot_be_read_holds_nothing_up(service: BridgeService, bob: Any, inbox: FakeInbox) -> None:
    inbox.deliveries = [Delivery("inbox.x", {}, b"{}", ack="1.2.3.4.5", delivered=1)]
    received = await service.fetch(bob.ask(contracts.FETCH), Receive(group="g"))
    assert received.messages == ()
    assert inbox.terminated == ["1.2.3.4.5"]
