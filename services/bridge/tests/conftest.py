"""A complete bridge in memory, one in a real PostgreSQL, and two workspaces that have agreed."""

from __future__ import annotations

import asyncio
import copy
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from wardmesh.bridge_signing import sign
from wardmesh.contracts import bridge as contracts
from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.bridge import NONCE_BYTES, Agreement, AgreementState, SignedMessage
from wardmesh.contracts.operation import AnyContract, Level
from wardmesh.crypto.bridge import MAC_BYTES
from wardmesh.crypto.sealing import HolderKey
from wardmesh.ids import AgreementId, MessageId, OrgId, RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.outbox import Outbox
from wardmesh.server.runtime import OutboxAudit
from wardmesh.server.tokens import Caller
from wardmesh_bridge.domain import Admission, DeadLetter, StoredKey, other_side
from wardmesh_bridge.ports import BridgeStore
from wardmesh_bridge.store import PostgresStore
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass
class Nonce:
    """What was admitted under an agreement, a key and a nonce."""

    admission: Admission
    sender: WorkspaceId
    receiver: WorkspaceId
    expires_at: datetime


@dataclass
class State:
    """All rows. What a workspace sees of them is for `FakeBridge` to say."""

    agreements: dict[AgreementId, Agreement] = field(default_factory=dict)
    keys: dict[tuple[AgreementId, str], StoredKey] = field(default_factory=dict)
    nonces: dict[tuple[AgreementId, str, bytes], Nonce] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    forwarded: list[tuple[str, bytes]] = field(default_factory=list)
    recorded: list[tuple[WorkspaceId, AuditEvent]] = field(default_factory=list)


