"""Erasing people from a log in PostgreSQL, with keys in a folder: what becomes unreadable, and what stays proven."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pyarrow.parquet as pq
import pytest
from fake_log import (
    NOW,
    FakeAlarm,
    FakeEmitter,
    FakeMemory,
    FakeWakeups,
    Person,
    envelope,
    event,
    make_person,
)
from keeper import Outbox

from wardmesh.audit_erasure import open_certificate
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.audit_rows import FORMATS, Format
from wardmesh.audit_selection import export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    NOBODY,
    AskReceipt,
    AuditEvent,
    Checkpoint,
    Entry,
    Erase,
    Filter,
    Leaves,
    LiftHold,
    ListErasures,
    ListHolds,
    Mine,
    Nodes,
    PlaceHold,
    Query,
    ReadLeaves,
    ReadNodes,
    SavePosition,
    SelectedLeaves,
    SelectLeaves,
)
from wardmesh.contracts.operation import Empty, Level
from wardmesh.crypto.errors import CryptoError
from wardmesh.errors import NothingToErase, NotSealed, ServiceUnavailable, UnderHold
from wardmesh.ids import AgentId, EventId, UserId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh.subjects import AuditSubject
from wardmesh_audit.behalf import the_log
from wardmesh_audit.domain import decode_envelope
from wardmesh_audit.erasing import ErasingService
from wardmesh_audit.errors import OtherKeys
from wardmesh_audit.proving import Prover
from wardmesh_audit.reading import ReadingService
from wardmesh_audit.retention import RetentionService
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_people import ErasureRows, PostgresPeople
from wardmesh_audit.store_reading import PostgresReading
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_audit.subjects import Subjects

ADDRESS, BROWSER = "203.0.113.77", "Mozilla/5.0 (distinctive)"


class FakeBacklog:
    """The port `Backlog`: what waits is sealed when somebody waits for it, or never."""

    def __init__(self) -> None:
        self.waiting: Callable[[], Awaitable[object]] | None = None
        self.stands_still = False

    async def settled(self, seconds: float) -> bool:
        if self.waiting is not None and not self.stands_still:
            await self.waiting()
            self.waiting = None
        return not self.stands_still


@dataclass
class World:
    """A scope's log with all that the service makes of it, and somebody who may everything."""

    keys: KeyFolder
    database: Database
    signer: LogSigner
    owner: Person

    def __post_init__(self) -> None:
        self.outbox = Outbox()
        self.subjects = Subjects(self.keys)
        self.store = PostgresStore(self.database)
        self.people = PostgresPeople(self.database, self.outbox)
        self.service = AuditService(self.store, FakeEmitter(), lambda: NOW, self.subjects, self.people)
        self.reading = ReadingService(
            self.store, PostgresReading(self.database), FakeWakeups(), self.subjects, self.people
        )
        self.prover = Prover(self.store, FakeWakeups(), self.signer, FakeMemory(), FakeAlarm(), self.subjects)
        self.retention = RetentionService(PostgresRetention(self.database, self.outbox), self.subjects)
        self.backlog = FakeBacklog()
        self.erasing = ErasingService(
            self.people, self.keys, self.prover, self.signer, self.backlog, lambda: datetime.now(UTC)
        )

    @property
    def scope(self) -> WorkspaceId:
        assert isinstance(self.owner.scope, WorkspaceId)
        return self.owner.scope

    @property
    def verifier(self) -> str:
        return self.signer.verifier_key(self.scope)

    async def seal(self, *events: AuditEvent, source: str = "auth") -> None:
        made = decode_envelope(
            AuditSubject(self.scope, source).format(), envelope(*events), NOW, random=os.urandom
        ).candidates
        await self.store.seal(self.scope, await self.subjects.protect(self.scope, made))

    async def relay(self) -> list[AuditEvent]:
        """Seal what waits in the outbox."""
        waiting, self.outbox.waiting = [event for _, event in self.outbox.waiting], []
        if waiting:
            await self.seal(*waiting, source="audit")
        return waiting

    async def acts(self, person: UserId, *, count: int = 3) -> list[AuditEvent]:
        made = [
            event(
                actor=person,
                targets=(person, "openai/api-key"),
                source_address=ADDRESS,
                user_agent=BROWSER,
                details={"email": f"{person}@example.test", "version": number},
            )
            for number in range(count)
        ]
        await self.seal(*made)
        return made

    async def entries(self, **wanted: object) -> list[Entry]:
        request = Query(filter=Filter.model_validate(wanted), limit=500)
        return list((await self.reading.query(self.owner.ask(contracts.QUERY), request)).entries)

    async def erase(self, person: UserId) -> contracts.Erased:
        return await self.erasing.erase(self.owner.ask(contracts.ERASE), Erase(subject=person))

    # What exports read.
    async def checkpoint(self) -> Checkpoint:
        return await self.prover.checkpoint(self.owner.ask(contracts.CHECKPOINT), Empty())

    async def leaves(self, *, start: int, limit: int) -> Leaves:
        return await self.service.leaves(self.owner.ask(contracts.LEAVES), ReadLeaves(start=start, limit=limit))

    async def select(self, *, filter: Filter, start: int, end: int) -> SelectedLeaves:  # noqa: A002
        request = SelectLeaves(filter=filter, start=start, end=end, limit=2)
        return await self.reading.select(self.owner.ask(contracts.SELECT), request)

    async def nodes(self, *, size: int, nodes: tuple[tuple[int, int], ...]) -> Nodes:
        return await self.reading.nodes(self.owner.ask(contracts.NODES), ReadNodes(size=size, nodes=nodes))


