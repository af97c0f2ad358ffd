"""Through every operation once, as it is meant to be used: each is granted, and each secret arrives.

What is sent and answered on the way is recorded, for the requests that are made of it afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import pytest
import stripe
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from services.audit.tests.clients import make
from tests.canary.loud import LoudMesh
from tests.canary.pouch import Pouch, standard_secret
from tests.mesh.hunting import everything_is_sealed, service_connection
from tests.mesh.world import Tenant

import wardmesh
from wardmesh.client.caller import Answer, Caller
from wardmesh.client.mesh import Mesh
from wardmesh.contracts import bridge
from wardmesh.contracts.audit import NewAuditEvent, ToolCall
from wardmesh.contracts.auth import Session
from wardmesh.contracts.operation import AnyContract, Category
from wardmesh.contracts.webhooks import NewEvent, Scheme
from wardmesh.crypto import vault
from wardmesh.crypto.note import SignedNote
from wardmesh.crypto.sealing import HolderKey
from wardmesh.crypto.tlog_witness import AddCheckpoint
from wardmesh.ids import RequestId, Scope, UserId, WorkspaceId

GITHUB_CONTENT: Final = "application/json"


@dataclass(frozen=True)
class Recorded:
    """A request that was granted."""

    contract: AnyContract
    scope: Scope
    request_id: RequestId
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Recorder:
    """Notes what the client library sends, and takes the credentials that it is given."""

    pouch: Pouch
    granted: list[Recorded] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = Caller.call

        async def recording(caller: Caller, contract: AnyContract, request: Any, **options: Any) -> Answer[Any]:
            answer = await call(caller, contract, request, **options)
            self._note(caller, contract, request, answer)
            return answer

        monkeypatch.setattr(Caller, "call", recording)

    def first_of_each(self) -> dict[str, Recorded]:
        found: dict[str, Recorded] = {}
        for item in self.granted:
            found.setdefault(item.contract.key, item)
        return found

    def _note(self, caller: Caller, contract: AnyContract, request: Any, answer: Answer[Any]) -> None:
        body = request if isinstance(request, bytes) else request.model_dump_json().encode()
        self.granted.append(Recorded(contract, caller.scope, answer.request_id, body))
        self.pouch.take_message(answer.response, f"{contract.key} answered by NATS, its")
        grant = answer.grant
        if grant is not None and grant.holder is not None:
            self.pouch.take("holder's private key", str(caller.principal), grant.holder.private_bytes())
            if contract is bridge.KEY:
                info = vault.bridge_key_info(
                    workspace=WorkspaceId.parse(str(caller.scope)),
                    principal=caller.principal,
                    agreement=answer.response.agreement,
                    key_id=answer.response.key_id,
                    request_id=answer.request_id,
                )
                self.pouch.take("bridge key", contract.key, answer.open(answer.response.sealed, info))


@dataclass
class People:
    """The owner of an organization, in it and in two of its workspaces."""

    tenant: Tenant
    organization: Mesh
    home: Mesh
    other: Mesh
    sessions: dict[Scope, Session]
    sources: dict[Scheme, str]


@asynccontextmanager
async def people(tenant: Tenant, pouch: Pouch) -> AsyncIterator[People]:
    """Connect as the owner, with keys to open what is sealed."""
    pouch.take("password", "sign_up by HTTP", tenant.password.encode())
    async with await tenant.connect_as_owner(tenant.organization) as organization:
        workspace = (await organization.auth.create_workspace(name="other")).id
        sessions: dict[Scope, Session] = {}
        holders: dict[Scope, HolderKey] = {}
        for scope in (tenant.organization, tenant.workspace, workspace):
            holders[scope] = HolderKey.generate()
            sessions[scope] = await organization.auth.log_in(
                organization=tenant.organization,
                email=tenant.email,
                password=tenant.password,
                scope=scope,
                holder_key=holders[scope].public_bytes,
            )
        url = tenant.mesh.nats_url
        async with (
            wardmesh.connect(url, session=sessions[tenant.workspace], holder=holders[tenant.workspace]) as home,
            wardmesh.connect(url, session=sessions[workspace], holder=holders[workspace]) as other,
        ):
            yield People(tenant, organization, home, other, sessions, {})


async def walk(them: People, pouch: Pouch) -> None:
    """Ask everything of every service."""
    await _auth(them, pouch)
    await asyncio.gather(_secrets(them.home, pouch), _bridge(them), _webhooks(them, pouch))
    await _audit(them.home, pouch)
    await _witness(them)
    await _letters(them)


async def _auth(them: People, pouch: Pouch) -> None:
    organization, home, tenant = them.organization.auth, them.home.auth, them.tenant
    await organization.sign_up(
        organization="another", email="a@example.com", password=pouch.text("password", "auth.sign_up")
    )
    password = pouch.text("password", "auth.create_user")
    user = await home.create_user(email="member@example.com", password=password, level="operator")
    session = await organization.log_in(
        organization=tenant.organization, email="member@example.com", password=password, scope=tenant.workspace
    )
    await home.refresh(refresh_token=session.refresh_token)
    await organization.list_workspaces()
    agent = await home.create_agent(name="agent", level="member")
    service = await home.create_service_account(name="service")
    key = await home.create_key(principal=agent.id, name="key")
    await home.exchange_key(api_key=key.api_key)
    async with tenant.connect(key.api_key) as mesh:  # also as the password of a CONNECT
        await mesh.auth.who_am_i()
    await home.list_principals()
    await home.set_level(principal=user.id, level="viewer")
    await home.list_keys()
    await home.revoke_key(key=key.id)
    await home.revoke_principal(principal=service.id)


async def _secrets(home: Mesh, pouch: Pouch) -> None:
    await home.secrets.sealing_key()
    value = pouch.text("secret value", "secrets.put")
    await home.secrets.put("app/text", value)
    await home.secrets.put("app/bytes", pouch.random_bytes("secret value", "secrets.put"))
    await home.secrets.grant(pattern="app/*", principal=home.principal)
    assert await home.secrets.get("app/text") == value
    await home.secrets.get_bytes("app/bytes")
    await home.secrets.list()
    await home.secrets.list_grants()
    await home.secrets.revoke_grant(pattern="app/*", principal=home.principal)


async def _bridge(them: People) -> None:
    home, other = them.home, them.other
    agreement = await home.bridge.propose(target=other.workspace)
    await other.bridge.accept(agreement=agreement.id)
    await home.bridge.send(other.workspace, "report.build", {"month": "2026-10"})
    async for message in other.bridge.receive(group="readers"):
        async with message:
            break
    await home.bridge.revoke(agreement=agreement.id)


async def _webhooks(them: People, pouch: Pouch) -> None:
    home = them.home
    them.sources |= {
        Scheme.GITHUB: f'"<{pouch.core("signing secret", "webhooks.create_source (GitHub)")}>&\\%',  # printable ASCII
        Scheme.STRIPE: f"whsec_{pouch.core('signing secret', 'webhooks.create_source (Stripe)')}",
        Scheme.STANDARD: standard_secret(pouch.random_bytes("signing secret", "webhooks.create_source (Standard)")),
    }
    for scheme, secret in them.sources.items():
        await home.webhooks.create_source(name=scheme.value, scheme=scheme, signing_secret=secret)
    await home.webhooks.list_sources()
    event = pouch.control("the data of an event", "published", "JetStream")
    await home.webhooks.publish(events=(NewEvent(type="order.shipped", data={"note": event}),))
    await home.webhooks.fetch(pattern=">", group="readers", wait_seconds=0)
    await _deliver(them)
    await home.webhooks.delete_source(name=Scheme.STANDARD.value)


async def _deliver(them: People) -> None:
    """Send events as GitHub and Stripe do."""
    body = b'{"id": "evt_1", "type": "invoice.paid", "action": "opened"}'
    now = int(time.time())
    github = hmac.new(them.sources[Scheme.GITHUB].encode(), body, hashlib.sha256).hexdigest()
    signature = stripe.WebhookSignature._compute_signature(f"{now}.{body.decode()}", them.sources[Scheme.STRIPE])
    headers = {
        Scheme.GITHUB: {"x-hub-signature-256": f"sha256={github}", "x-github-event": "issues"},
        Scheme.STRIPE: {"stripe-signature": f"t={now},v1={signature}"},
    }
    async with httpx2.AsyncClient(base_url=them.tenant.mesh.ingest_url, timeout=20) as http:
        for scheme, signed in headers.items():
            path = f"/hooks/{them.tenant.workspace}/{scheme.value}"
            answer = await http.post(path, content=body, headers={**signed, "content-type": GITHUB_CONTENT})
            assert answer.status_code == 202, answer.text


async def _letters(them: People) -> None:
    """Have a service write what cannot be sealed, and read it."""
    async with service_connection(them.tenant.mesh, "webhooks") as service:
        await service.jetstream().publish(f"audit.{them.tenant.workspace}.webhooks", b"no envelope")
    await everything_is_sealed(them.tenant.mesh)
    (letter,) = (await them.home.audit.dead_letters()).letters
    assert await them.home.audit.dead_letter(letter.number) == b"no envelope"


async def _witness(them: People) -> None:
    """Have the mesh cosign a log of its own, as if it were another's."""
    assert isinstance(them.tenant.mesh, LoudMesh)
    signed = await them.home.audit.checkpoint()
    them.tenant.mesh.witnessed_logs.write_text(f"logs/v0\nvkey {signed.verifier_key}\n")
    request = AddCheckpoint(0, (), SignedNote.parse(signed.note.encode())).encode()
    assert (await them.organization.audit.add_checkpoint(request=request)).lines
    assert (await them.home.audit.witnesses()).own_keys


