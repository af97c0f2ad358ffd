"""A whole auth service on a real broker and a real database: through the HTTP door and through the callout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from opentelemetry import trace

from wardmesh.contracts.audit import AuditEnvelope
from wardmesh.errors import CODE_HEADER
from wardmesh.headers import AUTHORIZATION, DEADLINE_MS, REQUEST_ID
from wardmesh.ids import OrgId, RequestId, UserId, WorkspaceId
from wardmesh.server.messaging import Messaging
from wardmesh.server.runtime import Runtime, running
from wardmesh.server.settings import read_seed
from wardmesh_auth.app import build
from wardmesh_auth.settings import Settings
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.ports import free_ports

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="session")
async def log(servers: EmbeddedMesh) -> AsyncIterator[Messaging]:
    """The audit service's connection, to read what was recorded."""
    messaging = Messaging("audit")
    await messaging.connect([servers.nats_url], seed=read_seed(servers.layout.identities.seed_file("audit")))
    yield messaging
    await messaging.drain()


def settings_of(servers: EmbeddedMesh, port: int, **changes: Any) -> Settings:
    identities = servers.layout.identities
    return Settings(
        nats_url=servers.nats_url,
        nats_seed_file=identities.seed_file("auth"),
        database_url=servers.database_url("wardmesh_auth"),
        auth_signing_key_file=identities.token_signing_key_file,
        auth_callout_seed_file=identities.seed_file("callout"),
        auth_callout_issuer_seed_file=identities.issuer_seed_file,
        auth_callout_xkey_seed_file=identities.xkey_seed_file,
        auth_sys_seed_file=identities.seed_file("system"),
        auth_gateway_seed_file=identities.seed_file("gateway"),
        auth_http_port=port,
        auth_logins_per_second=1000,
        auth_logins_burst=1000,
        **changes,
    )


@pytest.fixture(scope="session")
async def service(servers: EmbeddedMesh, log: Messaging) -> AsyncIterator[tuple[Runtime, str]]:
    (port,) = free_ports(1, avoid=frozenset())
    async with running("auth", settings_of(servers, port), build) as runtime:
        await asyncio.wait_for(runtime.keys.ready.wait(), 10)
        await asyncio.wait_for(runtime.revocations.ready.wait(), 10)
        yield runtime, f"http://127.0.0.1:{port}"
    assert runtime.failure is None, "it stopped in good order"