@pytest.fixture
def world(database: Database, signer: LogSigner, tmp_path: Path) -> World:
    return World(KeyFolder.open(tmp_path / "keys"), database, signer, make_person(level=Level.OWNER))


def read(folder: Path) -> bytes:
    compressed = [str(pq.read_table(file).to_pylist()).encode() for file in folder.rglob("*.parquet")]
    return b"\n".join([*compressed, *(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())])


async def test_an_erasure_leaves_every_proof_and_nothing_that_names_the_person(world: World, tmp_path: Path) -> None:
    person, other = UserId.new(), UserId.new()
    acts = await world.acts(person)
    await world.acts(other, count=1)
    before = await world.checkpoint()
    await export_log(world, tmp_path / "before")
    receipt = await world.prover.receipt(world.owner.ask(contracts.RECEIPT), AskReceipt(event_id=acts[0].id))
    assert [entry.event for entry in reversed(await world.entries(actor=person))] == acts
    assert len(await world.entries(target=person)) == 3

    erased = await world.erase(person)

    (told,) = await world.relay()
    assert (told.id, told.action) == (erased.erasure_id, contracts.ERASED)
    assert person not in told.model_dump_json()
    # Reading
    assert await world.entries(actor=person) == await world.entries(target=person) == []
    withheld = [entry for entry in await world.entries() if entry.withheld]
    assert len(withheld) == 3
    for entry in withheld:
        assert set(entry.withheld) == {"/actor", "/targets/0", "/source_address", "/user_agent", "/details/email"}
        assert (entry.event.actor, entry.event.targets) == (NOBODY, (NOBODY, "openai/api-key"))
    assert len(await world.entries(actor=other)) == 1
    # Exports, of before and of now
    await export_log(world, tmp_path / "after")
    for name, opened, hidden in (("before", 20, 0), ("after", 5, 15)):
        report = verify_export(tmp_path / name, world.verifier, kept={"before": before.note.encode()})
        assert (report.damage, report.opened, report.withheld) == (None, opened, hidden), name
        assert f"people     {opened} fields are what was sealed, {hidden} are withheld" in str(report)
    assert person.encode() in read(tmp_path / "before")
    assert person.encode() not in read(tmp_path / "after")
    # Proofs
    proven = verify_receipt(receipt.proof.encode(), world.verifier, openings=receipt.openings)
    assert proven.withheld == 0
    again = await world.prover.receipt(world.owner.ask(contracts.RECEIPT), AskReceipt(event_id=acts[0].id))
    assert again.openings == ()
    assert verify_receipt(again.proof.encode(), world.verifier).withheld == 5
    now = await world.checkpoint()
    proof = await world.prover.consistency(
        world.owner.ask(contracts.CONSISTENCY), contracts.ProveGrowth(old_size=before.size, size=now.size)
    )
    verify_growth(before.note.encode(), now.note.encode(), proof.hashes, world.verifier)
    # The certificate
    certificate = open_certificate(erased.certificate.encode(), erased.verifier_key)
    assert (certificate.erasure_id, certificate.entries, certificate.size) == (told.id, 3, before.size)
    assert person not in erased.certificate
    for old, new in (("entries 3", "entries 2"), ("size 4", "size 5"), (told.id, EventId.new())):
        with pytest.raises(CryptoError):
            open_certificate(erased.certificate.replace(old, new).encode(), erased.verifier_key)
    listed = await world.erasing.erasures(world.owner.ask(contracts.ERASURES), ListErasures())
    assert [each.certificate for each in listed.erasures] == [erased.certificate]


