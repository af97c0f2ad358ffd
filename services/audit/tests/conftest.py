"""A log in memory, one in a real PostgreSQL, a real broker, and requests as the gates would admit them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))  # for `fake_log`, which is no test

from fake_log import FakeLog
from fake_ports import SUBJECTS, FakeEmitter, FakeMemory, FakeWakeups
from makers import Person, make_person

from wardmesh.server.database import Database
from wardmesh.server.messaging import Messaging
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.settings import read_seed
from wardmesh_audit.ports import LogStore
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.subjects import Subjects
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER


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
    """The broker as the audit service has it."""
    opened = Messaging("audit")
    seed = read_seed(servers.layout.identities.seed_file("audit"))
    await opened.connect([servers.nats_url], seed=seed)
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
def subjects() -> Subjects:
    return SUBJECTS


@pytest.fixture
def emitter() -> FakeEmitter:
    return FakeEmitter()


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def wakeups() -> FakeWakeups:
    return FakeWakeups()
