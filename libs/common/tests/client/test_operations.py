"""Every contract is one method, and what a call is on the wire."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

import wardmesh
from wardmesh import contracts
from wardmesh.client.audit import Audit
from wardmesh.client.auth import Auth
from wardmesh.client.bridge import Bridge
from wardmesh.client.methods import Method
from wardmesh.client.secrets import Secrets
from wardmesh.client.webhooks import Webhooks
from wardmesh.contracts import auth, secrets
from wardmesh.crypto.sealing import HolderKey
from wardmesh.errors import (
    BodyTooLarge,
    Conflict,
    InternalError,
    InvalidRequest,
    RateLimited,
    ScopeMismatch,
    ServiceUnavailable,
)
from wardmesh.ids import AgentId

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_every_contract_has_exactly_one_method_and_its_name_is_found_on_its_service() -> None:
    surfaces = {"auth": Auth, "secrets": Secrets, "bridge": Bridge, "webhooks": Webhooks, "audit": Audit}
    found = [
        (method.contract.key, service)
        for service, surface in surfaces.items()
        for method in vars(surface).values()
        if isinstance(method, Method)
    ]
    assert sorted(key for key, _ in found) == sorted(contracts.ALL)
    assert all(key.startswith(f"{service}.") for key, service in found)


async def test_a_request_goes_out_as_the_wire_says(mesh, services, identity, raw: Client) -> None:
    created = auth.PrincipalInfo(id=AgentId.new(), name="a", scope=identity.workspace, level="member", created_at=NOW)
    services.on("auth.create_agent", created)
    assert await mesh.auth.create_agent(name="a", level="member") == created
    request = services.asked("auth.create_agent")[0]
    assert request.subject.scope == identity.workspace == mesh.workspace
    assert request.subject.principal == identity.agent == mesh.principal
    assert request.body == {"name": "a", "level": "member"}
    assert request.headers["Authorization"].startswith("Bearer e30.")
    assert "Deadline-Ms" not in request.headers, "the contract says how long; a header saved is time saved"
    assert request.reply.startswith(f"_INBOX.{identity.agent}.")
    assert "traceparent" not in request.headers

    await mesh.within(timedelta(seconds=4)).auth.create_agent(name="a", level="member")
    assert 3000 < int(services.asked("auth.create_agent")[1].headers["Deadline-Ms"]) <= 4000


async def test_what_carries_its_own_credential_goes_without_a_token(mesh, services) -> None:
    services.on("auth.exchange_key", auth.EXCHANGE_KEY and ServiceUnavailable())
    with pytest.raises(ServiceUnavailable):
        await mesh.within(timedelta(seconds=0.2)).auth.exchange_key(api_key="wmk_x")
    assert all("Authorization" not in request.headers for request in services.asked("auth.exchange_key"))


async def test_a_wrong_argument_is_an_invalid_request_and_its_value_is_not_repeated(mesh, services) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await mesh.auth.create_agent(name="", level="emperor-of-china")
    assert {violation.pointer for violation in caught.value.violations} == {"/name", "/level"}
    assert "emperor" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not services.asked("auth.create_agent")


async def test_what_is_asked_elsewhere_or_too_long_never_leaves(mesh, services) -> None:
    with pytest.raises(ScopeMismatch, match="an organization"):
        await mesh.auth.create_workspace(name="x")
    with pytest.raises(BodyTooLarge):
        await mesh.call(auth.REFRESH, auth.Refresh.model_construct(refresh_token="x" * 70_000))
    assert not services.asked("auth.create_workspace")


async def test_a_newer_mesh_may_say_more(mesh, services) -> None:
    services.on("auth.revoke_key", b'{"revoked_at":"2026-11-22T00:00:00Z","connections_closed":2,"new":1}')
    answer = await mesh.auth.revoke_key(key=wardmesh.ids.KeyId.new())
    assert answer.connections_closed == 2


async def test_an_answer_that_cannot_be_read_is_an_error_and_not_asked_again_and_again(mesh, services) -> None:
    services.on("auth.who_am_i", b"<html>")
    with pytest.raises(InternalError):
        await mesh.auth.who_am_i()
    assert len(services.asked("auth.who_am_i")) == 3


async def test_waiting_is_as_long_as_the_service_says(mesh, services) -> None:
    workspaces = secrets.Secrets(secrets=())
    answers = iter((RateLimited(retry_after_seconds=0.3), workspaces))
    services.on("secrets.list", lambda _: next(answers))
    assert await mesh.secrets.list() == workspaces
    first, second = services.asked("secrets.list")
    assert second.at - first.at >= 0.3


async def test_a_session_is_renewed_and_told(broker, services, identity) -> None:
    user = wardmesh.ids.UserId.new()
    session = auth.Session(
        token=services.token(user, identity.workspace), expires_at=NOW, principal=user, scope=identity.workspace,
        session=wardmesh.ids.SessionId.new(), refresh_token="first", refresh_expires_at=NOW,
    )  # fmt: skip
    services.on(
        "auth.refresh",
        lambda request: session.model_copy(
            update={"token": services.token(user, identity.workspace), "refresh_token": "second"}
        ),
    )
    told = []

    async def keep(renewed, holder) -> None:
        told.append((renewed.refresh_token, holder.public_bytes))

    async with wardmesh.connect(broker.url, session=session, on_session=keep):
        pass
    request = services.asked("auth.refresh")[0]
    assert request.body["refresh_token"] == "first"
    assert told == [("second", base64.urlsafe_b64decode(request.body["holder_key"]))]
    async with wardmesh.connect(broker.url, session=session, holder=HolderKey.generate()) as mesh:
        assert mesh.principal == user
    assert len(services.asked("auth.refresh")) == 1  # fresh, and its key is here: nothing is spent


async def test_a_trace_goes_through(mesh, services) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    mesh._shared.caller._tracer = provider.get_tracer("test")
    services.on("secrets.list", secrets.Secrets(secrets=()))
    await mesh.secrets.list()
    services.on("auth.create_agent", Conflict())
    with pytest.raises(Conflict):
        await mesh.auth.create_agent(name="a")
    listing, creating = exporter.get_finished_spans()
    header = services.asked("secrets.list")[0].headers["traceparent"]
    assert format(listing.context.trace_id, "032x") in header
    assert format(listing.context.span_id, "016x") in header
    assert listing.name == "secrets.list"
    assert creating.attributes is not None
    assert creating.attributes["error.type"] == "conflict"
