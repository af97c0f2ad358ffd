"""The gates, on a real broker: every request is answered, in order, only to who asked, and never unrecorded."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
import pytest
from libs.common.tests.server.gated import (
    AGENT,
    ORG,
    SECRET,
    WORKSPACE,
    FakeAuthenticator,
    FakeRecorder,
    Mesh,
    code,
)
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.contracts import audit, secrets
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Durability, Empty
from wardmesh.errors import AuditUnavailable, Conflict, ServiceUnavailable
from wardmesh.ids import AgentId, RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.micro import MicroService
from wardmesh.server.operations import HANDED_ON, Operations
from wardmesh.server.ratelimit import Rate, RateLimiter


@pytest.fixture
async def mesh(nats_client: Client) -> AsyncIterator[Mesh]:
    mesh = Mesh(nats_client)
    yield mesh
    await mesh.operations.stop()


async def test_a_request_is_answered_and_recorded(mesh: Mesh) -> None:
    await mesh.start()
    answer = await mesh.ask(b'{"prefix":"openai/"}')
    assert code(answer) is None
    [(scope, event)] = mesh.recorder.events
    assert (scope, event.actor, event.action, event.outcome) == (WORKSPACE, AGENT, "secret.list", Outcome.SUCCESS)
    assert event.targets == ("openai/",)
    AuditEvent.model_validate_json(event.model_dump_json())  # made without validation, and valid


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Authorization": ""}, "token_missing"),
        ({"Authorization": "Basic abc"}, "token_invalid"),
        ({"Authorization": "Bearer stale"}, "token_expired"),
        ({"scope": WorkspaceId.new()}, "scope_mismatch"),
        ({"scope": ORG}, "scope_mismatch"),
        ({"principal": UserId.new()}, "scope_mismatch"),
        ({"operation": "no_such"}, "unknown_operation"),
        ({"operation": "LIST"}, "unknown_operation"),
        ({"operation": "liste\u0301"}, "unknown_operation"),
        ({"body": b"{"}, "malformed_json"),
        ({"body": b"\xff\xfe"}, "malformed_json"),
        ({"body": b"[]"}, "invalid_request"),
        ({"body": b'{"limit": 0}'}, "invalid_request"),
        ({"body": b'{"surprise": 1}'}, "invalid_request"),
        ({"body": b'{"prefix": "' + b"x" * 70_000 + b'"}'}, "body_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_each_refusal_has_its_own_code_and_is_recorded(
    mesh: Mesh, changes: dict[str, Any], expected: str
) -> None:
    await mesh.start()
    body = changes.pop("body", b"{}")
    assert code(await mesh.ask(body, **changes)) == expected
    assert mesh.outcomes() == [(Outcome.REFUSED, expected)]
    assert not mesh.seen


async def test_a_missing_permission_is_refused_before_the_body_is_read(mesh: Mesh) -> None:
    await mesh.start(dataclasses.replace(secrets.LIST, access=secrets.GRANT.access))
    assert code(await mesh.ask(b"{")) == "permission_denied"
    assert mesh.outcomes() == [(Outcome.REFUSED, "permission_denied")]


@pytest.mark.parametrize("reply", ["audit.{ws}.secrets", "_INBOX.{other}.x", "$JS.API.STREAM.NAMES", "_INBOX.{me}"])
async def test_nothing_lands_on_a_foreign_reply_subject(mesh: Mesh, reply: str) -> None:
    await mesh.start()
    foreign = reply.format(ws=WORKSPACE, other=AgentId.new(), me=AGENT)
    overheard = await mesh.client.subscribe(foreign)
    answer = await mesh.ask(b"{}", reply=foreign, listen=f"_INBOX.{AGENT}.refused")
    assert code(answer) == "reply_subject_refused"
    assert mesh.outcomes() == [(Outcome.REFUSED, "reply_subject_refused")]
    with pytest.raises(nats.errors.TimeoutError):
        # The request's own copy is not there either: it went to rpc.…, with this as its reply.
        await overheard.next_msg(timeout=0.2)
    assert not mesh.seen


async def test_an_error_of_the_handler_reaches_the_caller(mesh: Mesh) -> None:
    async def handler(_call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        raise Conflict("It is there already.")

    mesh.handler = handler
    await mesh.start()
    assert code(await mesh.ask()) == "conflict"


async def test_a_defect_shows_nothing_of_itself(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(_call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        raise RuntimeError(SECRET)

    mesh.handler = handler
    await mesh.start()
    answer = await mesh.ask()
    assert code(answer) == "internal_error"
    assert SECRET not in answer.data.decode() + caplog.text + repr(mesh.recorder.events)
    assert "RuntimeError" in repr([vars(record) for record in caplog.records])
    assert mesh.outcomes() == [(Outcome.FAILED, "internal_error")]


async def test_a_handler_that_takes_too_long_is_ended_at_the_callers_deadline(mesh: Mesh) -> None:
    async def handler(call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        assert call.seconds_left() <= 0.05
        await asyncio.sleep(60)
        raise AssertionError

    mesh.handler = handler
    await mesh.start()
    assert code(await mesh.ask(**{"Deadline-Ms": "50"})) == "deadline_exceeded"


async def test_a_gate_that_errs_refuses(mesh: Mesh) -> None:
    await mesh.start()
    mesh.authenticator.failure = ServiceUnavailable()
    assert code(await mesh.ask()) == "service_unavailable"
    mesh.authenticator.failure = ZeroDivisionError()
    assert code(await mesh.ask()) == "internal_error"
    assert not mesh.seen


async def test_what_must_be_recorded_is_not_answered_unrecorded(mesh: Mesh) -> None:
    rule = dataclasses.replace(secrets.LIST.audit, durability=Durability.BEFORE_ANSWER)
    await mesh.start(dataclasses.replace(secrets.LIST, audit=rule))
    mesh.recorder.failure = AuditUnavailable()
    answer = await mesh.ask()
    assert code(answer) == "audit_unavailable"
    assert b"secrets" not in answer.data


async def test_a_refusal_is_answered_even_if_it_cannot_be_recorded(mesh: Mesh) -> None:
    await mesh.start()
    mesh.recorder.failure = AuditUnavailable()
    assert code(await mesh.ask(b"{")) == "malformed_json"


async def test_one_more_than_is_in_hand_is_refused_at_once(mesh: Mesh) -> None:
    release = asyncio.Event()

    async def handler(_call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        await release.wait()
        return secrets.Secrets(secrets=())

    mesh.handler = handler
    await mesh.start()
    asked = [asyncio.create_task(mesh.ask(reply=f"_INBOX.{AGENT}.{number}")) for number in range(4)]
    while len(mesh.seen) < 4:
        await asyncio.sleep(0.01)
    assert code(await mesh.ask()) == "overloaded"
    release.set()
    assert [code(answer) for answer in await asyncio.gather(*asked)] == [None] * 4


async def test_answers_leave_while_requests_that_came_with_them_are_not_begun_yet(nats_client: Client) -> None:
    # A burst arrives in one read. If all of it were in hand before the first answer left, whoever asked would wait for
    # the whole burst, and their work and ours would take turns.
    mesh = Mesh(nats_client)
    mesh.operations = Operations("secrets", mesh.authenticator, mesh.recorder)
    await mesh.start()
    subject, reply = f"rpc.secrets.list.{WORKSPACE}.{AGENT}", f"_INBOX.{AGENT}.x.1"
    burst = [Msg(nats_client, subject, reply, b"{}", {"Authorization": "Bearer good"}) for _ in range(8 * HANDED_ON)]
    turns: list[int] = []

    async def look() -> None:
        while len(mesh.seen) < len(burst):
            turns.append(len(mesh.operations._tasks))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    for message in burst:
        await mesh.operations._receive(message)
    await looking
    await mesh.operations.stop()
    assert max(turns) <= 2 * HANDED_ON


async def test_stopping_finishes_what_is_in_hand(mesh: Mesh) -> None:
    async def handler(_call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        await asyncio.sleep(0.1)
        return secrets.Secrets(secrets=())

    mesh.handler = handler
    await mesh.start()
    asked = asyncio.create_task(mesh.ask())
    while not mesh.seen:
        await asyncio.sleep(0.01)
    await mesh.operations.stop()
    assert code(await asked) is None


async def test_what_is_answered_to_nobody_is_handed_back(mesh: Mesh, nats_client: Client) -> None:
    handed_back: list[RequestId] = []

    async def take(call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        async def hand_back() -> None:
            handed_back.append(call.request_id)

        call.hand_back = hand_back
        return secrets.Secrets(secrets=())

    mesh.handler = take
    await mesh.start()
    taken = await mesh.ask()
    assert code(taken) is None
    assert handed_back == []
    # The same again, from somebody who does not listen any more.
    headers = {"Authorization": "Bearer good", "Request-Id": str(RequestId.new())}
    await nats_client.publish(
        f"rpc.secrets.list.{WORKSPACE}.{AGENT}", b"{}", reply=f"_INBOX.{AGENT}.gone", headers=headers
    )
    async with asyncio.timeout(2):
        while not handed_back:
            await asyncio.sleep(0.01)
    assert handed_back == [headers["Request-Id"]]
    await mesh.ask()
    await asyncio.sleep(0.1)
    assert len(handed_back) == 1, "an answer that was taken is not handed back"


async def test_a_principal_has_its_share_and_no_more(nats_client: Client) -> None:
    mesh = Mesh(nats_client)
    mesh.operations = Operations(
        "secrets", mesh.authenticator, mesh.recorder, limiter=RateLimiter(Rate(per_second=0.001, burst=2))
    )
    await mesh.start()
    codes = [code(await mesh.ask()) for _ in range(3)]
    assert codes == [None, None, "rate_limited"]
    await mesh.operations.stop()


def test_buckets_refill_and_are_bounded() -> None:
    limiter = RateLimiter(Rate(per_second=10, burst=1), max_buckets=2)
    limiter.take("a", 0.0)
    limiter.take("a", 0.1)
    with pytest.raises(Exception, match="rate_limited") as caught:
        limiter.take("a", 0.15)
    assert caught.value.retry_after_seconds == pytest.approx(0.05)  # type: ignore[attr-defined]


def test_only_ones_own_contracts_are_bound_and_once(nats_client: Client) -> None:
    operations = Operations("secrets", FakeAuthenticator(), FakeRecorder())

    async def handler(_call: Call, _request: Any) -> Any:
        return Empty()

    operations.bind(secrets.LIST, handler)
    with pytest.raises(ValueError, match="already"):
        operations.bind(secrets.LIST, handler)
    with pytest.raises(ValueError, match="not an operation"):
        operations.bind(audit.QUERY, handler)


async def test_nats_micro_sees_the_service_and_what_it_does(mesh: Mesh, nats_client: Client) -> None:
    await mesh.start()
    await MicroService(
        "secrets", "one", "0.1.0", "the vault", mesh.operations.stats(), lambda: {"degraded.log": "x"}
    ).start(nats_client)
    await mesh.ask()
    await mesh.ask(b"{")
    await mesh.ask(operation="no_such")
    stats = json.loads((await nats_client.request("$SRV.STATS.secrets", b"")).data)
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    by_name = {item["name"]: item for item in stats["endpoints"]}
    assert (by_name["list"]["num_requests"], by_name["list"]["num_errors"]) == (2, 1)
    assert by_name["unknown"]["num_errors"] == 1
    assert by_name["list"]["last_error"] == "malformed_json"
    assert by_name["list"]["processing_time"] > 0
    info = json.loads((await nats_client.request("$SRV.INFO", b"")).data)
    assert {"name": "list", "subject": "rpc.secrets.list.*.*", "queue_group": "q", "metadata": {}} in info["endpoints"]
    assert json.loads((await nats_client.request("$SRV.PING.secrets.one", b"")).data)["id"] == "one"


@pytest.mark.parametrize("token", ["good", "bad"])
async def test_where_a_request_came_from_is_in_its_entry_if_the_gateway_has_said_so(mesh: Mesh, token: str) -> None:
    await mesh.start()
    request_id = str(RequestId.new())
    headers = {"Came_From": f"{AGENT} {request_id}", "Request_Id": request_id, "Authorization": f"Bearer {token}"}
    await mesh.ask(**headers)
    (_, event) = mesh.recorder.events[0]
    assert (event.source_address, event.user_agent) == ("192.0.2.7", "curl/8")
    assert "origin_refused" not in event.details


async def test_a_client_that_writes_the_gateways_statement_itself_is_not_believed_and_it_shows(mesh: Mesh) -> None:
    """The attack: an address that is somebody else's, in the log for ever."""
    await mesh.start()
    assert (await mesh.ask(Came_From="192.0.2.66")).data == b'{"secrets":[]}'
    (_, event) = mesh.recorder.events[0]
    assert (event.source_address, event.user_agent) == (None, None)
    assert event.details == {"origin_refused": True}
