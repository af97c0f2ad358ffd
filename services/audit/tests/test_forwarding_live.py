"""Forwarding on real servers: asked for through the gates, received by a real HTTPS server, through kills and stops."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from fake_log import Person, candidates, event, make_person
from keeper import Outbox
from nats.aio.client import Client
from pydantic import SecretStr
from siem import Siem, Taken, says, siem
from starlette.responses import Response
from test_app import connected, somebody

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    ADD_FORWARDER,
    AddForwarder,
    Filter,
    Forwarder,
    ForwarderProbe,
    Forwarders,
    ForwarderState,
    ForwardFormat,
    NamedForwarder,
    Outcome,
)
from wardmesh.contracts.operation import Category, Empty, Level
from wardmesh.errors import PermissionDenied
from wardmesh.ids import Scope
from wardmesh.server.database import Database
from wardmesh.server.runtime import running
from wardmesh.server.settings import read_key
from wardmesh_audit import app
from wardmesh_audit.forward_vault import ForwardVault, Hidden
from wardmesh_audit.forwarding import Timing
from wardmesh_audit.ports_forwarding import NewForwarder
from wardmesh_audit.settings import Settings
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_forwarding import PostgresForwarding
from wardmesh_cli.embedded.mesh import EmbeddedMesh, service_command

SECRET = "a-secret-that-nobody-else-may-see"
PATH = "/in?key=a-path-that-nobody-else-may-see"
SECONDS = 0.5
"""An endpoint's; a dead replica is then missed for three."""


@pytest.fixture(scope="module")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Siem]:
    async with siem(tmp_path_factory.mktemp("siem")) as server:
        yield server