async def test_who_is_still_there_is_recorded_anew_and_may_be_erased_again(world: World) -> None:
    person = UserId.new()
    await world.acts(person)
    first = await world.erase(person)
    acts = await world.acts(person, count=2)
    assert [entry.event for entry in reversed(await world.entries(actor=person))] == acts
    second = await world.erase(person)
    assert (first.entries, second.entries) == (3, 2)
    assert first.erasure_id != second.erasure_id
    with pytest.raises(NothingToErase):
        await world.erase(person)
    with pytest.raises(NothingToErase):
        await world.erase(UserId.new())


async def test_what_was_on_its_way_is_erased_too_and_what_stands_still_keeps_nobody_from_it(world: World) -> None:
    person = UserId.new()
    await world.acts(person, count=1)
    world.backlog.waiting = lambda: world.acts(person, count=2)
    assert (await world.erase(person)).entries == 3
    assert await world.entries(actor=person) == []
    await world.acts(person, count=1)
    world.backlog.stands_still = True
    assert (await world.erase(person)).entries == 1


async def test_nothing_is_erased_under_a_hold(world: World) -> None:
    person = UserId.new()
    await world.acts(person)
    hold = await world.retention.place_hold(world.owner.ask(contracts.PLACE_HOLD), PlaceHold(reason="a lawsuit"))
    with pytest.raises(UnderHold):
        await world.erase(person)
    assert len(await world.entries(actor=person)) == 3
    lift = LiftHold(number=hold.number, reason="over")
    await world.retention.lift_hold(world.owner.ask(contracts.LIFT_HOLD), lift)
    assert (await world.erase(person)).entries == 3


async def test_somebody_who_may_only_erase_sees_the_holds_all_the_same(world: World) -> None:
    """A policy that hid them would let the erasure pass."""
    person = UserId.new()
    await world.acts(person)
    await world.retention.place_hold(world.owner.ask(contracts.PLACE_HOLD), PlaceHold(reason="a lawsuit"))
    only = Person(replace(make_person(world.scope).caller, permissions=frozenset({"audit.erase"})))
    with pytest.raises(UnderHold):
        await world.erasing.erase(only.ask(contracts.ERASE), Erase(subject=person))


