"""A mesh in memory, as far as commands see one: what they put is there, and any call can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from fake_audit import NOW, FakeAudit

import wardmesh
from wardmesh.client.bridge import ReceivedMessage
from wardmesh.client.subscription import Subscription
from wardmesh.client.webhooks import ReceivedEvent
from wardmesh.contracts import audit, auth, bridge, secrets, webhooks
from wardmesh.contracts.operation import Category
from wardmesh.crypto.apikey import SECRET_BYTES, ApiKey
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.mldsa import MldsaSigner
from wardmesh.errors import NotFound, WardmeshError
from wardmesh.ids import (
    AgentId,
    AgreementId,
    EventId,
    KeyId,
    MessageId,
    OrgId,
    Principal,
    Scope,
    ServiceId,
    UserId,
    WorkspaceId,
)

POLL_SECONDS = 0.05


def api_key(organization: OrgId, scope: Scope, principal: Principal | None = None) -> str:
    """A key that parses."""
    return ApiKey(
        organization=organization,
        scope=scope,
        principal=principal or ServiceId.new(),
        id=KeyId.new(),
        secret=bytes(SECRET_BYTES),
    ).encode()


@dataclass
class World:
    """What all connections of a test see, and a record of how they were made."""

    organization: OrgId = field(default_factory=OrgId.new)
    workspace: WorkspaceId = field(default_factory=WorkspaceId.new)
    secrets: dict[str, list[bytes]] = field(default_factory=dict)
    grants: list[secrets.Grant] = field(default_factory=list)
    principals: list[auth.PrincipalInfo] = field(default_factory=list)
    keys: list[auth.KeyInfo] = field(default_factory=list)
    workspaces: list[auth.Workspace] = field(default_factory=list)
    agreements: list[bridge.Agreement] = field(default_factory=list)
    sources: list[webhooks.Source] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict)
    published: list[webhooks.NewEvent] = field(default_factory=list)
    sent: list[tuple[WorkspaceId, str, Any]] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    entries: list[audit.Entry] = field(default_factory=list)
    days: dict[Category, int | None] = field(default_factory=dict)
    holds: list[audit.Hold] = field(default_factory=list)
    erasures: list[audit.Erasure] = field(default_factory=list)
    letters: dict[audit.letters.DeadLetter, bytes] = field(default_factory=dict)
    prunings: list[audit.Pruning] = field(default_factory=list)
    forwarders: dict[str, audit.Forwarder] = field(default_factory=dict)
    asked_to_forward: list[audit.AddForwarder] = field(default_factory=list)
    asked_to_edit: list[audit.EditForwarder] = field(default_factory=list)
    probed: audit.ForwarderProbe = field(default_factory=audit.ForwarderProbe)
    connections: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, WardmeshError] = field(default_factory=dict)
    """Raised by the call of that name: `secrets.get_bytes`."""
    positions: dict[str, int] = field(default_factory=dict)
    searched: list[audit.Filter] = field(default_factory=list)
    expiries: list[WardmeshError] = field(default_factory=list)
    """Each ends one tail."""
    cosigners: list[Cosigner] = field(default_factory=list)
    mldsa: list[MldsaSigner] = field(default_factory=list)
    """Who cosigns every checkpoint."""
    witnesses: audit.Witnesses = field(default_factory=audit.Witnesses)

    @asynccontextmanager
    async def connect(self, url: str, api_key: str | None = None, **options: Any) -> AsyncIterator[wardmesh.Mesh]:
        """In the place of `wardmesh.connect`."""
        self.connections.append({"url": url, "api_key": api_key, **options})
        self.fail("connect")
        yield FakeMesh(self, options.get("scope") or self.workspace)  # type: ignore[misc]  # as far as commands see one

    def fail(self, name: str) -> None:
        if name in self.failures:
            raise self.failures[name]

    def log(self, action: str, outcome: audit.Outcome = audit.Outcome.SUCCESS, **fields: Any) -> None:
        """Put an entry into the log."""
        event = audit.AuditEvent(
            id=EventId.new(),
            occurred_at=NOW,
            category=Category.TOOL_CALL,
            action=action,
            outcome=outcome,
            actor=UserId.nil(),
            **fields,
        )
        entry = audit.Entry(index=len(self.entries), scope=self.workspace, source="test", event=event, received_at=NOW)
        self.entries.append(entry)


class FakeMesh:
    """One connection."""

    def __init__(self, world: World, scope: Scope) -> None:
        self.scope = scope
        self.secrets = FakeSecrets(world)
        self.auth = FakeAuth(world, scope)
        self.bridge = FakeBridge(world)
        self.webhooks = FakeWebhooks(world)
        self.events = FakeEvents(world)
        self.audit = FakeAudit(world)


class FakeSecrets:
    def __init__(self, world: World) -> None:
        self._world = world

    async def put(self, path: str, value: bytes) -> secrets.SecretVersion:
        self._world.fail("secrets.put")
        versions = self._world.secrets.setdefault(path, [])
        versions.append(value)
        return secrets.SecretVersion(path=path, version=len(versions), created_at=NOW)

    async def get_bytes(self, path: str, *, version: int | None = None) -> bytes:
        self._world.fail("secrets.get_bytes")
        if path not in self._world.secrets:
            raise NotFound
        return self._world.secrets[path][-1 if version is None else version - 1]

    async def list(self, *, prefix: str, after: str | None, limit: int) -> secrets.Secrets:
        self._world.fail("secrets.list")
        paths = sorted(path for path in self._world.secrets if path.startswith(prefix) and path > (after or ""))
        found = [
            secrets.SecretInfo(path=path, versions=len(self._world.secrets[path]), created_at=NOW, updated_at=NOW)
            for path in paths[:limit]
        ]
        return secrets.Secrets(secrets=tuple(found))

    async def grant(self, *, pattern: str, principal: Principal) -> secrets.Grant:
        grant = secrets.Grant(pattern=pattern, principal=principal, granted_by=UserId.nil(), created_at=NOW)
        self._world.grants.append(grant)
        return grant

    async def revoke_grant(self, *, pattern: str, principal: Principal) -> None:
        self._world.grants = [
            grant for grant in self._world.grants if (grant.pattern, grant.principal) != (pattern, principal)
        ]

    async def list_grants(self, *, principal: Principal | None, limit: int) -> secrets.Grants:
        found = [grant for grant in self._world.grants if principal in (None, grant.principal)]
        return secrets.Grants(grants=tuple(found[:limit]))


class FakeAuth:
    def __init__(self, world: World, scope: Scope) -> None:
        self._world = world
        self._scope = scope

    async def who_am_i(self) -> auth.Identity:
        self._world.fail("auth.who_am_i")
        return auth.Identity(
            principal=UserId.nil(),
            organization=self._world.organization,
            scope=self._scope,
            level="owner",
            permissions=("secret.read",),
        )

    async def create_workspace(self, *, name: str) -> auth.Workspace:
        made = auth.Workspace(id=WorkspaceId.new(), name=name, created_at=NOW)
        self._world.workspaces.append(made)
        return made

    async def list_workspaces(self, *, after: WorkspaceId | None, limit: int) -> auth.Workspaces:
        found = [each for each in self._world.workspaces if after is None or each.id > after]
        return auth.Workspaces(workspaces=tuple(found[:limit]))

    async def create_agent(self, *, name: str, level: str) -> auth.PrincipalInfo:
        return self._add(AgentId.new(), name, level)

    async def create_service_account(self, *, name: str, level: str) -> auth.PrincipalInfo:
        return self._add(ServiceId.new(), name, level)

    async def create_user(self, *, email: str, password: str, level: str) -> auth.PrincipalInfo:
        self._world.passwords[email] = password
        return self._add(UserId.new(), email, level)

    async def list_principals(self, *, after: Principal | None, limit: int) -> auth.Principals:
        found = [each for each in self._world.principals if after is None or each.id > after]
        return auth.Principals(principals=tuple(found[:limit]))

    async def set_level(self, *, principal: Principal, level: str) -> auth.PrincipalInfo:
        for place, each in enumerate(self._world.principals):
            if each.id == principal:
                self._world.principals[place] = each.model_copy(update={"level": level})
                return self._world.principals[place]
        raise NotFound

    async def revoke_principal(self, *, principal: Principal) -> auth.Revoked:
        return auth.Revoked(revoked_at=NOW, connections_closed=2)

    async def create_key(
        self, *, principal: Principal, name: str, permissions: tuple[str, ...] | None, lifetime_days: int
    ) -> auth.CreatedKey:
        expires_at = NOW + timedelta(days=lifetime_days)
        text = api_key(self._world.organization, self._scope, principal)
        info = auth.KeyInfo(
            id=ApiKey.parse(text).id,
            principal=principal,
            name=name,
            permissions=permissions,
            created_at=NOW,
            expires_at=expires_at,
            revoked_at=None,
        )
        self._world.keys.append(info)
        return auth.CreatedKey(id=info.id, api_key=text, expires_at=expires_at)

    async def list_keys(self, *, principal: Principal | None, after: KeyId | None, limit: int) -> auth.Keys:
        found = [key for key in self._world.keys if principal in (None, key.principal)]
        return auth.Keys(keys=tuple(key for key in found if after is None or key.id > after)[:limit])

    async def revoke_key(self, *, key: KeyId) -> auth.Revoked:
        for place, each in enumerate(self._world.keys):
            if each.id == key:
                self._world.keys[place] = each.model_copy(update={"revoked_at": NOW})
                return auth.Revoked(revoked_at=NOW, connections_closed=1)
        raise NotFound

    def _add(self, principal: Principal, name: str, level: str) -> auth.PrincipalInfo:
        made = auth.PrincipalInfo(id=principal, name=name, scope=self._scope, level=level, created_at=NOW)
        self._world.principals.append(made)
        return made


class FakeBridge:
    def __init__(self, world: World) -> None:
        self._world = world

    async def propose(self, *, target: WorkspaceId) -> bridge.Agreement:
        made = bridge.Agreement(
            id=AgreementId.new(),
            source=self._world.workspace,
            target=target,
            state=bridge.AgreementState.PROPOSED,
            created_at=NOW,
        )
        self._world.agreements.append(made)
        return made

    async def accept(self, *, agreement: AgreementId) -> bridge.Agreement:
        return self._change(agreement, bridge.AgreementState.ACCEPTED)

    async def revoke(self, *, agreement: AgreementId) -> bridge.Agreement:
        return self._change(agreement, bridge.AgreementState.REVOKED)

    async def list(self, *, after: AgreementId | None, limit: int) -> bridge.Agreements:
        found = [each for each in self._world.agreements if after is None or each.id > after]
        return bridge.Agreements(agreements=tuple(found[:limit]))

    async def send(self, target: WorkspaceId, type: str, data: Any, *, lifetime: timedelta) -> MessageId:  # noqa: A002
        self._world.sent.append((target, type, data))
        return MessageId.new()

    def receive(self, *, group: str, source: WorkspaceId | None, type: str | None) -> Subscription[Any, Any]:  # noqa: A002
        messages = [_message(self._world, number, body) for number, (_, _, body) in enumerate(self._world.sent)]
        return _subscription(self._world, messages, ReceivedMessage)

    def _change(self, agreement: AgreementId, state: bridge.AgreementState) -> bridge.Agreement:
        for place, each in enumerate(self._world.agreements):
            if each.id == agreement:
                self._world.agreements[place] = each.model_copy(update={"state": state})
                return self._world.agreements[place]
        raise NotFound


class FakeWebhooks:
    def __init__(self, world: World) -> None:
        self._world = world
        self.signing_secrets: dict[str, str] = {}

    async def create_source(self, *, name: str, scheme: webhooks.Scheme, signing_secret: str) -> webhooks.Source:
        made = webhooks.Source(name=name, scheme=scheme, path=f"/hooks/{self._world.workspace}/{name}", created_at=NOW)
        self._world.sources.append(made)
        self._world.passwords[name] = signing_secret
        return made

    async def list_sources(self) -> webhooks.Sources:
        return webhooks.Sources(sources=tuple(self._world.sources))

    async def delete_source(self, *, name: str) -> None:
        self._world.sources = [source for source in self._world.sources if source.name != name]


class FakeEvents:
    def __init__(self, world: World) -> None:
        self._world = world

    async def publish(self, type: str, data: Any, *, id: str | None) -> str:  # noqa: A002
        event = webhooks.NewEvent(type=type, data=data, id=id or EventId.new())
        self._world.published.append(event)
        return str(event.id)

    def subscribe(self, pattern: str, *, group: str) -> Subscription[Any, Any]:
        found = [_event(number, event) for number, event in enumerate(self._world.published)]
        return _subscription(self._world, found, ReceivedEvent)


def _event(number: int, event: webhooks.NewEvent) -> webhooks.DeliveredEvent:
    return webhooks.DeliveredEvent(
        id=str(event.id),
        source="app",
        type=event.type,
        time=NOW,
        content_type="application/json",
        data=webhooks.NewEvent.model_dump_json(event, include={"data"}).encode()[len(b'{"data":') : -1],
        delivery=1,
        ack=f"{number}.1.1.1.1",
    )


def _message(world: World, number: int, body: Any) -> bridge.DeliveredMessage:
    _, type_, _ = world.sent[number]
    message = bridge.SignedMessage(
        agreement=AgreementId.new(),
        key_id="k1",
        id=MessageId.new(),
        source=WorkspaceId.new(),
        target=world.workspace,
        type=type_,
        nonce=bytes(bridge.NONCE_BYTES),
        issued_at=NOW,
        expires_at=NOW,
        body=repr(body).replace("'", '"').encode(),
        signature=bytes(32),
    )
    return bridge.DeliveredMessage(message=message, delivery=1, ack=f"{number}.1.1.1.1")


def _subscription(world: World, items: list[Any], make: Callable[[Any, Any], Any]) -> Subscription[Any, Any]:
    """The client's own subscription, on a fetch that has all of it at once."""
    waiting = list(items)

    async def fetch(*, batch: int, acks: tuple[str, ...], **_: Any) -> list[Any]:
        world.acknowledged.update(acks)
        taken, waiting[:batch] = waiting[:batch], []
        await asyncio.sleep(0 if taken else POLL_SECONDS)
        return taken

    async def admit(delivered: Any, settle: Any) -> Any:
        return make(delivered, settle)

    return Subscription(fetch, admit)
