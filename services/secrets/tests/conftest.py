"""A complete vault in memory, one in a real PostgreSQL, and requests as the gates would admit them."""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.operation import AnyContract, Level
from wardmesh.contracts.secrets import Grant, SecretInfo
from wardmesh.crypto.sealing import HolderKey
from wardmesh.ids import AgentId, OrgId, Principal, RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.tokens import Caller
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER
from wardmesh_secrets.domain import SealedVersion, StoredScopeKey, StoredSealingKey, StoredVersion, covers
from wardmesh_secrets.ports import VaultStore
from wardmesh_secrets.store import PostgresStore

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass
class Rows:
    """What one workspace has."""

    sealing_keys: dict[str, StoredSealingKey] = field(default_factory=dict)
    present: str | None = None
    scope_keys: dict[int, StoredScopeKey] = field(default_factory=dict)
    secrets: dict[str, SecretInfo] = field(default_factory=dict)
    versions: dict[tuple[str, int], tuple[SealedVersion, datetime]] = field(default_factory=dict)
    grants: dict[tuple[str, str], Grant] = field(default_factory=dict)


class FakeVault:
    """One transaction on `Rows`."""

    def __init__(self, rows: Rows, caller: Caller) -> None:
        self._rows = rows
        self._caller = caller

    async def present_sealing_key(self) -> StoredSealingKey | None:
        return None if self._rows.present is None else self._rows.sealing_keys[self._rows.present]

    async def sealing_key(self, key_id: str) -> StoredSealingKey | None:
        return self._rows.sealing_keys.get(key_id)

    async def add_sealing_key(self, key: StoredSealingKey) -> None:
        if self._rows.present is None:
            self._rows.sealing_keys[key.key_id] = key
            self._rows.present = key.key_id

    async def scope_key(self) -> StoredScopeKey | None:
        return self._rows.scope_keys[max(self._rows.scope_keys)] if self._rows.scope_keys else None

    async def add_scope_key(self, key: StoredScopeKey) -> None:
        self._rows.scope_keys.setdefault(key.generation, key)

    async def next_version(self, path: str, now: datetime) -> int:
        before = self._rows.secrets.get(path) or SecretInfo(path=path, versions=0, created_at=now, updated_at=now)
        after = before.model_copy(update={"versions": before.versions + 1, "updated_at": max(before.updated_at, now)})
        self._rows.secrets[path] = after
        return after.versions

    async def add_version(self, path: str, version: int, sealed: SealedVersion, now: datetime) -> None:
        assert (path, version) not in self._rows.versions
        self._rows.versions[path, version] = (sealed, now)

    async def version(self, path: str, version: int | None) -> StoredVersion | None:
        number = version if version is not None else max((n for p, n in self._rows.versions if p == path), default=0)
        found = self._rows.versions.get((path, number))
        if found is None:
            return None
        sealed, created_at = found
        return StoredVersion(path, number, created_at, sealed, self._rows.scope_keys[sealed.generation])

    async def secrets(
        self, *, prefix: str, after: str | None, limit: int, readable_by: Principal | None
    ) -> Sequence[SecretInfo]:
        patterns = [grant.pattern for grant in self._rows.grants.values() if grant.principal == readable_by]
        return [
            secret
            for path, secret in sorted(self._rows.secrets.items())
            if path.startswith(prefix)
            and (after is None or path > after)
            and (readable_by is None or any(covers(pattern, path) for pattern in patterns))
        ][:limit]

    async def holds_grant(self, principal: Principal, patterns: Sequence[str]) -> bool:
        return any((principal, pattern) in self._rows.grants for pattern in patterns)

    async def add_grant(self, pattern: str, principal: Principal, now: datetime) -> Grant:
        fresh = Grant(pattern=pattern, principal=principal, granted_by=self._caller.principal, created_at=now)
        return self._rows.grants.setdefault((principal, pattern), fresh)

    async def remove_grant(self, pattern: str, principal: Principal) -> bool:
        return self._rows.grants.pop((principal, pattern), None) is not None

    async def grants(self, *, principal: Principal | None, limit: int) -> Sequence[Grant]:
        found = sorted(self._rows.grants.items())
        return [grant for _, grant in found if principal is None or grant.principal == principal][:limit]


class FakeStore:
    """A vault in memory: transactions one after another, all or nothing. `failure` is raised at the next commit."""

    def __init__(self) -> None:
        self.workspaces: dict[tuple[str, str | None], Rows] = defaultdict(Rows)
        self.failure: Exception | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, call: Call, *, read_only: bool = False) -> AsyncIterator[FakeVault]:
        async with self._lock:
            owner = (call.caller.organization, call.caller.workspace)
            rows = copy.deepcopy(self.workspaces[owner])
            yield FakeVault(rows, call.caller)
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            if not read_only:
                self.workspaces[owner] = rows


@dataclass(frozen=True)
class Person:
    """Somebody with a token for a workspace; `ask` makes a request of theirs, past the gates."""

    caller: Caller
    holder: HolderKey

    def ask(self, contract: AnyContract = contracts.PUT, request_id: RequestId | None = None) -> Call:
        call = Call(
            contract,
            scope=self.caller.scope,
            principal=self.caller.principal,
            request_id=request_id or RequestId.new(),
            ends_at=asyncio.get_running_loop().time() + 10,
            trace_id=None,
            outbox=None,
        )
        call.admit(self.caller)
        return call

    def but(self, **changes: object) -> Person:
        return Person(replace(self.caller, **changes), self.holder)  # type: ignore[arg-type]


def make_person(level: Level, *, like: Person | None = None, permissions: Sequence[str] | None = None) -> Person:
    """Somebody new, in a new workspace or in that of `like`."""
    principal: Principal = AgentId.new() if level is Level.RESTRICTED else UserId.new()
    workspace = WorkspaceId.new() if like is None else like.caller.workspace
    holder = HolderKey.generate()
    assert workspace is not None
    caller = Caller(
        principal=principal,
        scope=workspace,
        organization=OrgId.new() if like is None else like.caller.organization,
        workspace=workspace,
        level=level,
        permissions=effective_permissions(level, permissions, principal),
        acting_for=None,
        holder_key=holder.public_bytes,
        token_id="tok",
        credential_id="key",
        issued_at=0,
        expires_at=0,
    )
    return Person(caller, holder)


@pytest.fixture
def person() -> Callable[..., Person]:
    return make_person


@pytest.fixture
def admin() -> Person:
    return make_person(Level.ADMIN)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """Real servers with this service's schema, and no service."""

    async def schema(url: str, passwords: dict[str, str]) -> None:
        await migrate(url, {"secrets": migrations_of("secrets")}, passwords)

    async def no_streams(_url: str, _seed: str, _ca_file: Path | None) -> None:
        """Tests declare what they need: one shows what happens without a stream."""

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-secrets-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema, streams=no_streams) as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database(servers: EmbeddedMesh) -> AsyncIterator[Database]:
    async with Database(servers.database_url("wardmesh_secrets"), application="secrets") as opened:
        yield opened


@pytest.fixture
async def superuser(servers: EmbeddedMesh) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Who can change rows behind the service's back."""
    connection = await asyncpg.connect(servers.database_url(SUPERUSER))
    yield connection
    await connection.close()


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> VaultStore:
    if request.param == "fake":
        return FakeStore()
    return PostgresStore(request.getfixturevalue("database"))


@pytest.fixture
def fake_store() -> FakeStore:
    return FakeStore()
