"""Erasing people from a log in PostgreSQL, with keys in a folder: what becomes unreadable, and what stays proven."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from keeper import Outbox
from makers import Person, event, make_person
from people_world import ADDRESS, World, read

from wardmesh.audit_erasure import open_certificate
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    NOBODY,
    AskReceipt,
    Erase,
    LiftHold,
    ListErasures,
    ListHolds,
    Mine,
    PlaceHold,
    SavePosition,
)
from wardmesh.contracts.operation import Empty, Level
from wardmesh.crypto.errors import CryptoError
from wardmesh.errors import NothingToErase, NotSealed, ServiceUnavailable, UnderHold
from wardmesh.ids import AgentId, EventId, UserId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import OtherKeys
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store_people import ErasureRows, PostgresPeople
from wardmesh_audit.subject_keys import KeyFolder


@pytest.fixture
def world(database: Database, signer: LogSigner, tmp_path: Path) -> World:
    return World(KeyFolder.open(tmp_path / "keys"), database, signer, make_person(level=Level.OWNER))


async def test_what_could_not_be_sealed_may_be_about_anybody_so_an_erasure_takes_it(world: World) -> None:
    person, elsewhere = UserId.new(), WorkspaceId.new()
    await world.acts(person)
    said = person.encode() + b"\xff is no envelope"
    letters = [await world.letter(said), await world.letter(said, elsewhere)]
    assert [await world.letters.open(letter) for letter in letters] == [said, said]
    with pytest.raises(NothingToErase):
        await world.erase(NOBODY)
    assert await world.letters.open(letters[0]) == said

    await world.erase(person)
    assert [await world.letters.open(letter) for letter in letters] == [None, said]
    later = await world.letter(b"later")
    assert await world.letters.open(later) == b"later"
    assert await world.letters.open(letters[0]) is None
    with pytest.raises(NothingToErase):
        await world.erase(UserId.new())
    assert await world.letters.open(later) == b"later", "where nobody is erased, nothing is taken"


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


STEPS = ("retire", "acts", "begin", "destroy", "forget", "add", "commit", "end")


@pytest.mark.parametrize("lost", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_is_gone_on_with_by_the_same_call(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, lost: bool
) -> None:
    """The step does not happen, or it does and nobody learns of it; then everything is asked again of new processes."""
    person = UserId.new()
    await world.acts(person)
    letter = await world.letter(person.encode())

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
        elif step == "forget":
            patched.setattr(world.letters, "forget", breaking(world.letters.forget))
        else:
            owner = world.people if step == "acts" else world.keys
            patched.setattr(owner, step, breaking(getattr(owner, step)))
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
    assert await again.letters.open(letter) is None
    assert await again.keys.begun(world.scope, person) is None
    with pytest.raises(NothingToErase):
        await again.erase(person)


@pytest.mark.parametrize(
    ("owner", "step"), [(PostgresPeople, "acts"), (KeyFolder, "begin"), (KeyFolder, "destroy"), (ErasureRows, "add")]
)
async def test_what_came_between_crashes_is_erased_and_counted_whatever_became_of_the_key(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    """Twice: with the first key retired and still there, or with another one each time."""
    person = UserId.new()
    await world.acts(person)
    for _ in range(2):
        with monkeypatch.context() as patched:

            async def broken(*_: object) -> None:
                raise ServiceUnavailable("the machine is off")

            patched.setattr(owner, step, broken)
            with pytest.raises(ServiceUnavailable):
                await world.erase(person)
        await world.acts(person, count=2)
    erased = await world.erase(person)
    assert erased.entries == 3 + 2 + 2
    assert await world.entries(actor=person) == []
    assert await world.keys.begun(world.scope, person) is None
    assert len((await world.erasing.erasures(world.owner.ask(contracts.ERASURES), ListErasures())).erasures) == 1


async def test_who_comes_back_before_the_note_is_gone_is_erased_by_another_erasure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = UserId.new()
    await world.acts(person)
    with monkeypatch.context() as patched:

        async def broken(*_: object) -> None:
            raise ServiceUnavailable("the machine is off")

        patched.setattr(world.keys, "end", broken)
        with pytest.raises(ServiceUnavailable):
            await world.erase(person)
    await world.acts(person, count=2)
    assert (await world.erase(person)).entries == 2
    erasures = (await world.erasing.erasures(world.owner.ask(contracts.ERASURES), ListErasures())).erasures
    assert sorted(each.entries for each in erasures) == [2, 3]


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