STEPS = ("begin", "destroy", "add", "commit", "end")


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_is_gone_on_with_by_the_same_call(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, lost: bool
) -> None:
    """The step does not happen, or it does and nobody learns of it; then everything is asked again of new processes."""
    person = UserId.new()
    await world.acts(person)

    def breaking(real: Callable[..., object]) -> Callable[..., object]:
        async def broken(*args: object) -> None:
            if lost:
                await real(*args)  # type: ignore[misc]
            raise ServiceUnavailable("the machine is off")

        return broken

    with monkeypatch.context() as patched:
        if step == "add":
            patched.setattr(ErasureRows, "add", breaking(ErasureRows.add))
        elif step == "commit":
            real = world.people.erasing

            @asynccontextmanager
            async def erasing(call: object) -> AsyncIterator[ErasureRows]:
                async with real(call) as rows:  # type: ignore[arg-type]
                    yield rows
                    if not lost:
                        raise ServiceUnavailable("the machine is off")
                raise ServiceUnavailable("the machine is off")

            patched.setattr(world.people, "erasing", erasing)
        else:
            patched.setattr(world.keys, step, breaking(getattr(world.keys, step)))
        with pytest.raises(ServiceUnavailable):
            await world.erase(person)

    again = World(KeyFolder.open(world.keys._folder), world.database, world.signer, world.owner)
    again.outbox.waiting = world.outbox.waiting
    if (step, lost) == ("end", True):
        with pytest.raises(NothingToErase):  # only the answer was lost: it is in the list
            await again.erase(person)
    else:
        assert (await again.erase(person)).entries == 3
    (erasure,) = (await again.erasing.erasures(world.owner.ask(contracts.ERASURES), ListErasures())).erasures
    assert open_certificate(erasure.certificate.encode(), world.verifier).erasure_id == erasure.erasure_id
    assert [told.id for told in await again.relay()] == [erasure.erasure_id]
    assert await again.entries(actor=person) == []
    assert await again.keys.begun(world.scope, person) is None
    with pytest.raises(NothingToErase):
        await again.erase(person)


async def test_what_came_between_a_crash_and_the_next_call_is_erased_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = UserId.new()
    await world.acts(person)
    with monkeypatch.context() as patched:

        async def broken(*_: object) -> None:
            raise ServiceUnavailable("the machine is off")

        patched.setattr(ErasureRows, "add", broken)
        with pytest.raises(ServiceUnavailable):
            await world.erase(person)
    await world.acts(person, count=1)
    await world.erase(person)
    assert await world.entries(actor=person) == []
    assert len((await world.erasing.erasures(world.owner.ask(contracts.ERASURES), ListErasures())).erasures) == 1


async def test_ones_own_entries_and_nobody_elses(world: World) -> None:
    me, other, agent = make_person(world.scope, Level.VIEWER), UserId.new(), AgentId.new()
    acts = await world.acts(me.caller.principal, count=3)  # type: ignore[arg-type]
    await world.acts(other)
    for_me = event(actor=agent, acting_for=me.caller.principal, source_address=ADDRESS)
    await world.seal(for_me, event(actor=agent), event(actor=other, targets=(me.caller.principal,)))
    mine = [for_me, *reversed(acts)]

    page = await world.reading.mine(me.ask(contracts.MINE), Mine(limit=2))
    rest = await world.reading.mine(me.ask(contracts.MINE), Mine(limit=2, before=page.next_before))
    assert [entry.event for entry in (*page.entries, *rest.entries)] == mine
    assert rest.next_before is None
    # Who may read everything has no more than that either, and an agent has its own.
    reader = Person(replace(world.owner.caller, principal=me.caller.principal))
    assert len((await world.reading.mine(reader.ask(contracts.MINE), Mine())).entries) == 4
    agents = Person(replace(me.caller, principal=agent))
    assert len((await world.reading.mine(agents.ask(contracts.MINE), Mine())).entries) == 2


async def test_row_level_security_holds_a_person_to_own_rows_whatever_is_asked(world: World) -> None:
    me = make_person(world.scope, Level.VIEWER)
    await world.acts(me.caller.principal, count=2)  # type: ignore[arg-type]
    await world.acts(UserId.new())
    call = me.ask(contracts.MINE)
    await world.subjects.known_as(call)
    only = replace(call.tenant, permissions=frozenset({"audit.mine"}))
    for tenant, rows in ((only, 2), (replace(only, permissions=frozenset()), 0)):
        async with world.database.transaction(tenant, read_only=True) as connection:
            assert await connection.fetchval("select count(*) from audit.entries") == rows
            assert await connection.fetchval("select count(*) from audit.leaves") == 0
    someone = replace(only, principal_id=UserId.new())
    async with world.database.transaction(someone, read_only=True) as connection:
        assert await connection.fetchval("select count(*) from audit.entries") == 0


