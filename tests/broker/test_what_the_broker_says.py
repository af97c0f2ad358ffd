"""What the broker sends in its own name, it sends wherever a service says: into no stream, and to no API.

Reply subjects are not checked against permissions, and the broker's acknowledgements, statuses, answers and deliveries
go to them without any check at all. In one account that is enough to delete a stream, to write into another's, and to
change one: the last test does so, on a broker whose streams are in the same account as the services.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.broker.conftest import SILENCE_SECONDS, WAIT_SECONDS, RunningBroker, run_broker

from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import UserId, WorkspaceId
from wardmesh.server.broker import ACCOUNT, PROVISIONER, STREAMS_ACCOUNT, stream_imports
from wardmesh.server.nkey import Kind, public_key
from wardmesh.server.streams import Choices, declared
from wardmesh.subjects import InvalidSubjectError, RpcSubject, is_reply_of
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import BrokerConfig

FORGED: Final = b'{"name": "forged"}'
NO_WAIT: Final = b'{"batch": 1, "no_wait": true}'
CONSUMER: Final = "reader"


async def event(service: Client, workspace: WorkspaceId) -> None:
    """A message of the service's own making, with headers as a request has them."""
    await service.jetstream().publish(f"evt.{workspace}.s.t", FORGED, headers={AUTHORIZATION: "Bearer stolen"})


async def consumer(service: Client, workspace: WorkspaceId) -> str:
    """A consumer of the service's own stream; returns the subject to pull from it."""
    config = {
        "durable_name": f"{CONSUMER}-{workspace}",
        "ack_policy": "explicit",
        "filter_subject": f"evt.{workspace}.>",
        "deliver_policy": "all",
        "replay_policy": "instant",
    }
    request = {"stream_name": "EVENTS", "config": config}
    subject = f"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.{config['durable_name']}"
    answer = json.loads((await service.request(subject, json.dumps(request).encode(), timeout=WAIT_SECONDS)).data)
    assert "error" not in answer
    return f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{config['durable_name']}"


async def acknowledge(service: Client, workspace: WorkspaceId, target: str) -> None:
    """The acknowledgement of a publish."""
    await service.publish(f"evt.{workspace}.s.t", b"", reply=target)


async def say_empty(service: Client, workspace: WorkspaceId, target: str) -> None:
    """The status of a pull that found nothing: headers, and no body at all."""
    await service.publish(await consumer(service, workspace), NO_WAIT, reply=target)


async def deliver(service: Client, workspace: WorkspaceId, target: str) -> None:
    """A message that was pulled: headers and body are the service's choice."""
    pull = await consumer(service, workspace)
    await event(service, workspace)
    await service.publish(pull, NO_WAIT, reply=target)


async def deliver_later(service: Client, workspace: WorkspaceId, target: str) -> None:
    """The same to a poll that waits, and then the status that ends it."""
    pull = await consumer(service, workspace)
    poll = {"batch": 2, "expires": 300_000_000, "idle_heartbeat": 100_000_000}
    await service.publish(pull, json.dumps(poll).encode(), reply=target)
    await service.flush()
    await event(service, workspace)
    await asyncio.sleep(0.4)


async def answer_from_the_api(service: Client, workspace: WorkspaceId, target: str) -> None:
    """Answers of the JetStream API, which quote names of the service's choosing."""
    await consumer(service, workspace)
    await service.publish(f"$JS.API.CONSUMER.INFO.EVENTS.{CONSUMER}-{workspace}", b"", reply=target)
    await service.publish("$JS.API.STREAM.INFO.EVENTS", b"", reply=target)
    await service.publish("$JS.API.CONSUMER.NAMES.EVENTS", b"", reply=target)


async def answer_with_a_message(service: Client, workspace: WorkspaceId, target: str) -> None:
    """A stored message, asked for by itself."""
    await event(service, workspace)
    question = json.dumps({"last_by_subj": f"evt.{workspace}.s.t"}).encode()
    await service.publish("$JS.API.STREAM.MSG.GET.EVENTS", question, reply=target)