@pytest.fixture(autouse=True)
async def alone(endpoint: Siem, superuser: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's forwarders but this test's, looked after often."""
    endpoint.requests.clear()
    endpoint.answers.clear()
    await superuser.execute("delete from audit.forwarders")
    monkeypatch.setattr(app, "Timing", partial(Timing, poll=0.1))


@contextlib.asynccontextmanager
async def service(servers: EmbeddedMesh, endpoint: Siem, *, allow: str = "127.0.0.0/8,::1/128") -> AsyncIterator[None]:
    identities = servers.layout.identities
    settings = Settings(
        nats_url=servers.nats_url,
        nats_seed_file=identities.seed_file("audit"),
        database_url=SecretStr(servers.database_url("wardmesh_audit")),
        audit_log_key_file=identities.log_signing_key_file,
        audit_subject_keys_dir=servers.layout.subject_keys,
        key_file=identities.kek_file("audit"),
        audit_forward_allow=allow,
        audit_forward_ca_file=endpoint.ca_file,
        audit_forward_seconds=SECONDS,
    )
    async with running("audit", settings, app.build) as runtime:
        yield
    assert runtime.failure is None


@pytest.fixture(scope="module")
async def client(servers: EmbeddedMesh) -> AsyncIterator[Client]:
    async with connected(servers) as gateway:
        yield gateway


async def seal(database: Database, scope: Scope, count: int, **changes: object) -> None:
    events = [event(**changes) for _ in range(count)]
    for first in range(0, count, 500):
        await PostgresStore(database).seal(scope, candidates(scope, *events[first : first + 500]))


async def forwarder_of(servers: EmbeddedMesh, database: Database, person: Person, endpoint: Siem) -> None:
    """Add one past the gates."""
    vault = ForwardVault(read_key(servers.layout.identities.kek_file("audit")))
    address = endpoint.url("")
    sealed = vault.seal(person.scope, "siem", address, None, Hidden(PATH, SECRET))
    new = NewForwarder("siem", address, ForwardFormat.ENTRY, None, True, sealed, Filter(), 0)
    await PostgresForwarding(database, Outbox()).add(person.ask(ADD_FORWARDER), new)


async def test_from_the_gates_to_the_siem(
    servers: EmbeddedMesh,
    client: Client,
    database: Database,
    endpoint: Siem,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:
    admin = somebody(client, Level.ADMIN)
    operator = somebody(client, Level.OPERATOR, admin.scope)
    refused = Filter(outcome=Outcome.REFUSED)
    asked = AddForwarder(name="siem", url=endpoint.url(PATH), secret=SECRET, filter=refused, start=0)
    name = NamedForwarder(name="siem")
    answers: list[str] = []
    async with service(servers, endpoint):
        for contract in (contracts.ADD_FORWARDER, contracts.REMOVE_FORWARDER, contracts.PROBE_FORWARDER):
            with pytest.raises(PermissionDenied):
                await operator.ask(contract, asked if contract is contracts.ADD_FORWARDER else name, Empty)
        added = await admin.ask(contracts.ADD_FORWARDER, asked, Forwarder)
        await seal(database, admin.scope, 3)
        await seal(database, admin.scope, 2, outcome=Outcome.REFUSED)
        # The refusals above are entries as well, once they are sealed.
        await endpoint.until(lambda it: sum(1 for t in it.requests for e in t.events if e["status_id"] == 2) >= 5)
        assert {taken.headers["authorization"] for taken in endpoint.requests} == {f"Bearer {SECRET}"}
        assert {taken.path for taken in endpoint.requests} == {PATH}
        assert endpoint.indexes == sorted(set(endpoint.indexes)), "in order, and no repetition where nothing failed"

        tested = await admin.ask(contracts.PROBE_FORWARDER, name, ForwarderProbe)
        assert (tested.index, tested.error) == (max(endpoint.indexes), None)
        endpoint.answers = [says(401, SECRET.encode())]
        tested = await admin.ask(contracts.PROBE_FORWARDER, name, ForwarderProbe)
        assert tested.error == "http_401"
        paused = await admin.ask(contracts.PAUSE_FORWARDER, name, Forwarder)
        assert paused.state is ForwarderState.STOPPED
        seen = len(endpoint.requests)
        await seal(database, admin.scope, 1, outcome=Outcome.REFUSED)
        await asyncio.sleep(0.4)
        assert len(endpoint.requests) == seen
        await admin.ask(contracts.RESUME_FORWARDER, name, Forwarder)
        await endpoint.until(lambda it: len(it.requests) > seen)
        listed = await operator.ask(contracts.LIST_FORWARDERS, Empty(), Forwarders)
        answers += [str(added), added.model_dump_json(), paused.model_dump_json(), listed.model_dump_json()]
        await admin.ask(contracts.REMOVE_FORWARDER, name, Empty)
        seen = len(endpoint.requests)
        await seal(database, admin.scope, 1, outcome=Outcome.REFUSED)
        await asyncio.sleep(0.4)
        assert len(endpoint.requests) == seen, "a removed one stops"
    rows = await superuser.fetch(
        "select encode(leaf, 'escape') as leaf from audit.entries where scope_id = $1", admin.scope
    )
    answers += [row["leaf"] for row in rows]
    for said in answers:
        assert SECRET not in said
        assert "a-path" not in said
    actions = "".join(row["leaf"] for row in rows)
    for action in ("add", "pause", "resume", "remove", "probe"):
        assert f"audit_forwarder.{action}" in actions


async def test_trouble_is_told_once_and_its_end_too(
    servers: EmbeddedMesh, client: Client, database: Database, endpoint: Siem
) -> None:
    admin = somebody(client, Level.ADMIN)
    wanted = Filter(category=Category.TOOL_CALL)
    asked = AddForwarder(name="siem", url=endpoint.url(), filter=wanted, start=0, format=ForwardFormat.ENTRY)
    async with service(servers, endpoint):
        await seal(database, admin.scope, 1, category=Category.TOOL_CALL, action="tool.call")
        endpoint.answers = [says(503), says(503), says(503), says(503)]
        await admin.ask(contracts.ADD_FORWARDER, asked, Forwarder)
        async with asyncio.timeout(30):
            while True:
                (shown,) = (await admin.ask(contracts.LIST_FORWARDERS, Empty(), Forwarders)).forwarders
                if shown.state is ForwarderState.RETRYING and shown.failures >= 3:
                    break
                await admin.ask(contracts.RESUME_FORWARDER, NamedForwarder(name="siem"), Forwarder)
                await asyncio.sleep(0.2)
        assert shown.last_error == "http_503"
        assert shown.failing_since is not None
        await admin.ask(contracts.RESUME_FORWARDER, NamedForwarder(name="siem"), Forwarder)
        async with asyncio.timeout(30):
            while shown.state is not ForwarderState.OK:
                (shown,) = (await admin.ask(contracts.LIST_FORWARDERS, Empty(), Forwarders)).forwarders
                await admin.ask(contracts.RESUME_FORWARDER, NamedForwarder(name="siem"), Forwarder)
                await asyncio.sleep(0.2)
        found: list[str] = []
        async with asyncio.timeout(10):
            while len(found) < 2:
                query = contracts.Query(filter=Filter(category=Category.ADMINISTRATION))
                page = await somebody(client, Level.OPERATOR, admin.scope).ask(
                    contracts.QUERY, query, contracts.Entries
                )
                found = [e.event.action for e in page.entries if e.event.action.startswith("audit_forwarder.") and
                         e.event.action.rpartition(".")[2] in {"failing", "well"}]  # fmt: skip
                await asyncio.sleep(0.1)
    assert found == ["audit_forwarder.well", "audit_forwarder.failing"]
    assert set(endpoint.indexes) == {0}


async def test_nobody_is_sent_inside_unless_an_operator_says_so(
    servers: EmbeddedMesh, client: Client, database: Database, endpoint: Siem
) -> None:
    admin = somebody(client, Level.ADMIN)
    await seal(database, admin.scope, 1)
    async with service(servers, endpoint, allow=""):
        for name, host in (("a", "localhost"), ("b", "2130706433"), ("c", "[::ffff:7f00:1]"), ("d", "169.254.169.254")):
            asked = AddForwarder(name=name, url=endpoint.url(host=host), start=0)
            await admin.ask(contracts.ADD_FORWARDER, asked, Forwarder)
            tested = await admin.ask(contracts.PROBE_FORWARDER, NamedForwarder(name=name), ForwarderProbe)
            assert tested.error == "not_public"
        async with asyncio.timeout(20):
            while True:
                shown = (await admin.ask(contracts.LIST_FORWARDERS, Empty(), Forwarders)).forwarders
                if {each.last_error for each in shown} == {"not_public"}:
                    break
                await asyncio.sleep(0.1)
    assert endpoint.requests == []


@contextlib.contextmanager
def replica(servers: EmbeddedMesh, endpoint: Siem, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process of its own."""
    environment = servers.environment("audit") | {
        "WARDMESH_AUDIT_FORWARD_ALLOW": "127.0.0.0/8,::1/128",
        "WARDMESH_AUDIT_FORWARD_CA_FILE": str(endpoint.ca_file),
        "WARDMESH_AUDIT_FORWARD_SECONDS": str(SECONDS),
        "WARDMESH_LOG_LEVEL": "debug",
    }
    with log.open("ab") as out:
        process = subprocess.Popen(service_command("audit"), env=environment, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_replicas_that_are_killed_between_delivery_and_cursor_miss_nothing(
    servers: EmbeddedMesh, database: Database, endpoint: Siem, tmp_path: Path
) -> None:
    people = [make_person(level=Level.ADMIN) for _ in range(3)]
    for person in people:
        await seal(database, person.scope, 700)
        await forwarder_of(servers, database, person, endpoint)
    with contextlib.ExitStack() as stack:
        two = [stack.enter_context(replica(servers, endpoint, tmp_path / "log")) for _ in range(2)]

        async def dies(_taken: Taken) -> Response:
            for process in two:
                process.kill()  # it has the batch, and nobody will ever hear so
            return Response()

        endpoint.answers = [dies]
        await endpoint.until(lambda it: bool(it.requests))
        for process in two:
            process.wait()
        stack.enter_context(replica(servers, endpoint, tmp_path / "log"))
        stack.enter_context(replica(servers, endpoint, tmp_path / "log"))

        def received(scope: Scope) -> list[int]:
            mine = [taken for taken in endpoint.requests if taken.headers["wardmesh-scope"] == scope]
            return [index for taken in mine for index in taken.indexes]

        await endpoint.until(lambda _: all(set(received(person.scope)) == set(range(700)) for person in people))
    repeated = 0
    for person in people:
        came = received(person.scope)
        assert list(dict.fromkeys(came)) == list(range(700)), "without repetitions, it is the log's order"
        repeated += len(came) - 700
    assert repeated >= 500, "what was taken and not noted came once more"
    written = (tmp_path / "log").read_text()
    assert '"ready"' in written
    assert SECRET not in written, "at no level"
    assert "a-path" not in written
