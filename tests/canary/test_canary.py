"""Nothing secret rests in the clear: pushed through every operation by both doors, then hunted in all that was written.

`table` says what is secret and what is stored by design; `walk` uses every operation as it is meant to be, `pushing` as
it is not; `places` says where the hunt goes. Beside the secrets go controls, which have to be found: each place proves
that what is written there is really read here.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx2
import pytest
from tests.canary import places as hunted
from tests.canary.collector import collecting
from tests.canary.doors import Answers, HttpDoor, nats_door
from tests.canary.hunt import Report, hunt
from tests.canary.loud import LoudMesh
from tests.canary.pouch import Pouch
from tests.canary.pushing import Doors, Pushing
from tests.canary.table import ANSWERS, BROKER_LOG, HIDDEN_BUT_STORED, NEVER, SECRET_FIELDS, hidden_fields
from tests.canary.walk import People, Recorder, people, walk
from tests.mesh.world import sign_up

from wardmesh.audit_export import export_log
from wardmesh.contracts import ALL, auth
from wardmesh.contracts.audit import (
    Administration,
    Authentication,
    Authorization,
    BridgeExchange,
    ConfigurationChange,
    SecretAccess,
    ToolCall,
    WebhookReceipt,
    typed,
)
from wardmesh.headers import REQUEST_ID
from wardmesh.ids import RequestId
from wardmesh.server.settings import read_key
from wardmesh_audit.domain import Stored, decode_leaf


@dataclass(frozen=True)
class Hunted:
    """A mesh that was asked everything, was stopped, and was searched."""

    pouch: Pouch
    report: Report
    counts: dict[tuple[str, str], int]
    granted: frozenset[str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-canary-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
async def mesh_hunted(folder: Path) -> Hunted:
    pouch = Pouch()
    recorder = Recorder(pouch)
    counts: dict[tuple[str, str], int] = {}
    with pytest.MonkeyPatch.context() as patch, collecting(folder / "traces") as collector:
        recorder.install(patch)
        mesh = LoudMesh(data_dir=folder / "data", collector=collector)
        with hunted.LibraryLog(folder / "client"):
            async with mesh, mesh.tapped(folder / "published"):
                await push_everything(mesh, folder, pouch, recorder, counts)
    searched = hunted.places(mesh, folder)
    report = hunt([*pouch.secrets, *pouch.controls], searched)
    print(hunted.summary(searched, report.searched))
    return Hunted(pouch, report, counts, frozenset(recorder.first_of_each()))


async def push_everything(
    mesh: LoudMesh, folder: Path, pouch: Pouch, recorder: Recorder, counts: dict[tuple[str, str], int]
) -> None:
    """Do all that the hunt is about, and leave the controls."""
    pouch.take_identities(mesh.layout.identities.folder)
    tenant = await sign_up(mesh, "acme")
    async with people(tenant, pouch) as them, AsyncExitStack() as stack:
        answers = stack.enter_context(Answers(folder / "answers"))
        await walk(them, pouch)
        doors = Doors(
            nats={
                scope: await stack.enter_async_context(
                    nats_door(mesh, scope=scope, principal=tenant.owner, token=session.token, answers=answers)
                )
                for scope, session in them.sessions.items()
            },
            gateway=HttpDoor(await stack.enter_async_context(_http(mesh.http_url)), answers),
            ingest=HttpDoor(await stack.enter_async_context(_http(mesh.ingest_url)), answers),
            answers=answers,
            client_log=folder / "client",
        )
        await leave_controls(doors, them, pouch, mesh)
        await Pushing(them, doors, pouch, counts).everything(recorder.first_of_each())
        for name, reader in (("home", them.home), ("organization", them.organization)):
            await export_log(reader.audit, folder / "export" / name)
    key = read_key(mesh.layout.identities.kek_file("secrets"))
    database = await asyncpg.connect(mesh.database_url())
    try:
        await pouch.take_vault_keys(database, key)
        await leave_controls_in_rows(database, pouch)
        await hunted.assert_nothing_is_compressed(mesh, database)
        await hunted.dump_rows(database, folder / "rows")
    finally:
        await database.close()


async def leave_controls(doors: Doors, them: People, pouch: Pouch, mesh: LoudMesh) -> None:
    """Leave in each place something that comes there as anything would."""
    request_id = str(RequestId.new())
    pouch.control(
        "the id of a refused request", "logs", "traces", "published", "rows", "export", ANSWERS, value=request_id
    )
    workspace = them.tenant.workspace
    door = doors.nats[workspace]
    assert not await door.ask(auth.WHO_AM_I, b"[]", door.headers(**{REQUEST_ID: request_id}))
    logging.getLogger("wardmesh.client").debug("%s", pouch.control("a line of the library's log", "client"))
    pouch.control("the callout's public key", "the rest", value=hunted.public_key_in(mesh.layout.broker_config))


async def leave_controls_in_rows(database: asyncpg.Connection, pouch: Pouch) -> None:
    """Leave one in a row that PostgreSQL compresses, and one in a statement that it logs."""
    compressed = pouch.control("a compressed value", "rows")
    await database.execute("create table public.control (value text)")
    await database.execute("insert into public.control values (repeat($1, 3) || repeat('x', 20000))", compressed)
    stored = await database.fetchval("select pg_column_size(value) from public.control")
    assert stored < 2_000, "the control is to be compressed"
    literal = pouch.control("a literal in a statement", "database's log")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await database.execute(f"select '{literal}'::int")


def _http(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, timeout=30)


def test_no_secret_rests_anywhere(mesh_hunted: Hunted) -> None:
    controls = mesh_hunted.pouch.controls
    leaks = [finding for finding in mesh_hunted.report.leaks() if finding.secret not in controls]
    assert not leaks, "\n".join(["secrets in the clear:", *map(str, leaks)])


def test_every_control_is_found_where_it_is(mesh_hunted: Hunted) -> None:
    for control, wanted in mesh_hunted.pouch.controls.items():
        assert wanted <= mesh_hunted.report.places_of(control), control.origin


def test_every_place_has_a_control(mesh_hunted: Hunted) -> None:
    assert frozenset().union(*mesh_hunted.pouch.controls.values()) == mesh_hunted.report.searched.keys()


def test_secrets_of_every_kind_were_pushed(mesh_hunted: Hunted) -> None:
    assert {secret.kind for secret in mesh_hunted.pouch.secrets} == NEVER.keys()


def test_every_operation_was_granted_and_refused_by_both_doors(mesh_hunted: Hunted) -> None:
    assert mesh_hunted.granted == ALL.keys()
    for key in ALL:
        for how in ("granted once, by HTTP", "malformed, by NATS", "malformed, by HTTP"):
            assert mesh_hunted.counts.get((key, how), 0) >= 1, f"{key}: {how}"


def test_every_hidden_field_of_a_contract_is_in_the_table() -> None:
    assert set(hidden_fields()) == SECRET_FIELDS.keys() | HIDDEN_BUT_STORED.keys()


def test_what_may_rest_somewhere_is_an_exception_of_the_table(mesh_hunted: Hunted) -> None:
    allowed = frozenset().union(*(secret.may_rest_in for secret in mesh_hunted.pouch.secrets))
    assert allowed == {ANSWERS, BROKER_LOG}


def test_every_entry_that_was_left_fits_its_categorys_model(mesh_hunted: Hunted, folder: Path) -> None:
    """Granted and refused, by every operation and both doors: all of it reads back as what its category promises."""
    leaves = [line for file in (folder / "export").glob("*/entries.ndjson") for line in file.read_bytes().splitlines()]
    entries = [decode_leaf(Stored(place, leaf)) for place, leaf in enumerate(leaves)]
    assert len(entries) > len(mesh_hunted.granted)
    assert {type(typed(entry.event)) for entry in entries} >= {
        Administration, Authentication, Authorization, BridgeExchange, ConfigurationChange, SecretAccess, ToolCall,
        WebhookReceipt,
    }  # fmt: skip