async def confirm(service: Client, workspace: WorkspaceId, target: str) -> None:
    """The broker's confirmation of an acknowledgement."""
    await event(service, workspace)
    pull = await consumer(service, workspace)
    inbox = service.new_inbox()
    subscription = await service.subscribe(inbox)
    await service.publish(pull, NO_WAIT, reply=inbox)
    message = await subscription.next_msg(timeout=WAIT_SECONDS)
    await service.publish(message.reply, b"+ACK", reply=target)


async def push(service: Client, workspace: WorkspaceId, target: str) -> None:
    """A consumer that pushes, with heartbeats, to where its maker says."""
    await event(service, workspace)
    config = {
        "name": f"push-{UserId.new()}",
        "deliver_subject": target,
        "ack_policy": "none",
        "idle_heartbeat": 100_000_000,
        "filter_subject": f"evt.{workspace}.>",
        "deliver_policy": "all",
        "replay_policy": "instant",
    }
    subject = f"$JS.API.CONSUMER.CREATE.EVENTS.{config['name']}.{config['filter_subject']}"
    request = {"stream_name": "EVENTS", "config": config, "action": "create"}
    await service.request(subject, json.dumps(request).encode(), timeout=WAIT_SECONDS)
    await asyncio.sleep(0.3)


Way = Callable[[Client, WorkspaceId, str], Awaitable[None]]
WAYS: Final[tuple[Way, ...]] = (
    acknowledge, say_empty, deliver, deliver_later, answer_from_the_api, answer_with_a_message, confirm, push,
)  # fmt: skip
API: Final = (
    *(f"$JS.API.STREAM.{verb}.AUDIT" for verb in ("DELETE", "PURGE", "UPDATE", "MSG.DELETE", "SNAPSHOT")),
    *("$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.STREAM.DELETE.KV_jwks", "$JS.API.STREAM.CREATE.forged"),
    *("$JS.API.CONSUMER.DELETE.AUDIT.sealer", "$JS.API.CONSUMER.PAUSE.AUDIT.sealer"),
    *("$JS.API.CONSUMER.MSG.NEXT.AUDIT.sealer", "$JS.API.CONSUMER.CREATE.AUDIT.forged"),
)
CAPTURED: Final = (
    *("$KV.jwks.kept", "$KV.jwks.forged", "$KV.revocations.kept", "$KV.checkpoints.forged"),
    *("audit.{workspace}.secrets", "sealed.{workspace}", "evt.{workspace}.forged.t", "dead.audit.{workspace}"),
    *("bridge.{workspace}.{workspace}.t", "inbox.{workspace}.{workspace}.t"),
)


async def streams(running: RunningBroker) -> dict[str, tuple[object, int]]:
    """Every stream of the mesh: how it is configured, and its last sequence number. EVENTS takes what attacks make."""
    js = (await running.static(PROVISIONER)).jetstream(timeout=WAIT_SECONDS)
    found: dict[str, tuple[object, int]] = {}
    for name in declared(Choices()):
        try:
            info = await js.stream_info(name)
        except nats.js.errors.NotFoundError:
            continue
        found[name] = (info.config.as_dict(), 0 if name == "EVENTS" else info.state.last_seq)
    return found


@pytest.fixture
async def kept(mesh_broker: RunningBroker) -> AsyncIterator[RunningBroker]:
    """Something in the buckets, and a consumer of AUDIT, to be lost."""
    js = (await mesh_broker.static("auth")).jetstream(timeout=WAIT_SECONDS)
    for bucket in ("jwks", "revocations"):
        await (await js.key_value(bucket)).put("kept", b"1")
    audit = (await mesh_broker.static("audit")).jetstream(timeout=WAIT_SECONDS)
    subscription = await audit.pull_subscribe(f"audit.{WorkspaceId.new()}.*", durable="sealer", stream="AUDIT")
    yield mesh_broker
    assert (await subscription.consumer_info()).name == "sealer"


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_no_request_to_jetstream_and_no_stream_takes_it(kept: RunningBroker, way: Way) -> None:
    errors: list[Exception] = []
    service = await kept.static("webhooks", errors)
    before = await streams(kept)
    assert set(before) == set(declared(Choices()))
    targets = [(workspace := WorkspaceId.new(), target.format(workspace=workspace)) for target in (*API, *CAPTURED)]
    await asyncio.gather(*[way(service, workspace, target) for workspace, target in targets])
    await service.flush()
    await asyncio.sleep(SILENCE_SECONDS)
    assert await streams(kept) == before
    assert errors == [], "nothing that was asked of the broker was refused: the way is open to services"
    forged = await own_events(service, "forged")
    assert forged == 0, "a message on a subject that the service did not publish on itself"


