"""The use cases on a vault in memory: who gets what, sealed to whom, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.audit import Outcome
from wardmesh.contracts.operation import Durability, Empty, Level
from wardmesh.contracts.secrets import (
    MAX_VALUE_BYTES,
    GetSecret,
    GrantSecret,
    ListGrants,
    ListSecrets,
    PutSecret,
    RevokeGrant,
    SealedSecret,
)
from wardmesh.crypto.errors import Undecryptable
from wardmesh.crypto.sealing import HolderKey, seal_to
from wardmesh.crypto.vault import get_info, put_info
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import RequestId
from wardmesh.server.kek import LocalKey
from wardmesh_secrets.crypto import Keyring
from wardmesh_secrets.errors import (
    NoHolderKey,
    NoSuchSecret,
    NotGranted,
    NotSealedForThis,
    StoredUnopenable,
    ValueTooLarge,
)
from wardmesh_secrets.service import VaultService

VALUE = b"sk-canary-4f1d"


@pytest.fixture
def service(fake_store: Any, now: datetime) -> VaultService:
    return VaultService(fake_store, Keyring(LocalKey(bytes(range(32)))), lambda: now)


async def put(
    service: VaultService, who: Any, path: str, value: bytes = VALUE, *, sealed_for: dict[str, Any] | None = None
) -> int:
    key = await service.sealing_key(who.ask(contracts.SEALING_KEY), Empty())
    call = who.ask(contracts.PUT)
    bound_to = {
        "workspace": who.caller.workspace,
        "principal": who.caller.principal,
        "path": path,
        "key_id": key.key_id,
        "request_id": call.request_id,
    }
    sealed = seal_to(key.public_key, value, put_info(**bound_to | (sealed_for or {})))
    return (await service.put(call, PutSecret(path=path, key_id=key.key_id, sealed=sealed))).version


async def get(service: VaultService, who: Any, path: str, version: int | None = None) -> bytes:
    call = who.ask(contracts.GET)
    answer = await service.get(call, GetSecret(path=path, version=version))
    assert answer.path == path
    return open_answer(who, call.request_id, answer)


def open_answer(who: Any, request_id: RequestId, answer: SealedSecret) -> bytes:
    info = get_info(
        workspace=who.caller.workspace,
        principal=who.caller.principal,
        path=answer.path,
        version=answer.version,
        request_id=request_id,
    )
    opened: bytes = who.holder.open(answer.sealed, info)
    return opened


async def test_put_and_get(service: VaultService, admin: Any) -> None:
    assert await put(service, admin, "openai/api-key", b"one") == 1
    assert await put(service, admin, "openai/api-key", b"two") == 2
    assert await get(service, admin, "openai/api-key") == b"two"
    assert await get(service, admin, "openai/api-key", 1) == b"one"
    with pytest.raises(NoSuchSecret):
        await get(service, admin, "openai/api-key", 3)


async def test_the_sealing_key_is_one_for_everybody(service: VaultService, admin: Any, person: Any) -> None:
    viewer = person(Level.VIEWER, like=admin)
    first = await service.sealing_key(viewer.ask(contracts.SEALING_KEY), Empty())
    assert await service.sealing_key(admin.ask(contracts.SEALING_KEY), Empty()) == first
    stranger = person(Level.ADMIN)
    assert (await service.sealing_key(stranger.ask(contracts.SEALING_KEY), Empty())).public_key != first.public_key


@pytest.mark.parametrize("level", [Level.RESTRICTED, Level.VIEWER, Level.MEMBER, Level.OPERATOR])
async def test_below_admin_reading_takes_a_grant(
    service: VaultService, admin: Any, person: Callable[..., Any], level: Level
) -> None:
    await put(service, admin, "a/b")
    reader = person(level, like=admin, permissions=["secret.read"])
    with pytest.raises(NotGranted) as missing:
        await get(service, reader, "a/nothing")
    with pytest.raises(NotGranted) as existing:
        await get(service, reader, "a/b")
    assert str(missing.value) == str(existing.value)
    assert missing.value.to_problem() == existing.value.to_problem()
    assert "a/b" not in str(existing.value)

    await service.grant(admin.ask(contracts.GRANT), GrantSecret(pattern="a/*", principal=reader.caller.principal))
    assert await get(service, reader, "a/b") == VALUE
    with pytest.raises(NoSuchSecret):
        await get(service, reader, "a/nothing")

    revoke = RevokeGrant(pattern="a/*", principal=reader.caller.principal)
    await service.revoke_grant(admin.ask(contracts.REVOKE_GRANT), revoke)
    with pytest.raises(NotGranted):
        await get(service, reader, "a/b")
    await service.revoke_grant(admin.ask(contracts.REVOKE_GRANT), revoke)


async def test_who_it_acts_for_lends_nobody_a_grant(service: VaultService, admin: Any, person: Any) -> None:
    await put(service, admin, "a")
    agent = person(Level.RESTRICTED, like=admin, permissions=["secret.read"]).but(acting_for=admin.caller.principal)
    with pytest.raises(NotGranted):
        await get(service, agent, "a")


async def test_an_answer_opens_for_its_caller_and_its_request_only(service: VaultService, admin: Any) -> None:
    await put(service, admin, "a", b"old")
    await put(service, admin, "b", b"other")
    call = admin.ask(contracts.GET)
    answer = await service.get(call, GetSecret(path="a"))
    assert open_answer(admin, call.request_id, answer) == b"old"
    attacks = [
        (admin, RequestId.new(), answer),  # replayed as the answer to another request
        (admin, call.request_id, answer.model_copy(update={"path": "b"})),
        (admin, call.request_id, answer.model_copy(update={"version": 2})),
        (replace(admin, holder=HolderKey.generate()), call.request_id, answer),
    ]
    for who, request_id, changed in attacks:
        with pytest.raises(Undecryptable):
            open_answer(who, request_id, changed)


async def test_nothing_leaves_unsealed(service: VaultService, admin: Any) -> None:
    await put(service, admin, "a")
    answer = await service.get(admin.ask(contracts.GET), GetSecret(path="a"))
    assert VALUE not in answer.sealed
    assert contracts.GET.audit.durability is Durability.BEFORE_ANSWER


async def test_without_a_holder_key_the_store_is_not_asked(service: VaultService, admin: Any, fake_store: Any) -> None:
    fake_store.failure = ServiceUnavailable()
    with pytest.raises(NoHolderKey) as refused:
        await service.get(admin.but(holder_key=None).ask(contracts.GET), GetSecret(path="a"))
    assert refused.value.code == "invalid_request"
    assert fake_store.failure is not None


async def test_a_holder_key_of_small_order_is_refused(service: VaultService, admin: Any) -> None:
    await put(service, admin, "a")
    with pytest.raises(NoHolderKey):
        await service.get(admin.but(holder_key=bytes(32)).ask(contracts.GET), GetSecret(path="a"))


@pytest.mark.parametrize("field", ["workspace", "principal", "path", "key_id", "request_id"])
async def test_a_value_that_was_sealed_for_something_else_is_not_stored(
    service: VaultService, admin: Any, person: Any, field: str
) -> None:
    stranger = person(Level.ADMIN)
    other = {
        "workspace": stranger.caller.workspace,
        "principal": stranger.caller.principal,
        "path": "b",
        "key_id": "another",
        "request_id": RequestId.new(),
    }[field]
    with pytest.raises(NotSealedForThis):
        await put(service, admin, "a", sealed_for={field: other})
    assert await service.list(admin.ask(contracts.LIST), ListSecrets()) == contracts.Secrets(secrets=())


async def test_an_unknown_sealing_key(service: VaultService, admin: Any) -> None:
    with pytest.raises(NotSealedForThis):
        await service.put(admin.ask(), PutSecret(path="a", key_id="nobody", sealed=b"x"))


async def test_sizes(service: VaultService, admin: Any) -> None:
    await put(service, admin, "empty", b"")
    assert await get(service, admin, "empty") == b""
    await put(service, admin, "largest", bytes(MAX_VALUE_BYTES))
    with pytest.raises(ValueTooLarge):
        await put(service, admin, "larger", bytes(MAX_VALUE_BYTES + 1))


async def test_nothing_is_stored_if_the_commit_fails(service: VaultService, admin: Any, fake_store: Any) -> None:
    await put(service, admin, "a", b"one")
    key = await service.sealing_key(admin.ask(contracts.SEALING_KEY), Empty())
    call = admin.ask()
    info = put_info(
        workspace=admin.caller.workspace,
        principal=admin.caller.principal,
        path="a",
        key_id=key.key_id,
        request_id=call.request_id,
    )
    fake_store.failure = ServiceUnavailable()
    with pytest.raises(ServiceUnavailable):
        await service.put(call, PutSecret(path="a", key_id=key.key_id, sealed=seal_to(key.public_key, b"two", info)))
    assert await get(service, admin, "a") == b"one"


async def test_names_are_shown_to_who_writes_and_who_may_read(
    service: VaultService, admin: Any, person: Callable[..., Any]
) -> None:
    for path in ("a", "b/c", "d"):
        await put(service, admin, path)
    operator = person(Level.OPERATOR, like=admin)
    member = person(Level.MEMBER, like=admin)
    await service.grant(admin.ask(contracts.GRANT), GrantSecret(pattern="b/*", principal=member.caller.principal))

    async def names(who: Any) -> list[str]:
        found = await service.list(who.ask(contracts.LIST), ListSecrets())
        return [secret.path for secret in found.secrets]

    assert await names(admin) == ["a", "b/c", "d"]
    assert await names(operator) == ["a", "b/c", "d"]
    assert await names(member) == ["b/c"]
    assert await names(person(Level.MEMBER, like=admin)) == []


async def test_grants_are_listed(service: VaultService, admin: Any, person: Callable[..., Any]) -> None:
    member = person(Level.MEMBER, like=admin).caller.principal
    made = await service.grant(admin.ask(contracts.GRANT), GrantSecret(pattern="a", principal=member))
    again = await service.grant(admin.ask(contracts.GRANT), GrantSecret(pattern="a", principal=member))
    assert made == again
    listed = await service.list_grants(admin.ask(contracts.LIST_GRANTS), ListGrants())
    assert listed.grants == (made,)
    nobody = ListGrants(principal=person(Level.MEMBER).caller.principal)
    assert (await service.list_grants(admin.ask(contracts.LIST_GRANTS), nobody)).grants == ()


async def test_a_moved_row_is_refused_and_reported(
    service: VaultService, admin: Any, fake_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await put(service, admin, "cheap", b"mine")
    await put(service, admin, "dear")
    rows = fake_store.workspaces[admin.caller.organization, admin.caller.workspace]
    rows.versions["cheap", 1] = rows.versions["dear", 1]
    call = admin.ask(contracts.GET)
    with caplog.at_level(logging.DEBUG), pytest.raises(StoredUnopenable):
        await service.get(call, GetSecret(path="cheap"))
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.__dict__["request_id"] == call.request_id
    assert VALUE.decode() not in caplog.text


async def test_values_are_in_no_log_and_no_representation(
    service: VaultService, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await put(service, admin, "a")
        call = admin.ask(contracts.GET)
        answer = await service.get(call, GetSecret(path="a"))
        with pytest.raises(NotSealedForThis) as refused:
            await put(service, admin, "a", sealed_for={"path": "b"})
    event = call.audit_event(Outcome.SUCCESS, None).model_dump_json()
    for shown in (caplog.text, repr(answer), str(answer), repr(refused.value), event):
        assert VALUE.decode() not in shown
        assert repr(answer.sealed) not in shown