@pytest.fixture(scope="session")
async def http(service: tuple[Runtime, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=service[1], timeout=30) as client:
        yield client


class Acme:
    """An organization, its owner's tokens, and an agent with a key."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.organization = self.workspace = self.user = ""
        self.token = self.agent = self.key = self.key_id = ""

    async def make(self) -> Acme:
        made = await self.post("-/auth/sign_up", {"organization": "Acme", "email": "a@b.c", "password": PASSWORD})
        self.organization, self.workspace, self.user = made["organization"], made["workspace"], made["user"]
        self.token = await self.log_in(self.workspace)
        agent = await self.post(f"{self.workspace}/auth/create_agent", {"name": "researcher", "level": "member"})
        self.agent = agent["id"]
        key = await self.post(f"{self.workspace}/auth/create_key", {"principal": self.agent, "name": "k"})
        self.key, self.key_id = key["api_key"], key["id"]
        return self

    async def log_in(self, scope: str) -> str:
        asked = {"organization": self.organization, "email": "a@b.c", "password": PASSWORD, "scope": scope}
        return (await self.post("-/auth/log_in", asked))["token"]

    async def post(self, path: str, body: Any) -> Any:
        response = await self.ask(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    async def ask(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        if self.token:
            headers.setdefault("authorization", f"Bearer {self.token}")
        return await self.http.post(f"/v1/{path}", json=body, headers=headers)


@pytest.fixture(scope="session")
async def acme(http: httpx2.AsyncClient) -> Acme:
    return await Acme(http).make()


@pytest.fixture
async def fresh(http: httpx2.AsyncClient) -> Acme:
    """One that nobody has used yet, and that the test may spoil."""
    return await Acme(http).make()


async def connect(servers: EmbeddedMesh, scope: str, principal: str, password: str, **options: Any) -> Client:
    client = Client()
    try:
        await client.connect(
            servers.nats_url, user=scope, password=password, inbox_prefix=f"_INBOX.{principal}",
            allow_reconnect=False, connect_timeout=5, **options,
        )  # fmt: skip
    except BaseException:
        # nats-py leaves the socket open when it is refused.
        if client._transport is not None:
            client._transport.close()
            await client._transport.wait_closed()
        raise
    return client


async def recorded(log: Messaging, scope: str, action: str) -> list[Any]:
    """Events of a scope with that action that are in the stream by now."""
    await asyncio.sleep(0.3)
    found: list[Any] = []
    sequence = 0
    with contextlib.suppress(nats.js.errors.NotFoundError):
        while True:
            message = await log.jetstream.get_msg("AUDIT", sequence + 1, subject=f"audit.{scope}.auth", next=True)
            found.extend(AuditEnvelope.model_validate_json(message.data or b"").events)
            sequence = message.seq or 0
    return [event for event in found if event.action == action]


# --- the HTTP door


async def test_the_owner_asks_who_she_is(acme: Acme) -> None:
    identity = await acme.post(f"{acme.workspace}/auth/who_am_i", {})
    assert (identity["principal"], identity["scope"], identity["level"]) == (acme.user, acme.workspace, "owner")


async def test_answers_carry_the_headers_that_browsers_are_held_by(acme: Acme) -> None:
    request_id = RequestId.new()
    response = await acme.ask(f"{acme.workspace}/auth/who_am_i", {}, **{REQUEST_ID: request_id})
    assert response.headers[REQUEST_ID] == request_id
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("{ws}/auth/fly", 404, "unknown_operation"), ("{ws}/nobody/fly", 404, "unknown_operation"),
        ("{ws}/auth/FLY.*", 404, "unknown_operation"), ("*/auth/who_am_i", 422, "invalid_request"),
        ("-/auth/who_am_i", 422, "invalid_request"), ("{other}/auth/who_am_i", 403, "scope_mismatch"),
        ("{ws}/auth/create_workspace", 403, "scope_mismatch"), ("{ws}/secrets/list", 503, "service_unavailable"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_named(acme: Acme, path: str, status: int, code: str) -> None:
    response = await acme.ask(path.format(ws=acme.workspace, other=WorkspaceId.new()), {"name": "x"})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


async def test_bodies_are_json_of_the_right_form_and_size(acme: Acme, http: httpx2.AsyncClient) -> None:
    url, headers = f"/v1/{acme.workspace}/auth/create_agent", {"authorization": f"Bearer {acme.token}"}
    json_type = {"content-type": "application/json"}
    for content, extra, status, code in [
        (b"{", json_type, 400, "malformed_json"),
        (b'{"name": "x"}', {"content-type": "text/plain"}, 400, "malformed_json"),
        (b'{"name": "x", "evil": 1}', json_type, 422, "invalid_request"),
        (b'{"name": "%s"}' % (b"x" * 70_000), json_type, 413, "body_too_large"),
    ]:
        response = await http.post(url, content=content, headers=headers | extra)
        assert (response.status_code, response.json()["code"]) == (status, code)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    response = await http.post(url, content=endless(), headers=headers | json_type)
    assert response.status_code == 413


async def test_a_token_is_needed_and_must_be_one(acme: Acme, http: httpx2.AsyncClient, log: Messaging) -> None:
    url = f"/v1/{acme.workspace}/auth/who_am_i"
    for headers, code in [
        ({}, "token_missing"), ({"authorization": "Basic eDp5"}, "token_invalid"),
        ({"authorization": "Bearer x.y.z"}, "token_invalid"),
        ({"authorization": f"Bearer {acme.token[:-4]}AAAA"}, "token_invalid"),
    ]:  # fmt: skip
        response = await http.post(url, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, code)
        assert response.headers["www-authenticate"].startswith("Bearer")
    reasons = {event.reason for event in await recorded(log, OrgId.nil(), "gateway.request")}
    assert {"token_missing", "token_invalid"} <= reasons


async def test_wrong_passwords_are_refused_and_in_the_organizations_log(acme: Acme, log: Messaging) -> None:
    response = await acme.ask(
        "-/auth/log_in", {"organization": acme.organization, "email": "a@b.c", "password": "wrong"}
    )
    assert (response.status_code, response.json()["code"]) == (401, "credential_refused")
    events = await recorded(log, acme.organization, "session.create")
    (refused,) = [event for event in events if event.outcome == "refused"]
    assert refused.actor == UserId.nil()
    assert (refused.source_address, refused.details["failure"]) == ("127.0.0.1", "wrong_password")
    assert refused.user_agent.startswith("python-httpx")


async def test_there_is_no_other_page_and_no_other_method(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/etc/passwd")).status_code == 404
    response = await http.get("/v1/-/auth/log_in")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_the_keys_and_the_operations_are_published(http: httpx2.AsyncClient) -> None:
    keys = (await http.get("/.well-known/jwks.json")).json()["keys"]
    assert [(key["kty"], key["crv"], key["use"]) for key in keys] == [("OKP", "Ed25519", "sig")]
    assert "d" not in keys[0]
    assert "/v1/{scope}/secrets/get" in (await http.get("/openapi.json")).json()["paths"]


async def test_a_trace_goes_on_behind_the_door(acme: Acme, log: Messaging) -> None:
    trace_id = f"{trace.get_current_span().get_span_context().trace_id or 0xABCDEF:032x}"
    parent = f"00-{trace_id}-00f067aa0ba902b7-01"
    await acme.ask(f"{acme.workspace}/auth/create_agent", {"name": "traced"}, traceparent=parent)
    events = await recorded(log, acme.workspace, "agent.create")
    assert trace_id in {event.trace_id for event in events}


async def test_a_service_that_does_not_answer_is_a_deadline(acme: Acme, servers: EmbeddedMesh) -> None:
    silent = Messaging("secrets")
    await silent.connect([servers.nats_url], seed=read_seed(servers.layout.identities.seed_file("secrets")))
    await silent.nats.subscribe("rpc.secrets.*.*.*")
    await silent.nats.flush()
    response = await acme.ask(f"{acme.workspace}/secrets/list", {}, **{DEADLINE_MS: "200"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    await silent.drain()


# --- the callout


async def test_an_agent_connects_with_its_key_and_asks(fresh: Acme, servers: EmbeddedMesh, log: Messaging) -> None:
    client = await connect(servers, fresh.workspace, fresh.agent, fresh.key)
    token = (await fresh.post("-/auth/exchange_key", {"api_key": fresh.key}))["token"]
    subject = f"rpc.auth.who_am_i.{fresh.workspace}.{fresh.agent}"
    answer = await client.request(subject, b"{}", headers={AUTHORIZATION: f"Bearer {token}"}, timeout=5)
    assert json.loads(answer.data)["principal"] == fresh.agent
    await client.close()
    opened = await recorded(log, fresh.workspace, "connection.open")
    assert [(event.actor, event.targets, event.outcome) for event in opened] == [
        (fresh.agent, (fresh.key_id,), "success")
    ]


async def test_a_token_connects_too(acme: Acme, servers: EmbeddedMesh) -> None:
    client = await connect(servers, acme.workspace, acme.user, acme.token)
    await client.close()


async def test_nobody_else_gets_in(acme: Acme, servers: EmbeddedMesh, http: httpx2.AsyncClient, forge: Any) -> None:
    other = await Acme(http).make()
    for scope, password in [
        (other.workspace, acme.key), (acme.organization, acme.key), ("*", acme.key), (">", acme.key), ("", acme.key),
        (f"{acme.workspace}.*", acme.key), (acme.workspace, ""), (acme.workspace, "wmk_x"),
        (acme.workspace, forge(acme.key, secret=bytes(32))), (other.workspace, acme.token),
        (acme.workspace, acme.token[:-4] + "AAAA"),
        (other.workspace, forge(acme.key, organization=OrgId(other.organization), scope=WorkspaceId(other.workspace))),
    ]:  # fmt: skip
        with pytest.raises((nats.errors.Error, OSError)):
            await connect(servers, scope, acme.agent, password)


async def test_a_client_reaches_its_own_subject_and_inbox_only(acme: Acme, servers: EmbeddedMesh) -> None:
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    client = await connect(servers, acme.workspace, acme.agent, acme.key, error_cb=on_error)
    for subject in (
        f"rpc.auth.who_am_i.{acme.workspace}.{acme.user}", f"rpc.auth.who_am_i.{WorkspaceId.new()}.{acme.agent}",
        f"evt.{acme.workspace}.app.x", f"audit.{acme.workspace}.auth", "$JS.API.INFO", "$KV.revocations.x",
    ):  # fmt: skip
        await client.publish(subject, b"")
    for subject in ("rpc.>", ">", f"_INBOX.{acme.user}.>", "_INBOX.>"):
        await client.subscribe(subject)
    await client.flush()
    await asyncio.sleep(0.2)
    assert len(errors) == 10
    await client.close()


async def test_a_foreign_reply_gets_nothing(acme: Acme, servers: EmbeddedMesh) -> None:
    victim = await connect(servers, acme.workspace, acme.user, acme.token)
    heard = await victim.subscribe(f"_INBOX.{acme.user}.>")
    client = await connect(servers, acme.workspace, acme.agent, acme.key)
    refusals = await client.subscribe(f"_INBOX.{acme.agent}.refused")
    await victim.flush()
    await client.publish(
        f"rpc.auth.who_am_i.{acme.workspace}.{acme.agent}", b"{}", reply=f"_INBOX.{acme.user}.x",
        headers={AUTHORIZATION: "Bearer x"},
    )  # fmt: skip
    refused = await refusals.next_msg(timeout=5)
    assert (refused.headers or {})[CODE_HEADER] == "403"
    with pytest.raises(nats.errors.TimeoutError):
        await heard.next_msg(timeout=0.3)
    await asyncio.gather(victim.close(), client.close())


# --- revoking


async def test_a_revoked_key_drops_its_connection_and_works_nowhere(fresh: Acme, servers: EmbeddedMesh) -> None:
    closed = asyncio.Event()

    async def on_close() -> None:
        closed.set()

    client = await connect(servers, fresh.workspace, fresh.agent, fresh.key, closed_cb=on_close)
    token = (await fresh.post("-/auth/exchange_key", {"api_key": fresh.key}))["token"]
    await asyncio.sleep(1.1)  # a token of the very second of the revocation is refused in any case
    began = time.monotonic()
    revoked = await fresh.post(f"{fresh.workspace}/auth/revoke_key", {"key": fresh.key_id})
    await asyncio.wait_for(closed.wait(), 5)
    assert revoked["connections_closed"] == 1
    assert time.monotonic() - began < 2
    response = await fresh.ask(f"{fresh.workspace}/auth/who_am_i", {}, authorization=f"Bearer {token}")
    assert response.json()["code"] == "token_revoked"
    with pytest.raises((nats.errors.Error, OSError)):
        await connect(servers, fresh.workspace, fresh.agent, fresh.key)
    assert client.is_closed


async def test_refreshing_over_http(acme: Acme) -> None:
    asked = {"organization": acme.organization, "email": "a@b.c", "password": PASSWORD}
    session = await acme.post("-/auth/log_in", asked)
    pair = await acme.post("-/auth/refresh", {"refresh_token": session["refresh_token"]})
    assert pair["session"] == session["session"]
    assert pair["refresh_token"] != session["refresh_token"]