class FakeBridge:
    """One workspace's transaction on `State`."""

    def __init__(self, state: State, workspace: WorkspaceId) -> None:
        self._state = state
        self._workspace = workspace

    async def agreement(self, agreement: AgreementId) -> Agreement | None:
        found = self._state.agreements.get(agreement)
        return found if found is not None and self._workspace in (found.source, found.target) else None

    async def live_agreement(self, other: WorkspaceId) -> Agreement | None:
        for agreement in self._state.agreements.values():
            sides = {agreement.source, agreement.target}
            if sides == {self._workspace, other} and agreement.state is not AgreementState.REVOKED:
                return agreement
        return None

    async def agreements(self, *, after: AgreementId | None, limit: int) -> Sequence[Agreement]:
        found = [await self.agreement(name) for name in sorted(self._state.agreements) if after is None or name > after]
        return [agreement for agreement in found if agreement is not None][:limit]

    async def propose(self, agreement: AgreementId, target: WorkspaceId, now: datetime) -> bool:
        if await self.live_agreement(target) is not None:
            return False
        self._state.agreements[agreement] = Agreement(
            id=agreement, source=self._workspace, target=target, state=AgreementState.PROPOSED, created_at=now
        )
        return True

    async def accept(self, agreement: AgreementId, now: datetime) -> bool:
        found = await self.agreement(agreement)
        if found is None or found.target != self._workspace or found.state is not AgreementState.PROPOSED:
            return False
        changed = {"state": AgreementState.ACCEPTED, "accepted_at": now}
        self._state.agreements[agreement] = found.model_copy(update=changed)
        return True

    async def revoke(self, agreement: AgreementId, now: datetime) -> bool:
        found = await self.agreement(agreement)
        if found is None or found.state is AgreementState.REVOKED:
            return False
        self._state.agreements[agreement] = found.model_copy(update={"state": AgreementState.REVOKED})
        return True

    async def add_key(self, agreement: AgreementId, key: StoredKey) -> None:
        self._state.keys[agreement, key.key_id] = key

    async def key(self, agreement: AgreementId, key_id: str) -> StoredKey | None:
        return None if await self.agreement(agreement) is None else self._state.keys.get((agreement, key_id))

    async def present_key(self, agreement: AgreementId) -> StoredKey | None:
        found = [key for (name, _), key in self._state.keys.items() if name == agreement]
        return found[-1] if found and await self.agreement(agreement) is not None else None

    async def admission(self, message: SignedMessage) -> Admission | None:
        found = self._state.nonces.get((message.agreement, message.key_id, message.nonce))
        return found.admission if found and self._workspace in (found.sender, found.receiver) else None

    async def admit(self, message: SignedMessage, now: datetime) -> bool:
        assert message.source == self._workspace
        name = (message.agreement, message.key_id, message.nonce)
        used = {(key[0], nonce.admission.message_id) for key, nonce in self._state.nonces.items()}
        if name in self._state.nonces or (message.agreement, message.id) in used:
            return False
        admission = Admission(message.id, message.signature, settled=False)
        self._state.nonces[name] = Nonce(admission, message.source, message.target, message.expires_at)
        return True

    async def settle(self, message: SignedMessage, now: datetime) -> bool:
        found = self._state.nonces.get((message.agreement, message.key_id, message.nonce))
        if found is None or found.admission.settled or found.receiver != self._workspace:
            return False
        found.admission = replace(found.admission, settled=True)
        return True

    async def forget(self) -> None:
        pass

    async def bury(self, letter: DeadLetter, now: datetime) -> None:
        assert letter.receiver == self._workspace
        self._state.letters.append(letter)

    async def forward(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        self._state.forwarded.append((subject, payload))

    async def record(self, workspace: WorkspaceId, event: AuditEvent) -> None:
        self._state.recorded.append((workspace, event))


class FakeStore:
    """A bridge in memory: transactions one after another, all or nothing. `failure` is raised at the next commit."""

    def __init__(self) -> None:
        self.state = State()
        self.failure: Exception | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[FakeBridge]:
        assert call.caller.workspace is not None
        async with self._as(call.caller.workspace, read_only=read_only) as rows:
            yield rows

    @asynccontextmanager
    async def as_receiver(self, workspace: WorkspaceId) -> AsyncIterator[FakeBridge]:
        async with self._as(workspace) as rows:
            yield rows

    @asynccontextmanager
    async def _as(self, workspace: WorkspaceId, *, read_only: bool = False) -> AsyncIterator[FakeBridge]:
        async with self._lock:
            state = copy.deepcopy(self.state)
            yield FakeBridge(state, workspace)
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            if not read_only:
                self.state = state


@dataclass(frozen=True)
class Person:
    """Somebody with a token for a workspace; `ask` makes a request of theirs, past the gates."""

    caller: Caller
    holder: HolderKey

    @property
    def workspace(self) -> WorkspaceId:
        assert self.caller.workspace is not None
        return self.caller.workspace

    def ask(self, contract: AnyContract = contracts.SEND) -> Call:
        call = Call(
            contract,
            scope=self.caller.scope,
            principal=self.caller.principal,
            request_id=RequestId.new(),
            ends_at=asyncio.get_running_loop().time() + 10,
            trace_id=None,
            outbox=None,
        )
        call.admit(self.caller)
        return call

    def but(self, **changes: Any) -> Person:
        return Person(replace(self.caller, **changes), self.holder)


def make_person(level: Level = Level.ADMIN) -> Person:
    """Somebody in a new workspace of a new organization."""
    principal, workspace, holder = UserId.new(), WorkspaceId.new(), HolderKey.generate()
    caller = Caller(
        principal=principal,
        scope=workspace,
        organization=OrgId.new(),
        workspace=workspace,
        level=level,
        permissions=effective_permissions(level, None, principal),
        acting_for=None,
        holder_key=holder.public_bytes,
        token_id="tok",
        credential_id="key",
        issued_at=0,
        expires_at=0,
    )
    return Person(caller, holder)


@dataclass(frozen=True)
class Signer:
    """Signs messages of one workspace under an agreement, as its client would."""

    agreement: Agreement
    key_id: str
    key: bytes = field(repr=False)
    now: datetime

    def unsigned(self, sender: WorkspaceId, **changes: Any) -> SignedMessage:
        """A message of `sender`'s, with whatever fields differ."""
        fields: dict[str, Any] = {
            "agreement": self.agreement.id,
            "key_id": self.key_id,
            "id": MessageId.new(),
            "source": sender,
            "target": other_side(self.agreement, sender),
            "type": "report.build",
            "nonce": secrets.token_bytes(NONCE_BYTES),
            "issued_at": self.now,
            "expires_at": self.now + timedelta(seconds=60),
            "body": b'{"month":"2026-10"}',
            "signature": bytes(MAC_BYTES),
        }
        return SignedMessage.model_construct(**SignedMessage(**fields | changes).model_dump() | changes)

    def message(self, sender: WorkspaceId, **changes: Any) -> SignedMessage:
        return sign(self.key, self.unsigned(sender, **changes))


@pytest.fixture
def person() -> Callable[..., Person]:
    return make_person


@pytest.fixture
def signer() -> type[Signer]:
    return Signer


@pytest.fixture
def alice() -> Person:
    return make_person()


@pytest.fixture
def bob() -> Person:
    return make_person()


@pytest.fixture
def mallory() -> Person:
    return make_person(Level.OWNER)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """Real servers with this service's schema, and no service."""

    async def schema(url: str, passwords: Mapping[str, str]) -> None:
        await migrate(url, {"bridge": migrations_of("bridge")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-bridge-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema) as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database(servers: EmbeddedMesh) -> AsyncIterator[Database]:
    async with Database(servers.database_url("wardmesh_bridge"), application="bridge") as opened:
        yield opened


@pytest.fixture
async def superuser(servers: EmbeddedMesh) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Who can change rows behind the service's back."""
    connection = await asyncpg.connect(servers.database_url(SUPERUSER))
    yield connection
    await connection.close()


@pytest.fixture
def postgres_store(database: Database) -> PostgresStore:
    outbox = Outbox("bridge")
    return PostgresStore(database, outbox, OutboxAudit(outbox))


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> BridgeStore:
    if request.param == "fake":
        return FakeStore()
    found: BridgeStore = request.getfixturevalue("postgres_store")
    return found


@pytest.fixture
def fake_store() -> FakeStore:
    return FakeStore()
