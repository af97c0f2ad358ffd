"""What a client can reach at a real broker: its own requests and its own inbox, and nothing else."""

from __future__ import annotations

import pytest
from tests.broker.conftest import RunningBroker
from tests.broker.test_static_users import can_publish, can_subscribe

from wardmesh.ids import UserId, WorkspaceId
from wardmesh.server.broker import BUCKETS, STREAMS


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_client_reaches_no_stream(mesh_broker: RunningBroker, stream: str) -> None:
    caller = await mesh_broker.caller()
    publish = [
        f"$JS.API.STREAM.{verb}.{stream}"
        for verb in ("CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE")
    ]
    publish += [
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.tail",
        f"$JS.API.CONSUMER.CREATE.{stream}",
        f"$JS.ACK.{stream}.tail.1",
    ]
    publish += [f"$JS.API.DIRECT.GET.{stream}", f"$JS.FC.{stream}.x", "$JS.API.INFO", "$JS.API.STREAM.LIST"]
    publish += [f"{STREAMS[stream][0].removesuffix('>')}{caller.scope}.secrets", f"$KV.{next(iter(BUCKETS))}.x"]
    errors = caller.errors
    assert {subject for subject in publish if await can_publish(caller.connection, errors, subject)} == set()
    subscribe = [*STREAMS[stream], "$JS.>", "$JS.EVENT.>", "$KV.>"]
    assert {subject for subject in subscribe if await can_subscribe(caller.connection, errors, subject)} == set()


async def test_a_client_speaks_as_nobody_else(mesh_broker: RunningBroker) -> None:
    caller = await mesh_broker.caller()
    mine, other, elsewhere = caller.principal, UserId.new(), WorkspaceId.new()
    assert await can_publish(caller.connection, caller.errors, f"rpc.secrets.get.{caller.scope}.{mine}")
    foreign = [
        f"rpc.secrets.get.{caller.scope}.{other}",
        f"rpc.secrets.get.{elsewhere}.{mine}",
        f"rpc.secrets.get.{caller.scope}.{mine}.more",
        f"rpc.secrets.{caller.scope}.{mine}",
        *(f"_INBOX.{other}.x", f"_INBOX.{mine}.x", "_INBOX.secrets.x", f"_INBOX.{other}.gateway.1.2"),
        *("$SRV.PING", "$SRV.INFO.secrets", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SYS.REQ.USER.AUTH"),
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
    ]
    assert {subject for subject in foreign if await can_publish(caller.connection, caller.errors, subject)} == set()


async def test_a_client_hears_its_own_inbox_only(mesh_broker: RunningBroker) -> None:
    caller = await mesh_broker.caller()
    mine, other = caller.principal, UserId.new()
    assert await can_subscribe(caller.connection, caller.errors, f"_INBOX.{mine}.>")
    foreign = [
        *(f"_INBOX.{other}.>", "_INBOX.>", "_INBOX.*.>", "_INBOX.*.gateway.>", "_INBOX.secrets.>", f"_INBOX.{mine}"),
        *(
            f"rpc.*.*.{caller.scope}.{mine}",
            "rpc.>",
            "$SRV.>",
            "$SRV.PING",
            "$SYS.>",
            "$SYS._INBOX.>",
            ">",
            "*",
            "*.*.>",
        ),
    ]
    assert {subject for subject in foreign if await can_subscribe(caller.connection, caller.errors, subject)} == set()
