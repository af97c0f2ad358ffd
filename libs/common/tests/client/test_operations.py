"""Every contract is one method; values are sealed and messages signed on the way."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

import wardmesh
from wardmesh import contracts
from wardmesh.bridge_signing import sign, verify
from wardmesh.client import subscription
from wardmesh.client.audit import Audit
from wardmesh.client.auth import Auth
from wardmesh.client.bridge import Bridge
from wardmesh.client.methods import Method
from wardmesh.client.secrets import Secrets
from wardmesh.client.webhooks import Webhooks
from wardmesh.contracts import audit, auth, bridge, secrets
from wardmesh.crypto import vault
from wardmesh.crypto.sealing import HolderKey, seal_to
from wardmesh.errors import (
    BodyTooLarge,
    Conflict,
    InternalError,
    InvalidRequest,
    InvalidSignature,
    RateLimited,
    ScopeMismatch,
    ServiceUnavailable,
    Undecryptable,
)
from wardmesh.ids import AgentId, AgreementId, EventId, MessageId, OrgId, WorkspaceId

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


class Vault:
    """The vault's half of the sealing."""

    def __init__(self, services) -> None:
        self.services = services
        self.key, self.key_id = HolderKey.generate(), "k1"
        self.values: dict[str, bytes] = {}
        services.on("secrets.sealing_key", self.sealing_key)
        services.on("secrets.put", self.put)
        services.on("secrets.get", self.get)

    def rotate(self) -> None:
        self.key, self.key_id = HolderKey.generate(), "k2"

    def sealing_key(self, _request):
        return secrets.SealingKey(key_id=self.key_id, public_key=self.key.public_bytes)

    def put(self, request):
        body = secrets.PutSecret.model_validate(request.body)
        if body.key_id != self.key_id:
            return Undecryptable()
        info = vault.put_info(
            workspace=request.subject.scope, principal=request.subject.principal, path=body.path,
            key_id=body.key_id, request_id=request.id,
        )  # fmt: skip
        self.values[body.path] = self.key.open(body.sealed, info)
        return secrets.SecretVersion(path=body.path, version=1, created_at=NOW)

    def get(self, request, *, path=None, version=1, request_id=None):
        asked = request.body["path"]
        info = vault.get_info(
            workspace=request.subject.scope, principal=request.subject.principal, path=path or asked,
            version=version, request_id=request_id or request.id,
        )  # fmt: skip
        sealed = seal_to(self.services.holder_keys[-1], self.values[path or asked], info)
        return secrets.SealedSecret(path=asked, version=1, created_at=NOW, sealed=sealed)


async def test_a_value_goes_in_and_comes_out_and_is_on_the_wire_in_neither_direction(mesh, services, raw) -> None:
    vault_ = Vault(services)
    seen: list[bytes] = []

    async def listen(message) -> None:
        seen.append(message.data)

    await raw.subscribe(">", cb=listen)
    await raw.flush()
    await mesh.secrets.put("openai/api-key", "sk-canary-äöü")
    assert vault_.values == {"openai/api-key": "sk-canary-äöü".encode()}
    assert await mesh.secrets.get("openai/api-key") == "sk-canary-äöü"
    await mesh.secrets.put("binary", b"\xff\x00canary")
    assert await mesh.secrets.get_bytes("binary") == b"\xff\x00canary"
    with pytest.raises(Undecryptable, match="get_bytes"):
        await mesh.secrets.get("binary")
    await raw.flush()
    everything = b"".join(seen)
    assert b"openai/api-key" in everything
    assert b"canary" not in everything
    assert base64.b64encode(b"sk-canary")[:8] not in everything
    assert len(services.asked("secrets.sealing_key")) == 1


async def test_a_changed_sealing_key_is_fetched_once(mesh, services) -> None:
    vault_ = Vault(services)
    await mesh.secrets.put("a", "1")
    vault_.rotate()
    await mesh.secrets.put("a", "2")
    assert vault_.values == {"a": b"2"}
    assert len(services.asked("secrets.sealing_key")) == 2
    services.on("secrets.put", Undecryptable())
    with pytest.raises(Undecryptable):
        await mesh.secrets.put("a", "3")
    assert len(services.asked("secrets.put")) == 5


async def test_an_older_answer_and_another_secret_do_not_open(mesh, services) -> None:
    vault_ = Vault(services)
    await mesh.secrets.put("a", "of a")
    await mesh.secrets.put("b", "of b")
    await mesh.secrets.get("a")
    old = services.asked("secrets.get")[0].id
    for forged in ({"request_id": old}, {"path": "b"}, {"version": 2}):
        services.on("secrets.get", lambda request, forged=forged: vault_.get(request, **forged))
        with pytest.raises(Undecryptable):
            await mesh.secrets.get("a")
    services.on("secrets.get", lambda request: vault_.get(request).model_copy(update={"path": "b"}))
    with pytest.raises(InternalError):
        await mesh.secrets.get("a")