async def _audit(home: Mesh, pouch: Pouch) -> None:
    noted = pouch.control("the details of an audit event", "published", "rows", "PostgreSQL's files", "export")
    event = ToolCall(tool="search", more={"note": noted}).audit_event()
    (event_id,) = (await home.audit.emit_batch(events=(event,))).ids
    await home.audit.query()
    await home.audit.tail_page(wait_seconds=0)
    await home.audit.save_position(name="canary", next_start=1)
    await home.audit.list_positions()
    await home.audit.delete_position(name="canary")
    checkpoint = await home.audit.checkpoint()
    await home.audit.leaves_page(start=0)
    await home.audit.select(start=0, end=checkpoint.size)
    await home.audit.nodes(size=checkpoint.size, nodes=((0, 0),))
    await home.audit.prove(index=0, size=checkpoint.size)
    await home.audit.consistency(old_size=1, size=checkpoint.size)
    await home.audit.receipt(event_id=event_id)
    await home.audit.tile(path="tile/0/000.p/1")
    await home.audit.bundle_part(path="tile/entries/000.p/1")
    await home.audit.kept_page()
    await home.audit.retention()
    await home.audit.set_retention(category=Category.TOOL_CALL, days=365)
    await home.audit.prunings()
    hold = await home.audit.place_hold(reason="a lawsuit")
    await home.audit.lift_hold(number=hold.number, reason="it is over")
    await home.audit.holds()
    await home.audit.mine()
    somebody = UserId.new()
    about = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", targets=(somebody,))
    (event_id,) = (await home.audit.emit_batch(events=(about,))).ids
    await home.audit.receipt(event_id=event_id)  # it is sealed
    await home.audit.erase(subject=somebody)
    await home.audit.erasures()
    path = pouch.core("forwarder's secret", "audit.add_forwarder (path)")
    secret = pouch.core("forwarder's secret", "audit.add_forwarder")
    # It leads inside, so it is looked up, opened and refused, over and over: all that may write a line about it.
    await home.audit.add_forwarder(name="siem", url=f"https://localhost/in?key={path}", secret=secret, start=0)
    await home.audit.list_forwarders()
    assert (await home.audit.probe_forwarder(name="siem")).error == "not_public"
    client = make(private=Ed25519PrivateKey.generate())
    pouch.take("forwarder's secret", "audit.add_forwarder (client's key)", client.private.private_bytes_raw())
    await home.audit.add_forwarder(
        name="gone", url=f"https://localhost/{path}", secret=secret, secret_header="X-Key",
        client_certificate=client.pem, client_key=client.key,
    )  # fmt: skip
    assert (await home.audit.probe_forwarder(name="gone")).error == "not_public"
    await home.audit.remove_forwarder(name="gone")
    secret = pouch.core("forwarder's secret", "audit.edit_forwarder")
    path = pouch.core("forwarder's secret", "audit.edit_forwarder (path)")
    client = make(private=Ed25519PrivateKey.generate())
    pouch.take("forwarder's secret", "audit.edit_forwarder (client's key)", client.private.private_bytes_raw())
    await home.audit.edit_forwarder(
        name="siem", url=f"https://localhost/in?key={path}", secret=secret,
        client_certificate=client.pem, client_key=client.key,
    )  # fmt: skip
    await home.audit.pause_forwarder(name="siem")
    await home.audit.resume_forwarder(name="siem")
