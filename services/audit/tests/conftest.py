"""A log in memory, one in a real PostgreSQL, a real broker, and requests as the gates would admit them."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))  # for `fake_log`, which is no test

from fake_log import FakeEmitter, FakeLog, FakeMemory, FakeWakeups

from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.operation import AnyContract, Level
from wardmesh.ids import OrgId, RequestId, Scope, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh.server.messaging import Messaging
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.settings import read_seed
from wardmesh.server.tokens import Caller
from wardmesh_audit import streams
from wardmesh_audit.ports import LogStore
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER


@dataclass(frozen=True)
class Person:
    """Somebody with a token for a scope; `ask` makes a request of theirs, past the gates."""

    caller: Caller

    @property
    def scope(self) -> Scope:
        return self.caller.scope

    def ask(self, contract: AnyContract, *, seconds: float = 10.0) -> Call:
        ends_at = asyncio.get_running_loop().time() + seconds
        call = Call(
            contract,
            scope=self.caller.scope,
            principal=self.caller.principal,
            request_id=RequestId.new(),
            ends_at=ends_at,
            trace_id=None,
            outbox=None,
        )
        call.admit(self.caller)
        return call


def make_person(scope: Scope | None = None, level: Level = Level.OPERATOR) -> Person:
    """Somebody new, in a new workspace or in `scope`."""
    scope = WorkspaceId.new() if scope is None else scope
    principal = UserId.new()
    return Person(
        Caller(
            principal=principal,
            scope=scope,
            organization=scope if isinstance(scope, OrgId) else OrgId.new(),
            workspace=scope if isinstance(scope, WorkspaceId) else None,
            level=level,
            permissions=effective_permissions(level, None, principal),
            acting_for=None,
            holder_key=None,
            token_id="tok",
            credential_id="key",
            issued_at=0,
            expires_at=0,
        )
    )


@pytest.fixture
def person() -> Callable[..., Person]:
    return make_person


@pytest.fixture
def operator() -> Person:
    return make_person()


@pytest.fixture
def signer() -> LogSigner:
    return LogSigner("wardmesh.test", Ed25519PrivateKey.generate())


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """Real servers with this service's schema, and no service."""

    async def schema(url: str, passwords: dict[str, str]) -> None:
        await migrate(url, {"audit": migrations_of("audit")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-audit-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema) as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database(servers: EmbeddedMesh) -> AsyncIterator[Database]:
    async with Database(servers.database_url("wardmesh_audit"), application="audit") as opened:
        yield opened


@pytest.fixture
async def superuser(servers: EmbeddedMesh) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Who can change rows behind the service's back."""
    connection = await asyncpg.connect(servers.database_url(SUPERUSER))
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def messaging(servers: EmbeddedMesh) -> AsyncIterator[Messaging]:
    """The broker as the audit service has it, with the streams that it declares."""
    opened = Messaging("audit")
    seed = read_seed(servers.layout.identities.seed_file("audit"))
    await opened.connect([servers.nats_url], seed=seed)
    for stream in (streams.AUDIT, streams.SEALED, streams.DEAD):
        await opened.ensure_stream(stream)
    yield opened
    await opened.drain()


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> LogStore:
    if request.param == "fake":
        return FakeLog()
    return PostgresStore(request.getfixturevalue("database"))


@pytest.fixture
def fake_log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def emitter() -> FakeEmitter:
    return FakeEmitter()


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def wakeups() -> FakeWakeups:
    return FakeWakeups()