async def own_events(service: Client, source: str) -> int:
    js = service.jetstream(timeout=WAIT_SECONDS)
    try:
        await js.get_msg("EVENTS", 1, subject=f"evt.*.{source}.>", next=True)
    except nats.js.errors.NotFoundError:
        return 0
    return 1


@pytest.mark.parametrize("way", WAYS)
async def test_as_a_request_it_passes_no_gate(mesh_broker: RunningBroker, way: Way) -> None:
    """It can be heard as one; but either its subject is not a request's, or it names no inbox of the caller's."""
    service, victim = await mesh_broker.static("webhooks"), await mesh_broker.static("secrets")
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    await victim.subscribe("rpc.secrets.*.*.*", cb=hear)
    await victim.flush()
    workspace, user = WorkspaceId.new(), UserId.new()
    await way(service, workspace, f"rpc.secrets.get.{workspace}.{user}")
    await service.flush()
    await asyncio.sleep(SILENCE_SECONDS)
    assert heard or way is push, "the test has lost its attack"
    for message in heard:
        try:
            RpcSubject.parse(message.subject)
        except InvalidSubjectError:
            continue
        assert not is_reply_of(user, message.reply)
        assert AUTHORIZATION not in (message.headers or {})


def test_nothing_is_imported_that_changes_a_stream_or_reads_a_message_as_it_is() -> None:
    everything = stream_imports()
    verbs = ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER", "PEER", "LIST")
    refused = [f"$JS.API.STREAM.{verb}" for verb in verbs]
    refused += ["$JS.API.DIRECT.GET", "$JS.API.CONSUMER.DELETE", "$JS.API.CONSUMER.PAUSE", "$JS.API.META"]
    for subject in (*everything.requests, *everything.polls, *everything.deliveries):
        assert not any(subject.startswith(f"{prefix}.") or subject == prefix for prefix in refused), subject
        assert subject.split(".")[0] not in ("*", ">"), subject
        assert "*" in subject or ">" in subject or subject == "$JS.API.INFO", "see stream_imports"
        assert not subject.startswith(("$JS.>", "$JS.*", "$JS.API.>", "$JS.API.*", "rpc.", "_INBOX.>", "_INBOX.*"))


def one_account(config: BrokerConfig) -> str:
    """The same broker, with its streams where the services are: what was proven to be open."""
    document = json.loads(broker.render(config))
    app, apart = document["accounts"][ACCOUNT], document["accounts"].pop(STREAMS_ACCOUNT)
    del app["imports"]
    document["accounts"][ACCOUNT] = {"jetstream": "enabled", "users": [*app["users"], *apart["users"]]}
    return json.dumps(document)


async def test_in_one_account_it_would_delete_a_stream_and_overwrite_a_key(tmp_path: Path) -> None:
    """Shows that the attacks above are attacks."""
    async for running in run_broker(tmp_path, with_callout=False, streams=Choices(), render=one_account):
        service = await running.static("webhooks")
        before = await streams(running)
        await acknowledge(service, WorkspaceId.new(), "$KV.jwks.forged")
        await say_empty(service, WorkspaceId.new(), "$JS.API.STREAM.DELETE.AUDIT")
        await service.flush()
        await asyncio.sleep(SILENCE_SECONDS)
        after = await streams(running)
        assert set(before) - set(after) == {"AUDIT"}
        assert after["KV_jwks"][1] == before["KV_jwks"][1] + 1


async def test_the_static_users_of_both_accounts_are_known(mesh_broker: RunningBroker) -> None:
    document = json.loads(broker.render(mesh_broker.configs[0]))
    users = {name: {user["nkey"] for user in account["users"]} for name, account in document["accounts"].items()}
    assert users[STREAMS_ACCOUNT] == {public_key(Kind.USER, mesh_broker.seed(PROVISIONER))}
    assert "jetstream" not in document["accounts"][ACCOUNT]
    assert not users[ACCOUNT] & users[STREAMS_ACCOUNT]
