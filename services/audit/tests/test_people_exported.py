"""What exports say of people: that it was sealed, until somebody is erased; and what was tampered with is named."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from makers import event, make_person
from people_world import World, read

from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_rows import FORMATS, Format
from wardmesh.audit_selection import export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts.audit import (
    Filter,
    SelectedLeaves,
)
from wardmesh.contracts.operation import Level
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import UserId
from wardmesh.server.database import Database
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.subject_keys import KeyFolder

TAMPERED = {
    "swapped": "update audit.entries a set openings = b.openings from audit.entries b where a.scope_id = $1 and "
    "b.scope_id = $1 and a.index in (1, 2) and b.index = 3 - a.index",
    "gone": "update audit.entries set openings = null where scope_id = $1 and index = 1",
    "changed": "update audit.entries set openings = set_byte(openings, 40, get_byte(openings, 40) # 1) "
    "where scope_id = $1 and index = 1",
    "a commitment": "update audit.entries set leaf = overlay(leaf placing 'AAAA'::bytea from 30) "
    "where scope_id = $1 and index = 1",
}


@pytest.fixture
def world(database: Database, signer: LogSigner, tmp_path: Path) -> World:
    return World(KeyFolder.open(tmp_path / "keys"), database, signer, make_person(level=Level.OWNER))


@pytest.mark.parametrize("way", TAMPERED)
async def test_openings_that_were_tampered_with_are_named(
    world: World, superuser: asyncpg.Connection, tmp_path: Path, way: str
) -> None:
    await world.acts(UserId.new(), count=4)
    await world.checkpoint()
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")  # no triggers
        await superuser.execute(TAMPERED[way], world.scope)
    await export_log(world, tmp_path / "log")
    report = verify_export(tmp_path / "log", world.verifier)
    assert report.damage is not None
    assert report.damage.entry == 1, str(report)
    entries = await world.entries()  # reading goes on, and shows nothing that is not what was sealed
    assert [entry.index for entry in entries if entry.withheld] == ([2, 1] if way == "swapped" else [1])


def moved(line: str, index: int, to: int) -> str:
    return line.replace(f'"index":{index}', f'"index":{to}')


async def test_an_export_whose_openings_were_changed_is_found(world: World, tmp_path: Path) -> None:
    person = UserId.new()
    await world.acts(person)
    await world.seal(event())
    folder = tmp_path / "log"
    await export_log(world, folder)
    file = folder / "openings.ndjson"
    honest = file.read_text()
    lines = honest.splitlines(keepends=True)
    changes = {
        "somebody else": (honest.replace(person, UserId.new(), 1), 0),
        "swapped": (moved(lines[1], 1, 0) + moved(lines[0], 0, 1) + lines[2], 0),
        "of an entry without": (honest + moved(lines[2], 2, 3), 3),
        "behind the end": (honest + moved(lines[2], 2, 9), 4),
        "twice": (lines[0] + honest, 0),
        "rubbish": ("{}\n", 0),
    }  # fmt: skip
    for what, (text, entry) in changes.items():
        file.write_text(text)
        report = verify_export(folder, world.verifier)
        assert report.damage is not None, what
        assert report.damage.entry == entry, what
    file.write_text("".join(lines[1:]))  # left out: withheld
    report = verify_export(folder, world.verifier)
    assert (report.damage, report.opened, report.withheld) == (None, 10, 5)
    file.write_text(honest)
    assert verify_export(folder, world.verifier).is_sound


@pytest.mark.parametrize("kind", Format)
async def test_a_part_of_the_log_says_who_until_erased(world: World, tmp_path: Path, kind: Format) -> None:
    person, other = UserId.new(), UserId.new()
    await world.acts(person)
    await world.seal(event(actor=other, user_agent="=cmd()|' [x]\"]}", targets=("a",)))
    wanted = Filter(action="secret.get")
    await export_selection(world, tmp_path / "before", kind, wanted)
    (await world.erase(person))
    await export_selection(world, tmp_path / "after", kind, wanted)
    for name, opened, hidden in (("before", 17, 0), ("after", 2, 15)):
        report = verify_selection(tmp_path / name, world.verifier)
        assert (report.damage, report.opened, report.withheld) == (None, opened, hidden), name
        assert (person.encode() in read(tmp_path / name)) is (name == "before")
        assert other.encode() in read(tmp_path / name)
    if kind is Format.PARQUET:
        return  # it is compressed; test_audit_parquet changes what is in it
    file = tmp_path / "before" / FORMATS[kind].file
    file.write_bytes(file.read_bytes().replace(person.encode(), UserId.new().encode()))
    report = verify_selection(tmp_path / "before", world.verifier)
    assert report.damage is not None
    assert report.damage.entry == 0


@pytest.mark.parametrize("kind", Format)
async def test_a_part_that_was_interrupted_ends_in_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format
) -> None:
    await world.acts(UserId.new(), count=5)
    await export_selection(world, tmp_path / "whole", kind, Filter())
    real, asked = world.select, 0

    async def select(*, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ServiceUnavailable("the mesh is away")
        return await real(filter=filter, start=start, end=end)

    monkeypatch.setattr(world, "select", select)
    with pytest.raises(ServiceUnavailable):
        await export_selection(world, tmp_path / "part", kind, Filter())
    await export_selection(world, tmp_path / "part", kind, Filter())
    file = FORMATS[kind].file
    assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert verify_selection(tmp_path / "part", world.verifier).opened == 25


async def test_an_export_that_an_erasure_comes_into_begins_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = UserId.new()
    await world.acts(person, count=5)
    real, asked = world.select, 0

    async def select(*, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        nonlocal asked
        asked += 1
        if asked == 2:
            await world.erase(person)
        return await real(filter=filter, start=start, end=end)

    monkeypatch.setattr(world, "select", select)
    await export_selection(world, tmp_path / "part", Format.NDJSON, Filter())
    report = verify_selection(tmp_path / "part", world.verifier)
    assert (report.damage, report.opened, report.entries_checked) == (None, 0, 5)
    assert person.encode() not in read(tmp_path / "part")