async def test_rows_of_other_tables_name_nobody_and_answers_do(world: World, superuser: asyncpg.Connection) -> None:
    who = world.owner.caller.principal
    await world.retention.set(
        world.owner.ask(contracts.SET_RETENTION), contracts.SetRetention(category="tool_call", days=30)
    )
    await world.retention.place_hold(world.owner.ask(contracts.PLACE_HOLD), PlaceHold(reason="a lawsuit"))
    await world.retention.lift_hold(world.owner.ask(contracts.LIFT_HOLD), LiftHold(number=1, reason="over"))
    await world.reading.save_position(world.owner.ask(contracts.SAVE_POSITION), SavePosition(name="mine", next_start=3))
    for table in ("retention", "holds", "lifted_holds", "positions"):
        rows = await superuser.fetch(f"select * from audit.{table} where scope_id = $1", world.scope)  # noqa: S608
        assert rows, table
        assert who not in str(rows), table
    shown = await world.retention.holds(world.owner.ask(contracts.HOLDS), ListHolds())
    assert (shown.holds[0].placed_by, shown.holds[0].lifted_by) == (who, who)
    assert (await world.retention.show(world.owner.ask(contracts.RETENTION), Empty())).changed_by == who
    positions = await world.reading.list_positions(world.owner.ask(contracts.LIST_POSITIONS), Empty())
    assert [each.name for each in positions.positions] == ["mine"]


async def test_who_emitted_gets_a_receipt_until_erased(world: World) -> None:
    me = make_person(world.scope, Level.MEMBER)
    (act, *_) = await world.acts(me.caller.principal)  # type: ignore[arg-type]
    receipt = await world.prover.receipt(me.ask(contracts.RECEIPT), AskReceipt(event_id=act.id))
    assert verify_receipt(receipt.proof.encode(), world.verifier, openings=receipt.openings).withheld == 0
    with pytest.raises(CryptoError):  # of another entry
        verify_receipt(receipt.proof.encode(), world.verifier, openings=receipt.openings[:1] * 2)
    await world.erase(me.caller.principal)  # type: ignore[arg-type]
    with pytest.raises(NotSealed):
        await world.prover.receipt(me.ask(contracts.RECEIPT), AskReceipt(event_id=act.id, wait_seconds=0))


TAMPERED = {
    "swapped": "update audit.entries a set openings = b.openings from audit.entries b where a.scope_id = $1 and "
    "b.scope_id = $1 and a.index in (1, 2) and b.index = 3 - a.index",
    "gone": "update audit.entries set openings = null where scope_id = $1 and index = 1",
    "changed": "update audit.entries set openings = set_byte(openings, 40, get_byte(openings, 40) # 1) "
    "where scope_id = $1 and index = 1",
    "a commitment": "update audit.entries set leaf = overlay(leaf placing 'AAAA'::bytea from 30) "
    "where scope_id = $1 and index = 1",
}


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


async def test_a_service_with_other_keys_does_not_start(
    database: Database, superuser: asyncpg.Connection, tmp_path: Path
) -> None:
    await superuser.execute("set session_replication_role = replica")  # no triggers
    remembered = await superuser.fetchrow("delete from audit.key_folder returning *")
    people = PostgresPeople(database, Outbox())
    first, other = KeyFolder.open(tmp_path / "a"), KeyFolder.open(tmp_path / "b")
    await people.expect_folder(first.folder_id)
    await people.expect_folder(KeyFolder.open(tmp_path / "a").folder_id)
    with pytest.raises(OtherKeys):
        await people.expect_folder(other.folder_id)
    await superuser.execute("delete from audit.key_folder")
    if remembered is not None:
        await superuser.execute("insert into audit.key_folder values ($1, $2, $3)", *remembered)


async def test_nobody_of_another_scope_erases_or_reads_it(world: World) -> None:
    person = UserId.new()
    await world.acts(person)
    stranger = make_person(level=Level.OWNER)
    with pytest.raises(NothingToErase):
        await world.erasing.erase(stranger.ask(contracts.ERASE), Erase(subject=person))
    await world.erase(person)
    listed = await world.erasing.erasures(stranger.ask(contracts.ERASURES), ListErasures())
    assert listed.erasures == ()
    assert await world.people.count_erasures(the_log(world.scope)) == 1