async def test_a_bare_token_cannot_open_what_is_sealed_to_somebody_elses_key(broker, services, identity, mesh) -> None:
    Vault(services)
    await mesh.secrets.put("a", "1")
    token = services.token(identity.agent, identity.workspace)
    async with wardmesh.connect(broker.url, token=token) as other:
        with pytest.raises(Undecryptable, match="private key"):
            await other.secrets.get("a")
    holder = HolderKey.generate()
    services.holder_keys.append(holder.public_bytes)
    async with wardmesh.connect(broker.url, token=token, holder=holder) as other:
        assert await other.secrets.get("a") == "1"


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


class Agreement:
    """The bridge's half."""

    def __init__(self, services, here: WorkspaceId) -> None:
        self.services = services
        self.id, self.there = AgreementId.new(), WorkspaceId.new()
        self.key, self.key_id = bytes(range(32)), "key-1"
        self.sent: list[bridge.SignedMessage] = []
        accepted = bridge.Agreement(
            id=self.id, source=here, target=self.there, state=bridge.AgreementState.ACCEPTED, created_at=NOW
        )
        services.on("bridge.list", bridge.Agreements(agreements=(accepted,)))
        services.on("bridge.key", self.sealed_key)
        services.on("bridge.send", self.send)

    def sealed_key(self, request):
        info = vault.bridge_key_info(
            workspace=request.subject.scope, principal=request.subject.principal, agreement=self.id,
            key_id=self.key_id, request_id=request.id,
        )  # fmt: skip
        sealed = seal_to(self.services.holder_keys[-1], self.key, info)
        return bridge.SealedBridgeKey(agreement=self.id, key_id=self.key_id, sealed=sealed)

    def send(self, request):
        messages = bridge.Send.model_validate(request.body).messages
        for message in messages:
            if message.key_id != self.key_id:
                return InvalidSignature()
            verify(self.key, message)
        self.sent += messages
        return bridge.Sent(ids=tuple(message.id for message in messages))

    def message(self, here: WorkspaceId, honest_body: bytes, **changed) -> bridge.SignedMessage:
        message = bridge.SignedMessage(
            agreement=self.id, key_id=self.key_id, id=MessageId.new(), source=self.there, target=here, nonce=bytes(16),
            type="report.build", issued_at=NOW, expires_at=NOW + timedelta(minutes=1), body=honest_body,
            signature=bytes(32),
        )  # fmt: skip
        return sign(self.key, message).model_copy(update=changed)


async def test_what_is_sent_is_signed_with_the_agreements_key(mesh, services) -> None:
    agreement = Agreement(services, mesh.workspace)
    ids = [await mesh.bridge.send(agreement.there, "report.build", {"month": "2026-10"}) for _ in range(3)]
    assert [message.id for message in agreement.sent] == ids
    assert agreement.sent[0].body == b'{"month":"2026-10"}'
    assert len({message.nonce for message in agreement.sent}) == 3
    assert len(services.asked("bridge.key")) == len(services.asked("bridge.list")) == 1
    agreement.key, agreement.key_id = bytes(32), "key-2"
    await mesh.bridge.send(agreement.there, "report.build", b"raw", content_type="text/plain")
    assert len(services.asked("bridge.key")) == 2
    with pytest.raises(Conflict, match="no accepted agreement"):
        await mesh.bridge.send(WorkspaceId.new(), "report.build", {})


async def test_a_message_whose_signature_fails_is_never_handed_out(mesh, services, monkeypatch, caplog) -> None:
    monkeypatch.setattr(subscription, "ACK_DELAY_SECONDS", 0.01)
    here = mesh.workspace
    agreement = Agreement(services, here)
    good = agreement.message(here, b'{"n":1}')
    bad = [
        agreement.message(here, b"{}", body=b'{"evil":1}'),
        agreement.message(here, b"{}", type="report.delete"),
        agreement.message(here, b"{}", source=WorkspaceId.new()),
        agreement.message(here, b"{}", kind=bridge.Kind.REQUEST),
        agreement.message(here, b"{}", expires_at=NOW + timedelta(days=1)),
        agreement.message(here, b"{}", key_id="key-0"),
        agreement.message(here, b"{}", signature=bytes(32)),
        agreement.message(WorkspaceId.new(), b"{}"),
    ]
    batches = [tuple(bad), (good,)]
    naks: list[str] = []
    acks: list[str] = []

    def fetch(request):
        naks.extend(request.body["naks"])
        acks.extend(request.body["acks"])
        messages = batches.pop(0) if request.body["batch"] and batches else ()
        if request.body["batch"] and not messages:
            return None
        return bridge.Received(
            messages=tuple(
                bridge.DeliveredMessage(message=message, delivery=1, ack=f"{len(batches)}.{n}.1.1.1")
                for n, message in enumerate(messages)
            )
        )

    services.on("bridge.fetch", fetch)
    async with mesh.bridge.receive(group="g", prefetch=8) as messages:
        async for message in messages:
            async with message:
                assert (message.id, message.data, message.source) == (good.id, {"n": 1}, agreement.there)
            break
    assert len(set(naks)) == len(bad)
    assert set(acks) == {"0.0.1.1.1"}
    assert "withheld" in caplog.text
    assert "evil" not in caplog.text


