"""What the mesh's own users can do at a real broker, and what they can't."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.micro import add_service
from nats.micro.service import EndpointConfig, ServiceConfig
from tests.broker.conftest import SILENCE_SECONDS, WAIT_SECONDS, RunningBroker

from wardmesh.ids import UserId, WorkspaceId
from wardmesh.server.broker import (
    BUCKETS,
    GATEWAY,
    OPERATOR,
    OWNED_STREAMS,
    PRIVATE_BUCKETS,
    PROVISIONER,
    STREAMS,
    inbox_prefix,
)  # fmt: skip
from wardmesh.subjects import SERVICES

STREAM_PAIRS = [(service, stream) for service in SERVICES for stream in STREAMS]


async def refused(connection: Client, errors: list[Exception]) -> bool:
    """Tell whether the broker has complained about what was just sent."""
    await connection.flush()
    await asyncio.sleep(0.02)
    found = any("permissions violation" in str(error).lower() for error in errors)
    errors.clear()
    return found


async def can_publish(connection: Client, errors: list[Exception], subject: str) -> bool:
    await connection.publish(subject, b"{}")
    return not await refused(connection, errors)


async def can_subscribe(connection: Client, errors: list[Exception], subject: str) -> bool:
    subscription = await connection.subscribe(subject)
    allowed = not await refused(connection, errors)
    await subscription.unsubscribe()
    return allowed


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_hears_itself_only(mesh_broker: RunningBroker, service: str) -> None:
    errors: list[Exception] = []
    connection = await mesh_broker.static(service, errors)
    own = [f"rpc.{service}.*.*.*", f"_INBOX.{service}.>", "$SRV.PING", f"$SRV.STATS.{service}.abc"]
    others = [each for each in (*SERVICES, GATEWAY, OPERATOR) if each != service]
    foreign = [
        *(f"rpc.{other}.*.*.*" for other in others),
        *(f"_INBOX.{other}.>" for other in others),
        *("rpc.>", "rpc.*.*.*.*", "_INBOX.>", ">", "*.>", "$SYS.>", "$JS.>", "$SRV.>", "$KV.>"),
        *("evt.>", "audit.>", "bridge.>", "inbox.>", f"_INBOX.{UserId.new()}.>"),
        # Audit may say `>` where it is allowed `*`: the server takes it for one word, and nobody publishes deeper.
        *("sealed.>",) * (service != "audit"),
    ]
    assert {subject for subject in own if not await can_subscribe(connection, errors, subject)} == set()
    assert {subject for subject in foreign if await can_subscribe(connection, errors, subject)} == set()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_speaks_as_nobody_else(mesh_broker: RunningBroker, service: str) -> None:
    errors: list[Exception] = []
    connection = await mesh_broker.static(service, errors)
    workspace, user = WorkspaceId.new(), UserId.new()
    own = [f"_INBOX.{user}.abc", f"_INBOX.{user}.gateway.1.2", f"_INBOX.{OPERATOR}.abc"]
    others = [each for each in SERVICES if each != service]
    foreign = [
        *(f"rpc.{each}.get.{workspace}.{user}" for each in SERVICES),
        *(f"_INBOX.{other}.abc" for other in others),
        *(f"audit.{workspace}.{other}" for other in (*others, "anything")),
        *("$SYS.REQ.SERVER.PING", "$SRV.PING", "$JS.API.STREAM.DELETE.AUDIT", "$JS.API.STREAM.PURGE.EVENTS"),
        *("$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.MSG.DELETE.AUDIT"),
        *(f"$KV.{bucket}.x" for bucket, owner in {**BUCKETS, **PRIVATE_BUCKETS}.items() if owner != service),
        *(f"$JS.API.DIRECT.GET.KV_{bucket}" for bucket, owner in PRIVATE_BUCKETS.items() if owner != service),
        *(f"evt.{workspace}.s.t",) * (service != "webhooks"),
        *(f"sealed.{workspace}",) * (service != "audit"),
        *(f"bridge.{workspace}.{workspace}.t", f"inbox.{workspace}.{workspace}.t") * (service != "bridge"),
    ]
    assert {subject for subject in own if not await can_publish(connection, errors, subject)} == set()
    assert {subject for subject in foreign if await can_publish(connection, errors, subject)} == set()


@pytest.mark.parametrize(("service", "stream"), STREAM_PAIRS)
async def test_a_service_reads_its_own_streams_only_and_declares_none(
    mesh_broker: RunningBroker, service: str, stream: str
) -> None:
    errors: list[Exception] = []
    js = (connection := await mesh_broker.static(service, errors)).jetstream(timeout=0.5)
    mine = STREAMS[stream][0].replace(">", f"{WorkspaceId.new()}.>")
    consumer = ConsumerConfig(durable_name="thief", filter_subject=mine, ack_policy=AckPolicy.EXPLICIT)
    reads = (
        lambda: js.stream_info(stream),
        lambda: js.add_consumer(stream, consumer),
        lambda: js.add_consumer(stream, replace(consumer, name="thief")),
        lambda: js.consumer_info(stream, "thief"),
    )
    changes = (
        js.add_stream(StreamConfig(name=stream, subjects=list(STREAMS[stream]))),
        js.update_stream(StreamConfig(name=stream, subjects=[*STREAMS[stream], "rpc.>"])),
        js.get_msg(stream, 1, direct=True),
        js.delete_msg(stream, 1),
        js.delete_consumer(stream, "thief"),
        js.delete_stream(stream),
        js.purge_stream(stream),
        # One without a name is pushed to where its maker says.
        js.add_consumer(stream, ConsumerConfig(filter_subject=mine, deliver_subject=f"rpc.auth.x.{UserId.new()}.y")),
    )
    if stream in OWNED_STREAMS[service]:
        for read in reads:
            await read()
        assert not await refused(connection, errors)
        attempts = list(changes)
    else:
        attempts = [*changes, *(read() for read in reads), js.get_msg(stream, 1)]
    # The broker drops what it refuses, so each waits in vain; together, they wait once.
    results = await asyncio.gather(*[asyncio.wait_for(each, 0.5) for each in attempts], return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, TimeoutError)] == []
    await connection.flush()
    assert sum("permissions violation" in str(error).lower() for error in errors) == len(attempts)


async def test_the_provisioner_declares_and_reads_nothing(mesh_broker: RunningBroker) -> None:
    errors: list[Exception] = []
    connection = await mesh_broker.static(PROVISIONER, errors)
    js = connection.jetstream(timeout=WAIT_SECONDS)
    for stream in STREAMS:
        assert (await js.stream_info(stream)).config.subjects == list(STREAMS[stream])
    workspace = WorkspaceId.new()
    for subject in (
        *(f"$JS.API.STREAM.{verb}.AUDIT" for verb in ("DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT")),
        *("$JS.API.DIRECT.GET.AUDIT", "$JS.API.CONSUMER.CREATE.AUDIT", "$JS.API.CONSUMER.MSG.NEXT.AUDIT.sealer"),
        *("$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.UPDATE.MINE", "$JS.API.STREAM.LIST"),
        *(f"audit.{workspace}.auth", f"evt.{workspace}.a.b", "$KV.jwks.x", f"_INBOX.{UserId.new()}.x", "_INBOX.auth.x"),
    ):
        assert not await can_publish(connection, errors, subject), subject
    for subject in ("audit.>", "evt.>", "$KV.>", "_INBOX.>", "$JS.>", "rpc.>", ">"):
        assert not await can_subscribe(connection, errors, subject), subject


async def test_what_a_service_publishes_its_reader_consumes_and_acknowledges(mesh_broker: RunningBroker) -> None:
    audit = (await mesh_broker.static("audit")).jetstream(timeout=WAIT_SECONDS)
    workspace = WorkspaceId.new()
    for service in SERVICES:
        js = (await mesh_broker.static(service)).jetstream(timeout=WAIT_SECONDS)
        assert (await js.publish(f"audit.{workspace}.{service}", service.encode())).stream == "AUDIT"
    subscription = await audit.pull_subscribe(f"audit.{workspace}.*", durable="seal", stream="AUDIT")
    messages = await subscription.fetch(len(SERVICES), timeout=WAIT_SECONDS)
    assert sorted(message.data.decode() for message in messages) == sorted(SERVICES)
    for message in messages:
        await message.ack_sync(timeout=WAIT_SECONDS)
    assert (await audit.consumer_info("AUDIT", "seal")).num_ack_pending == 0


async def test_every_service_watches_the_buckets_and_only_their_owner_writes(mesh_broker: RunningBroker) -> None:
    owner = (await mesh_broker.static("auth")).jetstream(timeout=WAIT_SECONDS)
    for bucket in BUCKETS:
        writing = await owner.key_value(bucket)
        await writing.put("first", b"1")
        for service in SERVICES:
            errors: list[Exception] = []
            connection = await mesh_broker.static(service, errors)
            reading = await connection.jetstream(timeout=WAIT_SECONDS).key_value(bucket)
            watcher = await reading.watchall()
            async with asyncio.timeout(WAIT_SECONDS):
                entry = await watcher.updates()
                assert entry is not None
                assert entry.key == "first"
            await writing.put(f"then.{service}", b"2")
            async with asyncio.timeout(WAIT_SECONDS):
                while (entry := await watcher.updates()) is None or entry.key != f"then.{service}":
                    pass
            await watcher.stop()
            assert not await refused(connection, errors)
            if service != "auth":
                assert not await can_publish(connection, errors, f"$KV.{bucket}.first")
                assert not await can_publish(connection, errors, f"$JS.API.STREAM.MSG.GET.KV_{bucket}")
        assert (await writing.get("first")).value == b"1"
        with pytest.raises(nats.js.errors.APIError):
            await writing.purge("first")
        assert (await writing.get("first")).value == b"1"


@pytest.mark.parametrize("service", SERVICES)
async def test_nats_micro_works_and_the_operator_sees_it(mesh_broker: RunningBroker, service: str) -> None:
    errors: list[Exception] = []
    connection = await mesh_broker.static(service, errors)

    async def echo(request: Any) -> None:
        await request.respond(request.data)

    running = await add_service(connection, ServiceConfig(name=service, version="0.1.0"))
    await running.add_endpoint(EndpointConfig(name="get", subject=f"rpc.{service}.get.*.*", handler=echo))
    await connection.flush()
    assert not await refused(connection, errors)

    operator_errors: list[Exception] = []
    operator = await mesh_broker.static(OPERATOR, operator_errors)
    for verb, key in (("PING", "id"), ("INFO", "endpoints"), ("STATS", "endpoints")):
        answer = json.loads((await operator.request(f"$SRV.{verb}.{service}", b"", timeout=WAIT_SECONDS)).data)
        assert answer["name"] == service
        assert answer[key]
    assert not await refused(operator, operator_errors)

    caller = await mesh_broker.caller()
    subject = f"rpc.{service}.get.{caller.scope}.{caller.principal}"
    assert (await caller.connection.request(subject, b"hello")).data == b"hello"
    await running.stop()


async def test_the_operator_can_only_ask_how_services_are(mesh_broker: RunningBroker) -> None:
    errors: list[Exception] = []
    operator = await mesh_broker.static(OPERATOR, errors)
    workspace, user = WorkspaceId.new(), UserId.new()
    for subject in (f"rpc.auth.x.{workspace}.{user}", "$JS.API.INFO", f"audit.{workspace}.audit", "_INBOX.auth.x"):
        assert not await can_publish(operator, errors, subject)
    for subject in ("rpc.>", "_INBOX.>", "$SRV.>", "evt.>", ">"):
        assert not await can_subscribe(operator, errors, subject)


async def test_the_gateway_speaks_for_callers_and_hears_their_answers_only(mesh_broker: RunningBroker) -> None:
    errors: list[Exception] = []
    gateway = await mesh_broker.static(GATEWAY, errors)
    service = await mesh_broker.static("secrets")

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(b"answer")

    await service.subscribe("rpc.secrets.*.*.*", queue="gateway-test", cb=answer)
    await service.flush()
    workspace, user = WorkspaceId.new(), UserId.new()
    subscription = await gateway.subscribe("_INBOX.*.gateway.one.>")
    await gateway.publish(f"rpc.secrets.get.{workspace}.{user}", b"", reply=f"_INBOX.{user}.gateway.one.n1")
    assert (await subscription.next_msg(timeout=WAIT_SECONDS)).data == b"answer"
    assert not await refused(gateway, errors)
    for subject in ("_INBOX.>", f"_INBOX.{user}.>", "rpc.>", "evt.>", "_INBOX.*.>"):
        assert not await can_subscribe(gateway, errors, subject)
    for subject in (f"_INBOX.{user}.x", "$JS.API.INFO", "$KV.jwks.x", f"audit.{workspace}.auth", "$SRV.PING"):
        assert not await can_publish(gateway, errors, subject)


async def test_the_system_user_finds_and_kicks_and_no_more(mesh_broker: RunningBroker) -> None:
    errors: list[Exception] = []
    system = await mesh_broker.static("system", errors)
    server = json.loads((await system.request("$SYS.REQ.SERVER.PING.CONNZ", b"{}")).data)["server"]["id"]
    for subject in (f"$SYS.REQ.SERVER.{server}.RELOAD", f"$SYS.REQ.SERVER.{server}.LDM", "$SYS.REQ.ACCOUNT.APP.JSZ"):
        assert not await can_publish(system, errors, subject)
    for subject in ("$SYS.>", ">", "$SYS.ACCOUNT.APP.>", f"{inbox_prefix('auth')}.>"):
        assert not await can_subscribe(system, errors, subject)


async def test_a_stream_cannot_be_stretched_over_other_peoples_requests(mesh_broker: RunningBroker) -> None:
    """A stream is a subscription by another name: who reads one must not choose what it takes."""
    errors: list[Exception] = []
    js = (connection := await mesh_broker.static("webhooks", errors)).jetstream(timeout=0.5)
    for change in (js.update_stream, js.add_stream):
        with pytest.raises(TimeoutError):
            await change(StreamConfig(name="EVENTS", subjects=["evt.>", "rpc.secrets.>"]))
        assert await refused(connection, errors)
    caller = await mesh_broker.caller()
    subject = f"rpc.secrets.put.{caller.scope}.{caller.principal}"
    await caller.connection.publish(subject, b"token", headers={"Authorization": "canary"})
    await caller.connection.flush()
    await asyncio.sleep(SILENCE_SECONDS)
    with pytest.raises(nats.js.errors.NotFoundError):
        await js.get_last_msg("EVENTS", subject)
    assert (await js.stream_info("EVENTS")).config.subjects == ["evt.>"]
