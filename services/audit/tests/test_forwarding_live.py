"""Forwarding on real servers: asked for through the gates, received by a real HTTPS server, through kills and stops."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from clients import make
from makers import candidates, event
from nats.aio.client import Client
from pydantic import SecretStr
from receiver import strict_receiver
from siem import Siem, says, siem
from test_app import connected, somebody

from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    AddForwarder,
    EditForwarder,
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
from wardmesh_audit import app
from wardmesh_audit.forwarding import Timing
from wardmesh_audit.settings import Settings
from wardmesh_audit.store import PostgresStore
from wardmesh_cli.embedded.mesh import EmbeddedMesh

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
        edited = EditForwarder(name="siem", url=endpoint.url(f"{PATH}2"), secret=f"{SECRET}2")
        for contract, request in (
            (contracts.ADD_FORWARDER, asked),
            (contracts.EDIT_FORWARDER, edited),
            (contracts.REMOVE_FORWARDER, name),
            (contracts.PROBE_FORWARDER, name),
        ):
            with pytest.raises(PermissionDenied):
                await operator.ask(contract, request, Empty)
        added = await admin.ask(contracts.ADD_FORWARDER, asked, Forwarder)
        await seal(database, admin.scope, 3)
        await seal(database, admin.scope, 2, outcome=Outcome.REFUSED)
        # The refusals above are entries as well, once they are sealed.
        await endpoint.until(lambda it: sum(1 for t in it.requests for e in t.events if e["status_id"] == 2) >= 6)
        assert {taken.headers["authorization"] for taken in endpoint.requests} == {f"Bearer {SECRET}"}
        assert {taken.path for taken in endpoint.requests} == {PATH}
        assert endpoint.indexes == sorted(set(endpoint.indexes)), "in order, and no repetition where nothing failed"

        changed = await admin.ask(contracts.EDIT_FORWARDER, edited, Forwarder)
        answers.append(changed.model_dump_json())
        endpoint.requests.clear()
        await seal(database, admin.scope, 1, outcome=Outcome.REFUSED)
        await endpoint.until(lambda it: bool(it.requests))
        assert {(taken.headers["authorization"], taken.path) for taken in endpoint.requests} == {
            (f"Bearer {SECRET}2", f"{PATH}2")
        }
        assert min(endpoint.indexes) >= changed.next_start, "it goes on where it was"

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
    for action in ("add", "edit", "pause", "resume", "remove", "probe"):
        assert f"audit_forwarder.{action}" in actions


async def test_from_the_gates_to_a_receiver_that_asks_who_comes(
    servers: EmbeddedMesh,
    client: Client,
    database: Database,
    superuser: asyncpg.Connection[asyncpg.Record],
    tmp_path: Path,
) -> None:
    admin = somebody(client, Level.ADMIN)
    authority = make("an authority", authority=True)
    ours = make("the mesh", by=authority, until=timedelta(days=9))
    async with strict_receiver(tmp_path, authority.pem, ssl.TLSVersion.TLSv1_3) as (there, ca_file):
        asked = AddForwarder(name="siem", url=f"syslog+tls://localhost:{there.port}", start=0)
        async with service(servers, Siem(ca_file=ca_file)):
            await seal(database, admin.scope, 3)
            await admin.ask(contracts.ADD_FORWARDER, asked, Forwarder)
            async with asyncio.timeout(20):
                shown = None
                while shown is None or shown.last_error != "client_certificate":
                    (shown,) = (await admin.ask(contracts.LIST_FORWARDERS, Empty(), Forwarders)).forwarders
                    await asyncio.sleep(0.1)
            assert shown.next_start == 0
            edited = EditForwarder(name="siem", client_certificate=ours.pem, client_key=ours.key)
            shown = await admin.ask(contracts.EDIT_FORWARDER, edited, Forwarder)
            assert shown.client_certificate_until == ours.certificate.not_valid_after_utc
            async with asyncio.timeout(20):
                while not there.taken:
                    await asyncio.sleep(0.05)
            assert there.taken[0][0] == "the mesh"
    rows = await superuser.fetch("select f::text, encode(sealed, 'escape') as sealed from audit.forwarders f")
    entries = await superuser.fetch("select encode(leaf, 'escape') as leaf from audit.entries")
    for hidden in (*ours.key.splitlines()[1:-1], *ours.pem.splitlines()[1:-1]):
        # The last line may be four characters, which are found in anything.
        assert len(hidden) < 64 or hidden not in str(rows) + str(entries)


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