def entry(index: int) -> audit.Entry:
    event = audit.AuditEvent(
        id=EventId.new(),
        occurred_at=NOW,
        category="tool_call",
        action="tool.call",
        outcome="success",
        actor=AgentId.nil(),
    )
    return audit.Entry(index=index, scope=OrgId.nil(), source="auth", event=event, received_at=NOW)


async def test_a_tail_misses_and_repeats_nothing_through_disconnections(broker, services, connect) -> None:
    log = [entry(index) for index in range(5)]

    def tail(request):
        start = request.body["start"]
        if start is None:
            return audit.Entries(entries=(), next_start=len(log))
        if len(log) < 40:
            log.append(entry(len(log)))
        # Two entries from before the place, as a service in disorder might: they are not handed out again.
        return audit.Entries(entries=tuple(log[max(0, start - 2) : start + 3]), next_start=min(start + 3, len(log)))

    services.on("audit.tail", tail)
    seen = []
    async with connect() as mesh:
        async for found in mesh.audit.tail(category=wardmesh.Category.TOOL_CALL):
            seen.append(found.index)
            if len(seen) in (5, 15):
                broker.kill()
                await asyncio.sleep(0.1)
                broker.start()
            if len(seen) == 30:
                break
    assert seen == list(range(5, 35))


async def test_a_tail_goes_on_from_a_saved_position(services, connect) -> None:
    log = [entry(index) for index in range(9)]
    saved: dict[str, int] = {"siem": 2}

    def tail(request):
        start = request.body["start"]
        return audit.Entries(entries=tuple(log[start : start + 2]), next_start=min(start + 2, len(log)))

    def save(request):
        saved[request.body["name"]] = request.body["next_start"]
        return audit.Position(name=request.body["name"], next_start=request.body["next_start"], saved_at=NOW)

    def positions(_request):
        found = [audit.Position(name=name, next_start=place, saved_at=NOW) for name, place in saved.items()]
        return audit.Positions(positions=tuple(found))

    services.on("audit.tail", tail)
    services.on("audit.save_position", save)
    services.on("audit.list_positions", positions)
    async with connect() as mesh:

        async def read(count: int, error: Exception | None = None) -> list[int]:
            seen: list[int] = []
            async with mesh.audit.tail(resume="siem") as entries:
                async for found in entries:
                    seen.append(found.index)
                    if len(seen) == count:
                        if error is not None:
                            raise error
                        break
            return seen

        assert await read(3) == [2, 3, 4]
        assert saved == {"siem": 5}
        with pytest.raises(RuntimeError):
            await read(2, RuntimeError("while it worked on the second"))
        assert saved == {"siem": 6}, "what was not done with is not counted as read"
        assert await read(1) == [6]
        beyond = mesh.audit.tail(resume="siem", start=8)
        assert (await anext(beyond)).index == 8
        with pytest.raises(InvalidRequest):
            mesh.audit.tail(resume="Not A Name")


async def test_a_search_goes_on_past_pages_that_have_nothing(mesh, services) -> None:
    def query(request):
        before = request.body["before"] or 40
        if before <= 10:
            return audit.Entries(entries=(entry(9),), next_start=40)
        found = (entry(before - 1),) if before == 30 else ()
        return audit.Entries(entries=found, next_start=40, next_before=before - 10)

    services.on("audit.query", query)
    assert [found.index async for found in mesh.audit.search()] == [29, 9]
    assert [found.index async for found in mesh.audit.search(limit=1)] == [29]


async def test_leaves_are_read_to_the_end_and_no_further(mesh, services) -> None:
    leaves = [bytes([n % 256, n // 256]) for n in range(600)]

    def read(request):
        start = request.body["start"]
        page = tuple(leaves[start : start + min(request.body["limit"], 100)])  # a page may be shorter than asked for
        return audit.Leaves(leaves=page, hashes=page)

    services.on("audit.leaves", read)
    assert [leaf async for leaf in mesh.audit.leaves()] == leaves
    assert [leaf async for leaf in mesh.audit.leaves(start=10, end=300)] == leaves[10:300]


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
