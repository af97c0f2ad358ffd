"""Rows changed by a superuser who switches the triggers off: an export is verified offline, and names the damage."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from fake_log import FakeLog
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeAlarm, FakeEmitter, FakeMemory, FakeWakeups
from makers import Person, candidates, event

from wardmesh.audit_export import ExportIncomplete, export_log, verify_export
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import Checkpoint, Leaves, ReadLeaves
from wardmesh.contracts.operation import Empty
from wardmesh.server.database import Database
from wardmesh_audit.errors import LogDamaged, SigningRefused
from wardmesh_audit.proving import Prover
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore

SIZE = 600


class Reader:
    """The operations as a client has them."""

    def __init__(self, service: AuditService, prover: Prover, person: Person) -> None:
        self.service = service
        self.prover = prover
        self.person = person

    async def checkpoint(self) -> Checkpoint:
        return await self.prover.checkpoint(self.person.ask(contracts.CHECKPOINT), Empty())

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        try:
            return await self.service.leaves(self.person.ask(contracts.LEAVES), ReadLeaves(start=start, limit=limit))
        except LogDamaged:
            return Leaves(leaves=(), hashes=())


@pytest.fixture
async def reader(database: Database, operator: Person, signer: LogSigner) -> Reader:
    store = PostgresStore(database)
    for step in (100, 400, 100):
        await store.seal(operator.scope, candidates(operator.scope, *[event() for _ in range(step)]))
    service = AuditService(store, FakeEmitter(), lambda: datetime.now(UTC), SUBJECTS, FakePeople(FakeLog()))
    return Reader(service, Prover(store, FakeWakeups(), signer, FakeMemory(), FakeAlarm(), SUBJECTS), operator)


async def tamper(superuser: asyncpg.Connection[asyncpg.Record], statement: str, *values: object) -> None:
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")  # no triggers
        done = await superuser.execute(statement, *values)
        assert not done.endswith(" 0")


async def export_and_verify(reader: Reader, folder: Path) -> tuple[int | None, str]:
    """Return the first entry that verifying names, and the whole report."""
    with contextlib.suppress(ExportIncomplete):
        await export_log(reader, folder)
    report = verify_export(folder, reader.prover._signer.verifier_key(reader.person.scope))
    assert report.damage is None or "DAMAGED" in str(report)
    return (None if report.damage is None else report.damage.entry), str(report)


async def test_an_honest_log_is_sound(reader: Reader, tmp_path: Path) -> None:
    entry, report = await export_and_verify(reader, tmp_path / "log")
    assert entry is None
    assert f"{SIZE} entries" in report
    assert "sound" in report


@pytest.mark.parametrize("index", [0, 300, 599])
@pytest.mark.parametrize(
    "change",
    [
        "update audit.entries set leaf = convert_to(replace(convert_from(leaf, 'UTF8'), 'secret.get', 'secret.put'), "
        "'UTF8') where scope_id = $1 and index = $2",
        "delete from audit.entries where scope_id = $1 and index = $2",
        "update audit.entries a set leaf = b.leaf from audit.entries b where a.scope_id = $1 and b.scope_id = $1 "
        "and a.index = $2 and b.index = (a.index + 1) % 600",
    ],
    ids=["changed", "deleted", "repeated"],
)
async def test_a_tampered_entry_is_named(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path, change: str, index: int
) -> None:
    await tamper(superuser, change, reader.person.scope, index)
    entry, report = await export_and_verify(reader, tmp_path / "log")
    assert entry == index, report


async def test_two_entries_that_changed_places_are_named(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    swap = (
        "update audit.entries a set leaf = b.leaf from audit.entries b where a.scope_id = $1 and b.scope_id = $1 "
        "and ((a.index = 290 and b.index = 310) or (a.index = 310 and b.index = 290))"
    )
    await tamper(superuser, swap, reader.person.scope)
    entry, _ = await export_and_verify(reader, tmp_path / "log")
    assert entry == 290


@pytest.mark.parametrize(
    "change",
    [
        "update audit.tiles set root = sha256(root) where scope_id = $1 and index = 1",
        "update audit.leaves set leaf_hash = sha256(leaf_hash) where scope_id = $1 and index = 599",
        "delete from audit.leaves where scope_id = $1 and index = 599",
        "delete from audit.tiles where scope_id = $1 and index = 1",
        "update audit.logs set root = sha256(root) where scope_id = $1",
        "update audit.logs set frontier[1] = sha256(frontier[1]) where scope_id = $1",
        "update audit.logs set size = 1, frontier = array[sha256('x')], root = sha256('x') where scope_id = $1",
    ],
)
async def test_a_tampered_tree_is_not_signed(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], change: str
) -> None:
    await tamper(superuser, change, reader.person.scope)
    with pytest.raises((LogDamaged, SigningRefused)):
        await reader.checkpoint()


async def test_a_tampered_tile_is_named(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    flip = "update audit.tiles set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1)"
    await tamper(superuser, f"{flip} where scope_id = $1 and index = 1", reader.person.scope)
    entry, report = await export_and_verify(reader, tmp_path / "log")
    assert entry == 257
    assert "tile/0/001" in report


async def test_a_leaf_changed_together_with_its_hash_is_found(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    """Under a full tile, whose own copy of the hash gives it away."""
    scope = reader.person.scope
    await tamper(superuser, "update audit.entries set leaf = '{}' where scope_id = $1 and index = 300", scope)
    await tamper(
        superuser, "update audit.leaves set leaf_hash = sha256('\\x007b7d') where scope_id = $1 and index = 300", scope
    )
    entry, _ = await export_and_verify(reader, tmp_path / "log")
    assert entry == 300


async def test_a_rewritten_history_is_not_signed(
    reader: Reader, superuser: asyncpg.Connection[asyncpg.Record], database: Database, tmp_path: Path
) -> None:
    """Everything removed, and another history sealed in its place, longer than the first."""
    await export_log(reader, tmp_path / "before")
    scope = reader.person.scope
    for table in ("entries", "leaves", "tiles", "logs"):
        await tamper(superuser, f"delete from audit.{table} where scope_id = $1", scope)  # noqa: S608
    store = PostgresStore(database)
    await store.seal(scope, candidates(scope, *[event() for _ in range(400)]))
    await store.seal(scope, candidates(scope, *[event() for _ in range(400)]))
    with pytest.raises(SigningRefused):
        await reader.checkpoint()
    assert verify_export(tmp_path / "before").is_sound
