"""Complete fakes of what the service needs, real servers, and requests as the gates would admit them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from wardmesh.contracts import webhooks as contracts
from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.operation import AnyContract, Level
from wardmesh.contracts.webhooks import Scheme
from wardmesh.envelope import Event
from wardmesh.errors import AuditUnavailable, Conflict
from wardmesh.ids import OrgId, RequestId, Scope, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh.server.fetching import Delivery
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.outbox import Outbox
from wardmesh.server.runtime import OutboxAudit
from wardmesh.server.tokens import Caller
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER
from wardmesh_webhooks.domain import Received, StoredSource
from wardmesh_webhooks.door import Door, Origin
from wardmesh_webhooks.ports import Acceptance, Store
from wardmesh_webhooks.store import PostgresStore
from wardmesh_webhooks.vault import SecretVault

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = bytes(range(32))


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, time: timedelta) -> None:
        self.now += time


@dataclass
class FakeSources:
    """One transaction on the sources of a workspace."""

    rows: dict[str, StoredSource]
    organization: OrgId
    workspace: WorkspaceId

    async def add(self, name: str, scheme: Scheme, sealed_secret: bytes) -> StoredSource:
        if name in self.rows:
            raise Conflict
        self.rows[name] = StoredSource(self.organization, self.workspace, name, scheme, uuid4(), NOW, sealed_secret)
        return self.rows[name]

    async def list(self) -> Sequence[StoredSource]:
        return [self.rows[name] for name in sorted(self.rows)]

    async def remove(self, name: str) -> bool:
        return self.rows.pop(name, None) is not None


class FakeStore:
    """A store in memory, all or nothing. `failure` is raised at the next commit."""

    def __init__(self) -> None:
        self.sources: dict[WorkspaceId, dict[str, StoredSource]] = {}
        self.receipts: set[tuple[WorkspaceId, str, bytes]] = set()
        self.published: list[Event] = []
        self.audited: list[AuditEvent] = []
        self.failure: Exception | None = None

    def _commit(self) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[FakeSources]:
        workspace = call.caller.workspace
        assert workspace is not None
        rows = dict(self.sources.get(workspace, {}))
        yield FakeSources(rows, call.caller.organization, workspace)
        self._commit()
        if not read_only:
            self.sources[workspace] = rows

    async def find(self, workspace: WorkspaceId, name: str) -> StoredSource | None:
        return self.sources.get(workspace, {}).get(name)

    async def accept(self, source: StoredSource, received: Received, event: Event, audit: AuditEvent) -> Acceptance:
        present = self.sources.get(source.workspace, {}).get(source.name)
        if present is None or present.incarnation != source.incarnation:
            return Acceptance.SOURCE_GONE
        key = (source.workspace, source.name, received.key)
        if key in self.receipts:
            return Acceptance.DUPLICATE
        self._commit()
        self.receipts.add(key)
        self.published.append(event)
        self.audited.append(audit)
        return Acceptance.ACCEPTED


class FakeAudit:
    """An audit queue in memory; unavailable if told so."""

    def __init__(self) -> None:
        self.events: list[tuple[Scope, AuditEvent]] = []
        self.available = True

    async def enqueue(self, scope: Scope, event: AuditEvent, *, trace_parent: str | None = None) -> None:
        if not self.available:
            raise AuditUnavailable
        self.events.append((scope, event))


class FakeStream:
    """What is published, and what is delivered next. `failure` is raised by the next publish."""

    def __init__(self) -> None:
        self.messages: list[OutboundMessage] = []
        self.failure: Exception | None = None
        self.deliveries: list[Delivery] = []
        self.fetches: list[dict[str, object]] = []
        self.terminated: list[str] = []
        self.handed_back: list[str] = []
        self.release = asyncio.Event()
        self.release.set()

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.messages.extend(messages)

    async def fetch(
        self,
        *,
        consumer: str,
        filter_subject: str,
        batch: int,
        wait_seconds: float,
        acks: Sequence[str] = (),
        naks: Sequence[str] = (),
    ) -> list[Delivery]:
        self.fetches.append({"consumer": consumer, "filter": filter_subject, "wait": wait_seconds, "acks": acks})
        await self.release.wait()
        taken, self.deliveries = self.deliveries[:batch], self.deliveries[batch:]
        return taken

    async def terminate(self, *, consumer: str, filter_subject: str, token: str) -> None:
        self.terminated.append(token)

    async def hand_back(self, *, consumer: str, filter_subject: str, tokens: Iterable[str]) -> None:
        self.handed_back.extend(tokens)


@dataclass(frozen=True)
class Person:
    """Somebody with a token for a workspace; `ask` makes a request of theirs, past the gates."""

    caller: Caller

    @property
    def workspace(self) -> WorkspaceId:
        assert self.caller.workspace is not None
        return self.caller.workspace

    def ask(self, contract: AnyContract = contracts.CREATE_SOURCE, *, seconds: float = 10) -> Call:
        call = Call(
            contract,
            scope=self.caller.scope,
            principal=self.caller.principal,
            request_id=RequestId.new(),
            ends_at=asyncio.get_running_loop().time() + seconds,
            trace_id=None,
            outbox=None,
        )
        call.admit(self.caller)
        return call


def make_person(level: Level = Level.ADMIN, permissions: Sequence[str] | None = None) -> Person:
    """Somebody new in a new workspace."""
    principal, workspace = UserId.new(), WorkspaceId.new()
    return Person(
        Caller(
            principal=principal,
            scope=workspace,
            organization=OrgId.new(),
            workspace=workspace,
            level=level,
            permissions=effective_permissions(level, permissions, principal),
            acting_for=None,
            holder_key=None,
            token_id="tok",
            credential_id="key",
            issued_at=0,
            expires_at=0,
        )
    )


@dataclass
class Sender:
    """Somebody who signs as GitHub does, which needs no clock."""

    store: Store
    door: Door
    vault: SecretVault
    person: Person = field(default_factory=make_person)
    name: str = "github"

    async def open(self, scheme: Scheme = Scheme.GITHUB, secret: str = SECRET) -> StoredSource:
        sealed = self.vault.seal(self.person.workspace, self.name, scheme, secret)
        async with self.store.transaction(self.person.ask()) as sources:
            return await sources.add(self.name, scheme, sealed)

    @staticmethod
    def headers(body: bytes, secret: str = SECRET) -> list[tuple[str, str]]:
        return [
            ("x-hub-signature-256", "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()),
            ("x-github-event", "push"),
            ("content-type", "application/json"),
        ]


@pytest.fixture
def person() -> Callable[..., Person]:
    return make_person


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault() -> SecretVault:
    return SecretVault(KEY)


@pytest.fixture
def fake_store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def audit() -> FakeAudit:
    return FakeAudit()


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def door(fake_store: FakeStore, vault: SecretVault, audit: FakeAudit, clock: Clock) -> Door:
    return Door(fake_store, vault, audit, clock, monotonic=lambda: clock.now.timestamp())


@pytest.fixture
def sender(fake_store: FakeStore, door: Door, vault: SecretVault) -> Sender:
    return Sender(fake_store, door, vault)


@pytest.fixture
def origin() -> Origin:
    return Origin(RequestId.new(), "203.0.113.7", "GitHub-Hookshot/abc")


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """Real servers with this service's schema, and no service."""

    async def schema(url: str, passwords: dict[str, str]) -> None:
        await migrate(url, {"webhooks": migrations_of("webhooks")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-webhooks-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema) as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database(servers: EmbeddedMesh) -> AsyncIterator[Database]:
    async with Database(servers.database_url("wardmesh_webhooks"), application="webhooks") as opened:
        yield opened


@pytest.fixture
async def superuser(servers: EmbeddedMesh) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Who sees all rows, and can change them behind the service's back."""
    connection = await asyncpg.connect(servers.database_url(SUPERUSER))
    yield connection
    await connection.close()


def postgres_store(database: Database) -> PostgresStore:
    outbox = Outbox("webhooks")
    return PostgresStore(database, outbox, OutboxAudit(outbox))


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "fake":
        return FakeStore()
    return postgres_store(request.getfixturevalue("database"))
