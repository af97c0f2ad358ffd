"""The auth callout on a real server, through the code that the auth service runs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path

import nats
import pytest
from nacl.public import Box, PrivateKey, PublicKey
from nats.errors import Error
from tests.broker.conftest import SILENCE_SECONDS, WAIT_SECONDS, RunningBroker, connect, credential, run_broker

from wardmesh.ids import OrgId, UserId, WorkspaceId
from wardmesh.server import nkey
from wardmesh.server.nkey import Kind
from wardmesh_auth.callout import SERVER_XKEY_HEADER, SUBJECT, CalloutError, read_request, unseal


async def test_a_client_with_a_credential_gets_in_and_is_answered(mesh_broker: RunningBroker) -> None:
    service = await mesh_broker.static("secrets")

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(message.subject.encode())

    await service.subscribe("rpc.secrets.*.*.*", cb=answer)
    await service.flush()
    caller = await mesh_broker.caller()
    subject = f"rpc.secrets.get.{caller.scope}.{caller.principal}"
    assert (await caller.connection.request(subject, b"")).data == subject.encode()
    assert caller.errors == []


@pytest.mark.parametrize("password", ["wrong", "raise"])
async def test_a_client_without_one_is_refused(mesh_broker: RunningBroker, password: str) -> None:
    with pytest.raises(Error, match="Authorization Violation"):
        await mesh_broker.caller(password=password)


async def test_a_credential_for_another_scope_is_refused(mesh_broker: RunningBroker) -> None:
    principal = UserId.new()
    with pytest.raises(Error, match="Authorization Violation"):
        await mesh_broker.caller(WorkspaceId.new(), principal, password=credential(WorkspaceId.new(), principal))


@pytest.mark.parametrize("scope", ["*", ">", "", "ws_*", "ws_01h455vb4pex5vsknk084sn02q.>"])
async def test_a_scope_that_is_no_id_is_refused_even_if_the_credential_names_it(
    mesh_broker: RunningBroker, scope: str
) -> None:
    principal = UserId.new()
    with pytest.raises(Error, match="Authorization Violation"):
        await mesh_broker.caller(scope, principal, password=f"open {scope} {principal}")  # type: ignore[arg-type]


async def test_the_reason_of_a_refusal_stays_in_the_brokers_log(mesh_broker: RunningBroker) -> None:
    with pytest.raises(Error) as refused:
        await mesh_broker.caller(password="wrong")
    assert "not a credential" not in str(refused.value)
    assert "not a credential" in mesh_broker.log()


async def ignore(_error: Exception) -> None:
    pass


async def test_a_client_without_credentials_is_asked_about_and_refused(mesh_broker: RunningBroker) -> None:
    asked = len(mesh_broker.asked)
    with pytest.raises(Error, match="Authorization Violation"):
        await connect(mesh_broker.url, allow_reconnect=False, error_cb=ignore)
    assert len(mesh_broker.asked) == asked + 1


async def test_the_websocket_listener_asks_too(mesh_broker: RunningBroker) -> None:
    """Spoken by hand: nats-py needs aiohttp for it, and nothing else here does."""
    scope, principal = OrgId.new(), UserId.new()
    port = mesh_broker.configs[0].websocket_port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    writer.write("\r\n".join([*lines, f"Sec-WebSocket-Key: {key}", "", ""]).encode())
    async with asyncio.timeout(WAIT_SECONDS):
        await reader.readuntil(b"\r\n\r\n")  # who says more before that is cut off
    options = {"user": str(scope), "pass": credential(scope, principal), "verbose": False, "protocol": 1}
    command = f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode()
    mask = b"\0\0\0\0"
    writer.write(bytes((0x82, 0x80 | 126)) + len(command).to_bytes(2, "big") + mask + command)
    async with asyncio.timeout(WAIT_SECONDS):
        await reader.readuntil(b"PONG\r\n")
    assert mesh_broker.asked[-1].password == options["pass"]
    writer.close()


async def test_the_question_cannot_be_read_without_the_curve_key(mesh_broker: RunningBroker) -> None:
    """A second user of the callout's account hears the bytes; only the configured key opens them."""
    listener = await mesh_broker.static("callout")
    subscription = await listener.subscribe(SUBJECT)
    await listener.flush()
    scope, principal = OrgId.new(), UserId.new()
    caller = await mesh_broker.caller(scope, principal)
    message = await subscription.next_msg(timeout=WAIT_SECONDS)
    await subscription.unsubscribe()

    assert message.data.startswith(b"xkv1")
    assert str(principal).encode() not in message.data
    with pytest.raises(CalloutError):
        read_request(message.data)
    server = PublicKey(nkey.decode(Kind.CURVE, message.headers[SERVER_XKEY_HEADER]))
    with pytest.raises(CalloutError):
        unseal(Box(PrivateKey.generate(), server), message.data)
    ours = PrivateKey(nkey.seed_bytes(Kind.CURVE, mesh_broker.identities.xkey_seed_file.read_text().strip()))
    question = unseal(Box(ours, server), message.data)
    assert read_request(question).password == credential(scope, principal)
    with pytest.raises(CalloutError):
        read_request(question[:-4] + b"AAAA")
    assert caller.connection.is_connected


async def test_an_expired_grant_is_disconnected(mesh_broker: RunningBroker) -> None:
    scope, principal = OrgId.new(), UserId.new()
    caller = await mesh_broker.caller(scope, principal, password=credential(scope, principal, seconds=1.5))
    async with asyncio.timeout(WAIT_SECONDS):
        await caller.closed.wait()


async def test_every_reconnect_asks_for_a_fresh_credential(mesh_broker: RunningBroker) -> None:
    """nats-py takes callables for `password`, and calls them at every connect."""
    scope, principal = OrgId.new(), UserId.new()
    given: list[str] = []

    def fresh() -> str:
        given.append(credential(scope, principal, seconds=60 + len(given)))
        return given[-1]

    caller = await mesh_broker.caller(scope, principal, password=fresh, attempts=5)
    began = time.monotonic()
    await caller.connection.force_reconnect()
    async with asyncio.timeout(WAIT_SECONDS):
        await caller.reconnected.wait()
    assert time.monotonic() - began < 1
    assert len(given) == 2
    assert [request.password for request in mesh_broker.asked[-2:]] == given


async def test_without_the_callout_clients_stay_out_and_the_meshs_own_users_get_in(tmp_path: Path) -> None:
    """The auth service could not come back otherwise."""
    async for lonely in run_broker(tmp_path, with_callout=False):
        assert (await lonely.static("auth")).is_connected
        with pytest.raises((Error, TimeoutError)):
            await lonely.caller()


async def test_nobody_can_ask_the_callout_in_the_brokers_name(mesh_broker: RunningBroker) -> None:
    before = len(mesh_broker.callout_errors)
    errors: list[Exception] = []
    intruder = await mesh_broker.static("callout", errors)
    # Not even the callout's own user may ask.
    await intruder.publish(SUBJECT, b"not sealed", reply="_INBOX.callout.x")
    await intruder.flush()
    await asyncio.sleep(SILENCE_SECONDS)
    assert any("permissions violation" in str(error).lower() for error in errors)
    assert len(mesh_broker.callout_errors) == before
