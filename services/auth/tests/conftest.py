"""Auth on a store in memory, a store in a real PostgreSQL, and a whole auth service on a real broker."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

sys.path.insert(0, str(Path(__file__).parent))  # for `fake_identities`, which is no test

from fake_identities import FakeAudit, FakeBoard, FakeConnections, FakeLedger, FakePasswords, FakeStore

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.operation import AnyContract
from wardmesh.crypto.apikey import ApiKey
from wardmesh.ids import OrgId, Principal, RequestId, Scope, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.server.tokens import Caller, check_not_revoked, import_key, verify
from wardmesh_auth.admission import Admission
from wardmesh_auth.revocation import Announcer, RevocationService
from wardmesh_auth.service import IdentityService
from wardmesh_auth.sessions import SessionService
from wardmesh_auth.store import PostgresStore
from wardmesh_auth.tokens import TokenIssuer
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PASSWORD = "correct horse battery staple"
EMAIL = "ada@example.com"


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class Randomness:
    """Bytes that differ from call to call, and not from run to run."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_128(self.calls.to_bytes(8, "big")).digest(count)


@dataclass
class Auth:
    """The use cases on fakes, the way that `app` puts them together."""

    clock: Clock = field(default_factory=Clock)
    store: FakeStore = field(default_factory=FakeStore)
    passwords: FakePasswords = field(default_factory=FakePasswords)
    board: FakeBoard = field(default_factory=FakeBoard)
    connections: FakeConnections = field(default_factory=FakeConnections)
    audit: FakeAudit = field(default_factory=FakeAudit)
    sign_up_open: bool = True

    def __post_init__(self) -> None:
        randomness = Randomness()
        self.issuer = TokenIssuer(Ed25519PrivateKey.from_private_bytes(bytes(32)), issuer="wardmesh")
        self.keys: dict[str, OKPKey] = {self.issuer.kid: import_key(self.issuer.public_jwk)}
        announcer = Announcer(self.board, self.connections)
        self.revocations = RevocationService(self.store, announcer, self.clock)
        self.sessions = SessionService(
            self.store,
            self.passwords,
            self.issuer,
            self.revocations,
            attempts=RateLimiter(Rate(per_second=1.0, burst=5)),
            sign_up_open=self.sign_up_open,
            clock=self.clock,
            monotonic=lambda: self.clock.now.timestamp(),
            randomness=randomness,
        )
        self.identities = IdentityService(
            self.store, self.passwords, announcer, clock=self.clock, randomness=randomness
        )
        self.admission = Admission(self.sessions, self, self.audit, self.clock)

    def authenticate(self, token: str) -> Caller:
        """What every gate of the mesh does with a token."""
        caller = verify(token, self.keys, issuer="wardmesh", now=self.clock.now.timestamp())
        check_not_revoked(caller, self.board.posted)
        return caller

    def call(self, contract: AnyContract, caller: Caller | None = None) -> Call:
        """A request as the gates would admit it; without a caller, as nobody."""
        scope: Scope = OrgId.nil() if caller is None else caller.scope
        principal: Principal = UserId.nil() if caller is None else caller.principal
        call = Call(
            contract,
            scope=scope,
            principal=principal,
            request_id=RequestId.new(),
            ends_at=asyncio.get_running_loop().time() + 10,
            trace_id=None,
            outbox=None,
        )
        if caller is not None:
            call.admit(caller)
        return call

    async def sign_up(self, email: str = EMAIL) -> contracts.SignedUp:
        request = contracts.SignUp(organization="Acme", email=email, password=PASSWORD)
        return await self.sessions.sign_up(self.call(contracts.SIGN_UP), request)

    async def log_in(self, organization: OrgId, scope: Scope | None = None, email: str = EMAIL) -> contracts.Session:
        request = contracts.LogIn(organization=organization, email=email, password=PASSWORD, scope=scope)
        return await self.sessions.log_in(self.call(contracts.LOG_IN), request)

    async def owner(self, scope: Scope | None = None) -> Caller:
        """The owner of a new organization, in its scope."""
        made = await self.sign_up()
        return self.authenticate((await self.log_in(made.organization, scope)).token)

    async def exchange(self, api_key: str, scope: Scope | None = None) -> Caller:
        request = contracts.ExchangeKey(api_key=api_key, scope=scope)
        answer = await self.sessions.exchange_key(self.call(contracts.EXCHANGE_KEY), request)
        return self.authenticate(answer.token)

    async def service(
        self, creator: Caller, level: str, permissions: tuple[str, ...] | None = None
    ) -> tuple[contracts.PrincipalInfo, str]:
        """A new service account in the creator's scope, and a key of its own."""
        account = await self.identities.create_service_account(
            self.call(contracts.CREATE_SERVICE_ACCOUNT, creator),
            contracts.CreateServiceAccount(name="backend", level=level),
        )
        return account, await self.key(creator, account.id, permissions)

    async def key(self, creator: Caller, principal: Principal, permissions: tuple[str, ...] | None = None) -> str:
        request = contracts.CreateKey(principal=principal, name="key", permissions=permissions)
        made = await self.identities.create_key(self.call(contracts.CREATE_KEY, creator), request)
        return made.api_key

    async def actor(self, creator: Caller, level: str, permissions: tuple[str, ...] | None = None) -> Caller:
        """A new service account of that level, with a token."""
        _account, key = await self.service(creator, level, permissions)
        return await self.exchange(key)

    async def in_workspace(self, caller: Caller, workspace: WorkspaceId) -> Caller:
        """The same user, with a token for one workspace."""
        return self.authenticate((await self.log_in(caller.organization, workspace)).token)


@pytest.fixture
def auth() -> Auth:
    return Auth()


@pytest.fixture
def fake_ledger(auth: Auth) -> FakeLedger:
    return FakeLedger(auth.store)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """Real servers with this service's schema, and no service."""

    async def schema(url: str, passwords: dict[str, str]) -> None:
        await migrate(url, {"auth": migrations_of("auth")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-auth-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema) as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database(servers: EmbeddedMesh) -> AsyncIterator[Database]:
    async with Database(servers.database_url("wardmesh_auth"), application="auth") as opened:
        yield opened


@pytest.fixture
async def superuser(servers: EmbeddedMesh) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(servers.database_url(SUPERUSER))
    yield connection
    await connection.close()


@pytest.fixture(params=["fake", "postgresql"])
def store(request: pytest.FixtureRequest) -> FakeStore | PostgresStore:
    if request.param == "fake":
        return FakeStore()
    return PostgresStore(request.getfixturevalue("database"))


def forged_key(like: str, **changes: object) -> str:
    """An API key that says something else about itself, with the secret of `like`."""
    key = ApiKey.parse(like)
    fields = {name: getattr(key, name) for name in ("organization", "scope", "principal", "id", "secret")}
    return ApiKey(**(fields | changes)).encode()


@pytest.fixture
def forge() -> object:
    return forged_key
