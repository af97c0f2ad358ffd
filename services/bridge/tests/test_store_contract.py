"""What every `BridgeStore` does: run on the fake, and on a real PostgreSQL through the service's own role."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.bridge import Agreement, AgreementState
from wardmesh.ids import AgreementId, MessageId
from wardmesh_bridge.domain import Admission, StoredKey
from wardmesh_bridge.ports import BridgeStore


def stored_key(now: datetime, key_id: str = "mac_1") -> StoredKey:
    return StoredKey(key_id, "local:1", b"wrapped", now)


async def propose(store: BridgeStore, source: Any, target: Any, now: datetime) -> AgreementId:
    agreement = AgreementId.new()
    async with store.transaction(source.ask(contracts.PROPOSE)) as rows:
        assert await rows.propose(agreement, target.workspace, now)
    return agreement


async def agree(store: BridgeStore, source: Any, target: Any, now: datetime) -> Agreement:
    agreement = await propose(store, source, target, now)
    async with store.transaction(target.ask(contracts.ACCEPT)) as rows:
        assert await rows.accept(agreement, now)
        await rows.add_key(agreement, stored_key(now))
        found = await rows.agreement(agreement)
    assert found is not None
    return found


async def see(store: BridgeStore, who: Any, agreement: AgreementId) -> Agreement | None:
    async with store.transaction(who.ask(), read_only=True) as rows:
        return await rows.agreement(agreement)


async def test_both_sides_and_nobody_else_see_an_agreement(
    store: BridgeStore, alice: Any, bob: Any, mallory: Any, now: datetime
) -> None:
    agreement = await propose(store, alice, bob, now)
    expected = Agreement(
        id=agreement, source=alice.workspace, target=bob.workspace, state=AgreementState.PROPOSED, created_at=now
    )
    assert await see(store, alice, agreement) == expected
    assert await see(store, bob, agreement) == expected
    assert await see(store, mallory, agreement) is None
    async with store.transaction(mallory.ask()) as rows:
        assert await rows.live_agreement(alice.workspace) is None
        assert await rows.agreements(after=None, limit=10) == []
        assert not await rows.accept(agreement, now)
        assert not await rows.revoke(agreement, now)


async def test_one_live_agreement_a_pair_whoever_proposed(
    store: BridgeStore, alice: Any, bob: Any, now: datetime
) -> None:
    first = await propose(store, alice, bob, now)
    for who, other in ((alice, bob), (bob, alice)):
        async with store.transaction(who.ask(contracts.PROPOSE)) as rows:
            assert not await rows.propose(AgreementId.new(), other.workspace, now)
            found = await rows.live_agreement(other.workspace)
            assert found is not None
            assert found.id == first
    async with store.transaction(bob.ask(contracts.REVOKE)) as rows:
        assert await rows.revoke(first, now)
        assert not await rows.revoke(first, now)
        assert await rows.live_agreement(alice.workspace) is None
    assert await propose(store, bob, alice, now) != first


async def test_only_the_target_accepts_and_once(store: BridgeStore, alice: Any, bob: Any, now: datetime) -> None:
    agreement = await propose(store, alice, bob, now)
    async with store.transaction(alice.ask(contracts.ACCEPT)) as rows:
        assert not await rows.accept(agreement, now)
    async with store.transaction(bob.ask(contracts.ACCEPT)) as rows:
        assert await rows.accept(agreement, now)
        assert not await rows.accept(agreement, now)
    found = await see(store, alice, agreement)
    assert found is not None
    assert (found.state, found.accepted_at) == (AgreementState.ACCEPTED, now)


async def test_what_is_revoked_stays_revoked(store: BridgeStore, alice: Any, bob: Any, now: datetime) -> None:
    agreement = await agree(store, alice, bob, now)
    async with store.transaction(alice.ask(contracts.REVOKE)) as rows:
        assert await rows.revoke(agreement.id, now)
    async with store.transaction(bob.ask(contracts.ACCEPT)) as rows:
        assert not await rows.accept(agreement.id, now)
        found = await rows.agreement(agreement.id)
    assert found is not None
    assert found.state is AgreementState.REVOKED


async def test_pages(store: BridgeStore, alice: Any, person: Any, now: datetime) -> None:
    names = [await propose(store, alice, person(), now) for _ in range(3)]
    names.append(await propose(store, person(), alice, now))
    names.sort()
    async with store.transaction(alice.ask(), read_only=True) as rows:
        assert [one.id for one in await rows.agreements(after=None, limit=10)] == names
        assert [one.id for one in await rows.agreements(after=names[0], limit=2)] == names[1:3]


async def test_keys_are_both_sides(store: BridgeStore, alice: Any, bob: Any, mallory: Any, now: datetime) -> None:
    agreement = await agree(store, alice, bob, now)
    async with store.transaction(bob.ask(contracts.ACCEPT)) as rows:
        await rows.add_key(agreement.id, stored_key(now + timedelta(days=1), "mac_2"))
    for who in (alice, bob):
        async with store.transaction(who.ask(), read_only=True) as rows:
            assert await rows.key(agreement.id, "mac_1") == stored_key(now)
            assert await rows.key(agreement.id, "mac_3") is None
            assert await rows.present_key(agreement.id) == stored_key(now + timedelta(days=1), "mac_2")
    async with store.transaction(mallory.ask(), read_only=True) as rows:
        assert await rows.key(agreement.id, "mac_1") is None
        assert await rows.present_key(agreement.id) is None


async def test_a_nonce_and_an_id_admit_one_message(
    store: BridgeStore, alice: Any, bob: Any, mallory: Any, signer: Any, now: datetime
) -> None:
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), now)
    message = sign.message(alice.workspace)
    async with store.transaction(alice.ask()) as rows:
        assert await rows.admission(message) is None
        assert await rows.admit(message, now)
        assert not await rows.admit(message, now)
        assert not await rows.admit(sign.message(alice.workspace, nonce=message.nonce), now)
        assert not await rows.admit(sign.message(alice.workspace, id=message.id), now)
        assert await rows.admit(sign.message(alice.workspace), now)
    expected = Admission(message.id, message.signature, settled=False)
    for who in (alice, bob):
        async with store.transaction(who.ask()) as rows:
            assert await rows.admission(message) == expected
    async with store.transaction(mallory.ask()) as rows:
        assert await rows.admission(message) is None


async def test_the_other_side_cannot_use_the_same_nonce(
    store: BridgeStore, alice: Any, bob: Any, signer: Any, now: datetime
) -> None:
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), now)
    message = sign.message(alice.workspace)
    async with store.transaction(alice.ask()) as rows:
        assert await rows.admit(message, now)
    async with store.transaction(bob.ask()) as rows:
        assert not await rows.admit(sign.message(bob.workspace, nonce=message.nonce), now)


async def test_at_once_one_of_many_is_admitted(
    store: BridgeStore, alice: Any, bob: Any, signer: Any, now: datetime
) -> None:
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), now)
    message = sign.message(alice.workspace)

    async def attempt() -> bool:
        async with store.transaction(alice.ask()) as rows:
            return await rows.admit(message, now)

    assert sorted(await asyncio.gather(*[attempt() for _ in range(6)])) == [False] * 5 + [True]


async def test_settling_is_the_receivers_and_once(
    store: BridgeStore, alice: Any, bob: Any, mallory: Any, signer: Any, now: datetime
) -> None:
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), now)
    message = sign.message(alice.workspace)
    async with store.transaction(alice.ask()) as rows:
        await rows.admit(message, now)
    for nobody in (alice.workspace, mallory.workspace):
        async with store.as_receiver(nobody) as rows:
            assert not await rows.settle(message, now)

    async def attempt() -> bool:
        async with store.as_receiver(bob.workspace) as rows:
            return await rows.settle(message, now)

    assert sorted(await asyncio.gather(*[attempt() for _ in range(4)])) == [False] * 3 + [True]
    async with store.as_receiver(bob.workspace) as rows:
        assert await rows.admission(message) == Admission(message.id, message.signature, settled=True)


async def test_nothing_of_a_block_that_raises(
    store: BridgeStore, alice: Any, bob: Any, signer: Any, now: datetime
) -> None:
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), now)
    message = sign.message(alice.workspace)

    async def fail_at_the_end() -> None:
        async with store.transaction(alice.ask()) as rows:
            assert await rows.admit(message, now)
            await rows.forward("bridge.a.b.c", b"", {})
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail_at_the_end()
    async with store.transaction(alice.ask()) as rows:
        assert await rows.admission(message) is None


async def test_what_is_forgotten_is_old(store: BridgeStore, alice: Any, bob: Any, signer: Any, now: datetime) -> None:
    present = datetime.now().astimezone()
    sign = signer(await agree(store, alice, bob, now), "mac_1", bytes(32), present)
    fresh = sign.message(alice.workspace, id=MessageId.new())
    async with store.transaction(alice.ask()) as rows:
        await rows.admit(fresh, present)
        await rows.forget()
        assert await rows.admission(fresh) is not None
