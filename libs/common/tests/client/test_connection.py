"""No dropped work: the broker is killed, credentials expire, sockets break in every way."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import timedelta

import pytest
from nats.aio.client import Client

import wardmesh
from wardmesh import contracts
from wardmesh.contracts.auth import Identity
from wardmesh.errors import (
    ConnectionLost,
    CredentialRefused,
    DeadlineExceeded,
    PermissionDenied,
    ReplySubjectRefused,
    ServiceUnavailable,
    TokenExpired,
    TokenRevoked,
    WardmeshError,
)
from wardmesh.ids import AgentId, OrgId
from wardmesh.subjects import refusal_inbox

NOBODY = Identity(principal=AgentId.nil(), organization=OrgId.nil(), scope=OrgId.nil(), level="viewer", permissions=())


async def test_calls_work_through_kills_of_the_broker(broker, services, connect) -> None:
    services.on("auth.who_am_i", NOBODY)
    outcomes: list[object] = []

    async def keep_calling(mesh: wardmesh.Mesh) -> None:
        while not stop.is_set():
            outcomes.append(await mesh.auth.who_am_i())

    stop = asyncio.Event()
    async with connect() as mesh:
        workers = [asyncio.create_task(keep_calling(mesh)) for _ in range(16)]
        for _ in range(3):
            await asyncio.sleep(0.2)
            before = len(outcomes)
            broker.kill()
            await asyncio.sleep(0.1)
            broker.start()
            while len(outcomes) < before + 50:
                await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*workers)  # not one of them failed
    assert set(map(type, outcomes)) == {Identity}


async def test_what_may_have_been_done_is_not_done_twice(broker, services, connect) -> None:
    services.on("auth.create_agent", None)
    async with connect() as mesh:
        call = asyncio.create_task(mesh.auth.create_agent(name="a"))
        while not services.asked("auth.create_agent"):
            await asyncio.sleep(0.01)
        broker.kill()
        broker.start()
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.retryable
        assert caught.value.request_id == services.asked("auth.create_agent")[0].id
        await asyncio.sleep(0.3)
    assert len(services.asked("auth.create_agent")) == 1


async def test_what_was_certainly_not_done_is_done_when_the_broker_is_back(broker, services, connect) -> None:
    services.on("auth.create_agent", lambda request: wardmesh.errors.InvalidRequest())
    async with connect() as mesh:
        broker.kill()
        await asyncio.sleep(0.1)
        call = asyncio.create_task(mesh.auth.create_agent(name="a"))
        await asyncio.sleep(0.4)
        assert not call.done()
        broker.start()
        with pytest.raises(wardmesh.errors.InvalidRequest):
            await call
    assert len(services.asked("auth.create_agent")) == 1


async def test_calls_wait_for_the_broker_up_to_their_deadline_only(broker, services, connect) -> None:
    async with connect() as mesh:
        broker.kill()
        started = time.monotonic()
        with pytest.raises(ServiceUnavailable) as caught:
            await mesh.within(timedelta(seconds=0.5)).auth.who_am_i()
        assert 0.2 < time.monotonic() - started < 2
        assert not caught.value.executed
        assert caught.value.request_id is not None


@pytest.mark.parametrize("line", [b"-ERR 'User Authentication Expired'\r\n", b"-ERR 'Stale Connection'\r\n", b""])
async def test_connections_that_nats_py_gives_up_for_good_are_replaced(wire, services, connect, line: bytes) -> None:
    services.on("auth.who_am_i", NOBODY)
    async with connect(wire.url) as mesh:
        for _ in range(3):
            await wire.say_and_cut(line)
            await mesh.auth.who_am_i()
    assert wire.connections == 4


async def test_the_connection_is_replaced_before_the_token_expires_and_nothing_is_lost(wire, services, connect) -> None:
    services.on("auth.who_am_i", NOBODY)
    services.on("auth.create_agent", None)  # lost if its connection goes before its answer
    services.token_seconds = 1
    async with connect(wire.url) as mesh:
        slow = asyncio.create_task(mesh.auth.create_agent(name="a"))
        until = time.monotonic() + 2.2
        while time.monotonic() < until:
            await mesh.auth.who_am_i()
            await asyncio.sleep(0.01)
        assert wire.connections >= 3
        assert not slow.done()
        request = services.asked("auth.create_agent")[0]
        info = contracts.auth.PrincipalInfo(
            id=AgentId.nil(), name="a", scope=OrgId.nil(), level="viewer", created_at="2026-01-01T00:00:00Z"
        )
        await services.publish(request.reply, info.model_dump_json().encode())
        assert await slow == info
    tokens = {request.headers["Authorization"] for request in services.asked("auth.who_am_i")}
    assert len(tokens) >= 3
    assert len(set(services.holder_keys)) == len(services.holder_keys)


async def test_what_replaces_a_connection_is_tried_until_it_stands(wire, services, connect) -> None:
    services.on("auth.who_am_i", NOBODY)
    services.token_seconds = 1
    async with connect(wire.url) as mesh:
        services.token_seconds = 600  # so there is one renewal, and nothing to try again for but itself
        wire.refusing = 3
        async with asyncio.timeout(10):
            while wire.connections < 5:
                await asyncio.sleep(0.02)
        await mesh.auth.who_am_i()
    assert wire.connections == 5


async def test_a_connection_is_replaced_also_if_a_call_was_quicker_to_renew_the_token(wire, services, connect) -> None:
    services.token_seconds = 1
    async with connect(wire.url) as mesh:
        services.token_seconds = 600
        answers = iter((TokenExpired(), NOBODY))
        services.on("auth.who_am_i", lambda _: next(answers))
        await mesh.auth.who_am_i()
        async with asyncio.timeout(10):
            while wire.connections < 2:
                await asyncio.sleep(0.02)
    assert len(services.asked("auth.exchange_key")) == 2


@pytest.mark.parametrize(("refusal", "renewals"), [(TokenExpired, 6), (TokenRevoked, 1)])
async def test_a_token_that_expired_on_the_way_is_renewed_and_a_revoked_one_once(
    mesh, services, refusal, renewals
) -> None:
    first = []

    def expired_at_first(request):
        first.append(request.headers["Authorization"])
        return refusal() if len(first) == 1 else NOBODY

    services.on("auth.who_am_i", expired_at_first)
    await mesh.auth.who_am_i()
    assert len(set(first)) == 2
    services.on("auth.who_am_i", refusal())
    with pytest.raises(refusal):
        await mesh.auth.who_am_i()
    assert len(services.asked("auth.exchange_key")) == 2 + renewals


async def test_callers_share_one_renewal(mesh, services) -> None:
    seen: set[str] = set()

    def first_token_is_expired(request):
        seen.add(request.headers["Authorization"])
        return TokenExpired() if request.headers["Authorization"] == old else NOBODY

    services.on("auth.who_am_i", NOBODY)
    await mesh.auth.who_am_i()
    old = services.asked("auth.who_am_i")[0].headers["Authorization"]
    services.on("auth.who_am_i", first_token_is_expired)
    await asyncio.gather(*(mesh.auth.who_am_i() for _ in range(20)))
    assert len(services.asked("auth.exchange_key")) == 2


async def test_no_broker_is_said_at_connect(connect, broker) -> None:
    broker.kill()
    with pytest.raises(ServiceUnavailable, match="No broker answers"):
        async with connect(timeout=timedelta(seconds=0.3)):
            pass


async def test_no_auth_service_is_said_at_connect(connect, broker) -> None:
    with pytest.raises(ServiceUnavailable):
        async with connect(timeout=timedelta(seconds=0.3)):
            pass


async def test_a_refused_credential_is_said_at_once(broker, identity) -> None:
    from_conftest = type(broker)
    guarded = from_conftest("--user", "somebody", "--pass", "else")
    guarded.start()
    try:
        started = time.monotonic()
        with pytest.raises(CredentialRefused):
            async with wardmesh.connect(guarded.url, identity.api_key):
                pass
        assert time.monotonic() - started < 3
    finally:
        guarded.kill()


@pytest.mark.parametrize("key", ["", "wmk_", "sk_live_1234", "wmk_" + "A" * 138])
async def test_what_cannot_be_a_key_never_leaves(key: str, monkeypatch) -> None:
    monkeypatch.delenv("WARDMESH_API_KEY", raising=False)
    with pytest.raises(CredentialRefused) as caught:
        wardmesh.connect("nats://127.0.0.1:1", key)
    assert "live" not in str(caught.value)


async def test_nobody_there_is_not_a_time_out(mesh, services) -> None:
    await services.stop()
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable) as caught:
        await mesh.call(
            contracts.auth.CREATE_AGENT, contracts.auth.CreateAgent(name="a"), deadline=timedelta(seconds=1)
        )
    assert not caught.value.executed
    assert time.monotonic() - started < 1.5


async def test_silence_ends_at_the_deadline(mesh, services) -> None:
    services.on("auth.create_agent", None)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.within(timedelta(seconds=0.4)).auth.create_agent(name="a")
    assert 0.3 < time.monotonic() - started < 1
    assert caught.value.executed
    assert len(services.asked("auth.create_agent")) == 1


async def test_a_safe_call_is_sent_again_when_its_service_died_with_it(mesh, services) -> None:
    answers = iter((None, NOBODY))
    services.on("auth.who_am_i", lambda _: next(answers))
    await mesh.within(timedelta(seconds=1)).auth.who_am_i()
    first, second = services.asked("auth.who_am_i")
    assert first.id == second.id
    assert int(first.headers["Deadline-Ms"]) > int(second.headers["Deadline-Ms"])


async def test_a_refused_reply_subject_fails_the_request_that_named_it(mesh, services) -> None:
    services.on("auth.who_am_i", None)
    calls = [asyncio.create_task(mesh.within(timedelta(seconds=2)).auth.who_am_i()) for _ in range(2)]
    while len(services.asked("auth.who_am_i")) < 2:
        await asyncio.sleep(0.01)
    refused, other = services.asked("auth.who_am_i")
    body = ReplySubjectRefused().to_problem(refused.id).model_dump_json().encode()
    await services.publish(refusal_inbox(mesh.principal), body)
    await services.publish(refusal_inbox(mesh.principal), b"not a problem")
    done, _ = await asyncio.wait(calls, timeout=0.5)
    assert [type(call.exception()) for call in done] == [ReplySubjectRefused]
    await services.publish(other.reply, NOBODY.model_dump_json().encode())
    assert NOBODY in await asyncio.gather(*calls, return_exceptions=True)


async def test_a_subject_that_the_broker_denies_is_an_error_at_once(tmp_path, broker, identity) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        f'authorization {{ users = [ {{ user: "{identity.workspace}", password: "{identity.api_key}", permissions: {{'
        f' publish: "rpc.auth.exchange_key.>", subscribe: "_INBOX.>" }} }}, {{ user: svc, password: svc }} ] }}'
    )
    guarded = type(broker)("-c", str(config))
    guarded.start()
    service = Client()
    await service.connect(guarded.url, user="svc", password="svc")
    try:
        await service.subscribe("rpc.>", cb=_refuse_to_exchange)
        with pytest.raises(CredentialRefused):
            async with wardmesh.connect(guarded.url, identity.api_key):
                pass
        token = _token(identity)
        config.write_text(config.read_text().replace(identity.api_key, token))
        guarded.kill()
        guarded.start()
        async with wardmesh.connect(guarded.url, token=token) as mesh:
            started = time.monotonic()
            with pytest.raises(PermissionDenied):
                await mesh.auth.who_am_i()
            assert time.monotonic() - started < 1
    finally:
        await service.close()
        guarded.kill()


async def _refuse_to_exchange(message) -> None:
    error = CredentialRefused()
    await message._client.publish(
        message.reply, error.to_problem().model_dump_json().encode(), headers={"Nats-Service-Error-Code": "401"}
    )


def _token(identity) -> str:
    now = int(time.time())
    claims = {
        "sub": identity.agent,
        "org": identity.organization,
        "ws": identity.workspace,
        "iat": now,
        "exp": now + 60,
    }
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.e30"


async def test_a_closed_mesh_says_so(connect, services) -> None:
    async with connect() as mesh:
        pass
    with pytest.raises(ServiceUnavailable, match="closed"):
        await asyncio.wait_for(mesh.auth.who_am_i(), 0.5)


async def test_leaving_does_not_wait_for_what_nobody_answers(connect, services) -> None:
    services.on("auth.create_agent", None)
    async with connect() as mesh:
        call = asyncio.create_task(mesh.auth.create_agent(name="a"))
        await asyncio.sleep(0.1)
    with pytest.raises(WardmeshError):
        await asyncio.wait_for(call, 2)


async def test_a_defect_in_opening_is_raised_and_not_waited_for(broker, services, connect, monkeypatch) -> None:
    async with connect() as mesh:

        async def broken(*_arguments, **_options) -> None:
            raise ImportError("no such transport")

        monkeypatch.setattr("wardmesh.client.link.Link.open", broken)
        broker.kill()
        await asyncio.sleep(0.1)
        with pytest.raises(ImportError):
            await asyncio.wait_for(mesh.auth.who_am_i(), 1)


async def test_what_was_emitted_and_acknowledged_is_there_after_kills(broker, services, connect) -> None:
    log: set[str] = set()

    def emit(request):
        ids = tuple(event["id"] for event in request.body["events"])
        log.update(ids)
        return contracts.audit.Emitted(ids=ids)

    services.on("audit.emit", emit)
    acknowledged: list[str] = []
    event = wardmesh.NewAuditEvent(category=wardmesh.Category.TOOL_CALL, action="tool.call")

    async def keep_emitting(mesh: wardmesh.Mesh) -> None:
        while not stop.is_set():
            acknowledged.append(await mesh.audit.emit(event))

    stop = asyncio.Event()
    async with connect() as mesh:
        workers = [asyncio.create_task(keep_emitting(mesh)) for _ in range(8)]
        for _ in range(2):
            before = len(acknowledged)
            while len(acknowledged) < before + 200:
                await asyncio.sleep(0.01)
            broker.kill()
            await asyncio.sleep(0.05)
            broker.start()
        stop.set()
        await asyncio.gather(*workers)
    assert set(acknowledged) <= log
    assert len(set(acknowledged)) == len(acknowledged)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_address_says_what_it_needs(connect, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py says it to nobody, and goes on as if no broker answered."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="aiohttp"):
        connect(f"{scheme}://127.0.0.1:1")
