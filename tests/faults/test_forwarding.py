"""Forwarding under kill -9: two replicas that die at any moment, an endpoint that fails, lies or is slow meanwhile.

Forwarders are changed in the middle of it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from services.audit.tests.makers import Person, candidates, event, make_person
from services.audit.tests.siem import Siem, Taken, siem
from starlette.responses import Response

from wardmesh.contracts.audit import (
    ADD_FORWARDER,
    EDIT_FORWARDER,
    AuditEvent,
    EditForwarder,
    Filter,
    ForwardFormat,
)
from wardmesh.contracts.operation import Level
from wardmesh.ids import Scope
from wardmesh.server.database import Connection, Database
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.settings import read_key
from wardmesh_audit.forward_vault import ForwardVault, Hidden
from wardmesh_audit.forwarder_changes import changed_forwarder
from wardmesh_audit.ports_forwarding import NewForwarder
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_forwarding import PostgresForwarding
from wardmesh_cli.embedded.mesh import EmbeddedMesh, service_command
from wardmesh_cli.embedded.postgres import SUPERUSER

SECRET, PATH = "a-secret-that-nobody-else-may-see", "/in?key=a-path-that-nobody-else-may-see"
SECONDS = 0.5
"""An endpoint's; a dead replica is then missed for three."""


class NoOutbox:
    async def put_audit(self, connection: Connection, scope: Scope, event: AuditEvent) -> None:
        raise AssertionError("adding is not told of here")


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[EmbeddedMesh]:
    """The broker and the database, without a service."""

    async def schema(url: str, passwords: dict[str, str]) -> None:
        await migrate(url, {"audit": migrations_of("audit")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-forwarding-"))
    async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema) as mesh:
        yield mesh
    shutil.rmtree(folder)


class Replica:
    """The audit service as a process, which can be killed and started again."""

    def __init__(self, servers: EmbeddedMesh, endpoint: Siem, log: Path) -> None:
        self._environment = servers.environment("audit") | {
            "WARDMESH_AUDIT_FORWARD_ALLOW": "127.0.0.0/8,::1/128",
            "WARDMESH_AUDIT_FORWARD_CA_FILE": str(endpoint.ca_file),
            "WARDMESH_AUDIT_FORWARD_SECONDS": str(SECONDS),
            "WARDMESH_LOG_LEVEL": "debug",
        }
        self._log = log
        self.start()

    def start(self) -> None:
        self._is_killed = False
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(service_command("audit"), env=self._environment, stdout=out, stderr=out)

    def kill(self) -> None:
        self._process.kill()
        self._is_killed = True

    def stand(self) -> None:
        """Start it again if it is dead, or about to be."""
        if self._is_killed:
            self._process.wait()
            self.start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


async def add_forwarder(servers: EmbeddedMesh, database: Database, person: Person, endpoint: Siem) -> None:
    vault = ForwardVault(read_key(servers.layout.identities.kek_file("audit")))
    address = endpoint.url("")
    sealed = vault.seal(person.scope, "siem", address, None, Hidden(PATH, SECRET))
    new = NewForwarder(
        name="siem", address=address, format=ForwardFormat.ENTRY, secret_header=None, has_secret=True,
        certificate_until=None, sealed=sealed, filter=Filter(), next_start=0,
    )  # fmt: skip
    await PostgresForwarding(database, NoOutbox()).add(person.ask(ADD_FORWARDER), new)


async def edit_forwarder(servers: EmbeddedMesh, database: Database, person: Person) -> None:
    """Change something that lets the endpoint see the same as before: whoever is at it is at it no more."""
    vault = ForwardVault(read_key(servers.layout.identities.kek_file("audit")))
    request = EditForwarder(name="siem", secret=SECRET)
    await PostgresForwarding(database, NoOutbox()).edit(
        person.ask(EDIT_FORWARDER), "siem", lambda stored: changed_forwarder(stored, request, None, None, vault)
    )


async def test_replicas_that_are_killed_between_delivery_and_cursor_miss_nothing(
    servers: EmbeddedMesh, tmp_path: Path, seed: int, at_length: bool
) -> None:
    rng = random.Random(seed)
    people = [make_person(level=Level.ADMIN) for _ in range(3)]
    sizes = dict.fromkeys((person.scope for person in people), 0)
    async with (
        Database(servers.database_url("wardmesh_audit"), application="audit") as database,
        siem(tmp_path) as endpoint,
    ):
        store = PostgresStore(database)

        async def seal(scope: Scope, count: int) -> None:
            await store.seal(scope, candidates(scope, *(event() for _ in range(count))))
            sizes[scope] += count

        for person in people:
            await add_forwarder(servers, database, person, endpoint)
            await seal(person.scope, 500)
            await seal(person.scope, 200)
        replicas = [Replica(servers, endpoint, tmp_path / "log") for _ in range(2)]
        killed = False

        async def dies(_taken: Taken) -> Response:
            nonlocal killed
            for replica in replicas:
                replica.kill()  # it has the batch, and nobody will ever hear so
            killed = True
            return Response()

        async def fails(_taken: Taken) -> Response:
            if rng.random() < 0.1:
                await asyncio.sleep(2 * SECONDS)
            return Response(status_code=rng.choice([200, 200, 200, 503]))

        try:
            endpoint.answers = [dies]
            await endpoint.until(lambda _: killed)
            endpoint.otherwise = fails
            for _ in range(3 if at_length else 1):
                for replica in replicas:
                    replica.stand()
                await asyncio.sleep(rng.uniform(0.5, 2.0))
                for person in people:
                    await seal(person.scope, rng.randint(1, 40))
                    if rng.random() < 0.5:
                        await edit_forwarder(servers, database, person)
                rng.choice(replicas).kill()
            await all_arrive(endpoint, sizes, replicas, database)
        finally:
            for replica in replicas:
                replica.end()
    repeated = 0
    for scope, size in sizes.items():
        came = received(endpoint, scope)
        assert list(dict.fromkeys(came)) == list(range(size)), "without repetitions, it is the log's order"
        repeated += len(came) - size
    assert repeated > 0, "what was taken and not noted came once more"
    written = (tmp_path / "log").read_text()
    assert '"ready"' in written
    assert SECRET not in written, "at no level"
    assert "a-path" not in written
    superuser = await asyncpg.connect(servers.database_url(SUPERUSER))
    await superuser.execute("delete from audit.forwarders")
    await superuser.close()


def received(endpoint: Siem, scope: Scope) -> list[int]:
    mine = [taken for taken in endpoint.requests if taken.headers["wardmesh-scope"] == scope]
    return [index for taken in mine for index in taken.indexes]


async def all_arrive(endpoint: Siem, sizes: dict[Scope, int], replicas: list[Replica], database: Database) -> None:
    """Let everything stand, and wait until it is there; whoever waits after failures is not waited for."""

    async def yes(_taken: Taken) -> Response:
        return Response()

    endpoint.otherwise = yes
    for replica in replicas:
        replica.stand()
    resuming = asyncio.create_task(resume_all(sizes, database))
    try:
        await endpoint.until(
            lambda it: all(set(received(it, scope)) == set(range(size)) for scope, size in sizes.items()), 60.0
        )
    finally:
        resuming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await resuming


async def resume_all(sizes: dict[Scope, int], database: Database) -> None:
    store = PostgresForwarding(database, NoOutbox())
    while True:
        await asyncio.sleep(1.0)
        for scope in sizes:
            admin = make_person(scope, Level.ADMIN)
            await store.set_paused(admin.ask(ADD_FORWARDER), "siem", paused=False)
