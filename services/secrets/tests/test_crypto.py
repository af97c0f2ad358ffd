"""The key hierarchy under attack: every field of every context matters, and no key opens another's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.crypto import aead
from wardmesh.crypto.errors import InvalidKey
from wardmesh.crypto.sealing import HolderKey, seal_to
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh.server.kek import LocalKey
from wardmesh_secrets.crypto import Keyring
from wardmesh_secrets.domain import Owner, Place
from wardmesh_secrets.errors import NotSealedForThis, StoredUnopenable

KEK = bytes(range(32))
OWNER = Owner(OrgId.new(), WorkspaceId.new())
PLACE = Place(OWNER, "openai/api-key", 3)
VALUE = b"sk-canary"
INFO = (b"label", b"field")


@pytest.fixture
def keyring() -> Keyring:
    return Keyring(LocalKey(KEK))


async def _sealed(keyring: Keyring, now: datetime) -> tuple[Any, Any]:
    scope_key = await keyring.new_scope_key(OWNER, 1, now)
    return scope_key, await keyring.seal(scope_key, PLACE, VALUE)


async def test_what_was_sealed_opens_in_its_place_and_is_overwritten(keyring: Keyring, now: datetime) -> None:
    scope_key, sealed = await _sealed(keyring, now)
    async with keyring.opened(scope_key, PLACE, sealed) as value:
        assert value == VALUE
    assert value == bytes(len(VALUE))


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, path="openai/api-key2"),
        replace(PLACE, version=4),
        replace(PLACE, owner=replace(OWNER, workspace=WorkspaceId.new())),
        replace(PLACE, owner=replace(OWNER, organization=OrgId.new())),
    ],
    ids=["path", "version", "workspace", "organization"],
)
async def test_nothing_opens_in_another_place(keyring: Keyring, now: datetime, place: Place) -> None:
    scope_key, sealed = await _sealed(keyring, now)
    with pytest.raises(StoredUnopenable):
        async with keyring.opened(scope_key, place, sealed):
            pytest.fail("it opened")


async def test_fields_do_not_run_into_each_other(keyring: Keyring, now: datetime) -> None:
    scope_key = await keyring.new_scope_key(OWNER, 1, now)
    sealed = await keyring.seal(scope_key, replace(PLACE, path="a", version=0x6262626262626262), VALUE)
    with pytest.raises(StoredUnopenable):
        async with keyring.opened(scope_key, replace(PLACE, path="abbbbbbbb", version=0), sealed):
            pytest.fail("it opened")


async def test_a_data_key_opens_its_own_value_only(keyring: Keyring, now: datetime) -> None:
    scope_key, one = await _sealed(keyring, now)
    other = await keyring.seal(scope_key, PLACE, VALUE)  # the very same place
    with pytest.raises(StoredUnopenable):
        async with keyring.opened(scope_key, PLACE, replace(one, wrapped_key=other.wrapped_key)):
            pytest.fail("it opened")


async def test_a_value_is_bound_to_its_wrapped_key(keyring: Keyring, now: datetime) -> None:
    """Even another wrapping of the very same data key, which whoever has the keys could make, does not fit."""
    scope_key, sealed = await _sealed(keyring, now)
    fields = (OWNER.organization.encode(), OWNER.workspace.encode())
    scope_context = (b"wardmesh/vault/v1/scope-key", *fields, (1).to_bytes(8, "big"))
    data_context = (
        b"wardmesh/vault/v1/data-key",
        *fields,
        PLACE.path.encode(),
        PLACE.version.to_bytes(8, "big"),
        (1).to_bytes(8, "big"),
    )
    raw_scope_key = aead.unwrap(KEK, scope_key.wrapped, scope_context)
    data_key = aead.unwrap(raw_scope_key, sealed.wrapped_key, data_context)
    again = aead.wrap(raw_scope_key, data_key, data_context)
    with pytest.raises(StoredUnopenable):
        async with keyring.opened(scope_key, PLACE, replace(sealed, wrapped_key=again)):
            pytest.fail("it opened")


async def test_a_scope_key_seals_for_its_owner_only(keyring: Keyring, now: datetime) -> None:
    scope_key = await keyring.new_scope_key(OWNER, 1, now)
    thief = Place(Owner(OWNER.organization, WorkspaceId.new()), "a", 1)
    with pytest.raises(StoredUnopenable):
        await keyring.seal(scope_key, thief, VALUE)


@given(flip=st.integers(min_value=0))
def test_no_bit_of_what_is_stored_can_be_changed(flip: int) -> None:
    async def attack() -> None:
        keyring = Keyring(LocalKey(KEK))
        scope_key, sealed = await _sealed(keyring, datetime.fromisoformat("2026-11-22T12:00:00Z"))
        for what, name in ((scope_key, "wrapped"), (sealed, "wrapped_key"), (sealed, "ciphertext")):
            damaged = bytearray(getattr(what, name))
            damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
            changed = replace(what, **{name: bytes(damaged)})
            with pytest.raises(StoredUnopenable):
                async with keyring.opened(
                    changed if what is scope_key else scope_key, PLACE, changed if what is sealed else sealed
                ):
                    pytest.fail("it opened")

    asyncio.run(attack())


async def test_another_kek_opens_nothing_and_says_which_it_is(keyring: Keyring, now: datetime) -> None:
    scope_key, sealed = await _sealed(keyring, now)
    other = LocalKey(bytes(32))
    with pytest.raises(StoredUnopenable, match="another key encryption key"):
        async with Keyring(other).opened(scope_key, PLACE, sealed):
            pytest.fail("it opened")
    with pytest.raises(StoredUnopenable):  # also if its row was made to name the key that is there
        async with Keyring(other).opened(replace(scope_key, kek_id=other.id), PLACE, sealed):
            pytest.fail("it opened")


async def test_generations_do_not_mix(keyring: Keyring, now: datetime) -> None:
    _, sealed = await _sealed(keyring, now)
    second = await keyring.new_scope_key(OWNER, 2, now)
    attacks = [
        (second, sealed),
        (replace(second, generation=1), sealed),
        (second, replace(sealed, generation=2)),
    ]
    for scope_key, row in attacks:
        with pytest.raises(StoredUnopenable):
            async with keyring.opened(scope_key, PLACE, row):
                pytest.fail("it opened")


async def test_an_error_in_the_block_is_not_blamed_on_the_store(keyring: Keyring, now: datetime) -> None:
    scope_key, sealed = await _sealed(keyring, now)
    with pytest.raises(InvalidKey):
        async with keyring.opened(scope_key, PLACE, sealed):
            seal_to(bytes(32), b"", ())  # a key of small order


async def test_received_values_open_for_their_key_and_info_only(keyring: Keyring, now: datetime) -> None:
    key = await keyring.new_sealing_key(OWNER, now)
    sealed = seal_to(key.public_key, VALUE, INFO)
    async with keyring.received(key, OWNER, sealed, INFO) as value:
        assert value == VALUE
    assert value == bytes(len(VALUE))
    other = await keyring.new_sealing_key(OWNER, now)
    for attempt, info in ((key, (b"label", b"fielD")), (key, (b"labelfield",)), (other, INFO)):
        with pytest.raises(NotSealedForThis):
            async with keyring.received(attempt, OWNER, sealed, info):
                pytest.fail("it opened")


async def test_sealing_keys_are_bound_to_their_row(keyring: Keyring, now: datetime) -> None:
    key = await keyring.new_sealing_key(OWNER, now)
    attacker = HolderKey.generate()
    stranger = Owner(OrgId.new(), WorkspaceId.new())
    attacks: list[tuple[Any, Owner]] = [
        (replace(key, public_key=attacker.public_bytes), OWNER),
        (replace(key, key_id=attacker.thumbprint()), OWNER),
        (key, stranger),
    ]
    for row, owner in attacks:
        with pytest.raises(StoredUnopenable):
            async with keyring.received(row, owner, seal_to(key.public_key, VALUE, INFO), INFO):
                pytest.fail("it opened")


async def test_keys_and_values_are_in_no_representation(keyring: Keyring, now: datetime) -> None:
    kek = LocalKey(KEK)
    scope_key, sealed = await _sealed(keyring, now)
    shown = repr(kek) + repr(scope_key) + repr(sealed) + kek.id
    assert KEK.hex() not in shown
    assert repr(sealed.ciphertext) not in shown
    assert repr(scope_key.wrapped) not in shown


def test_ids_of_keks_differ() -> None:
    assert LocalKey(KEK).id != LocalKey(bytes(32)).id
    assert LocalKey(KEK).id == LocalKey(bytes(KEK)).id
