"""Erasing somebody who is being sealed at this moment: each entry is counted, or it is under the next key.

On a real database, with two processes' copies of the folder of keys: one seals, the other erases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_ports import FakeEmitter, FakePublisher
from makers import Delivered, delivered, event, make_person, seal_all
from people_world import World

from wardmesh.audit_erasure import open_certificate
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import NOBODY, AuditEvent, ListErasures
from wardmesh.contracts.operation import Level
from wardmesh.errors import NothingToErase
from wardmesh.ids import Scope, UserId
from wardmesh.server.database import Database
from wardmesh_audit.domain import Candidate
from wardmesh_audit.ports import Check, Sealed
from wardmesh_audit.sealer import Sealer
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.subject_keys import KeyFolder


class HeldStore(PostgresStore):
    """Stops once, with what is protected in hand: before its turn to append, or in it, after it has looked."""

    def __init__(self, database: Database, *, in_turn: bool) -> None:
        super().__init__(database)
        self.reached, self.may_go_on, self.in_turn = asyncio.Event(), asyncio.Event(), in_turn

    async def seal(self, scope: Scope, candidates: Sequence[Candidate], check: Check | None = None) -> Sealed:
        if self.in_turn:
            return await super().seal(scope, candidates, self.held(check))
        await self.hold()
        return await super().seal(scope, candidates, check)

    def held(self, check: Check | None) -> Check:
        async def looked() -> None:
            assert check is not None
            await check()
            await self.hold()

        return looked

    async def hold(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.may_go_on.wait()


@dataclass
class Meanwhile:
    world: World
    elsewhere: World
    """The same log, as another process has it."""

    def sealer(self, store: PostgresStore) -> Sealer:
        return Sealer(store, FakePublisher(), FakeEmitter(), self.world.subjects, self.world.letters)

    async def hold_one(self, person: UserId, *, in_turn: bool) -> tuple[AuditEvent, HeldStore, asyncio.Task[Delivered]]:
        """Begin to seal something that somebody did, and return when it is held."""
        act, store = (
            event(actor=person, user_agent="of the one in hand"),
            HeldStore(self.world.database, in_turn=in_turn),
        )
        message = delivered(self.world.scope, act)

        async def seal() -> Delivered:
            await seal_all(self.sealer(store), [message])
            return message

        task = asyncio.create_task(seal())
        await store.reached.wait()
        return act, store, task

    async def certified(self) -> list[int]:
        listed = await self.world.erasing.erasures(self.world.owner.ask(contracts.ERASURES), ListErasures())
        return [open_certificate(each.certificate.encode(), self.world.verifier).entries for each in listed.erasures]


@pytest.fixture
def meanwhile(database: Database, signer: LogSigner, tmp_path: Path) -> Meanwhile:
    owner = make_person(level=Level.OWNER)
    one, other = (World(KeyFolder.open(tmp_path / "keys"), database, signer, owner) for _ in range(2))
    return Meanwhile(one, other)


async def test_what_a_sealer_has_in_hand_is_sealed_by_the_next_key(meanwhile: Meanwhile) -> None:
    world, person = meanwhile.world, UserId.new()
    await world.acts(person)
    act, store, sealing = await meanwhile.hold_one(person, in_turn=False)

    assert (await meanwhile.elsewhere.erase(person)).entries == 3

    store.may_go_on.set()
    assert (await sealing).outcome == "acknowledged"
    assert [entry.event for entry in await world.entries(actor=person)] == [act]
    hidden = [entry for entry in await world.entries() if entry.event.actor == NOBODY]
    assert len(hidden) == 3 == sum(await meanwhile.certified())
    assert (await meanwhile.elsewhere.erase(person)).entries == 1
    assert sorted(await meanwhile.certified()) == [1, 3]


@pytest.mark.parametrize("acts", [3, 0], ids=["a log", "its first entry"])
async def test_what_is_being_appended_is_waited_for_and_counted(meanwhile: Meanwhile, acts: int) -> None:
    world, person = meanwhile.world, UserId.new()
    if acts:
        await world.acts(person, count=acts)
    await world.checkpoint()  # signing it would wait for the one in hand, before anything of the person's is touched
    _, store, sealing = await meanwhile.hold_one(person, in_turn=True)

    erasing = asyncio.create_task(meanwhile.elsewhere.erase(person))
    while await world.keys.retired(world.scope, person) is None and not erasing.done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not erasing.done()

    store.may_go_on.set()
    assert (await sealing).outcome == "acknowledged"
    assert (await erasing).entries == acts + 1
    assert await world.entries(actor=person) == []
    assert [entry.event.actor for entry in await world.entries()] == [NOBODY] * (acts + 1)
    with pytest.raises(NothingToErase):
        await world.erase(person)
    assert await meanwhile.certified() == [acts + 1]


async def test_under_load_every_entry_is_counted_once(meanwhile: Meanwhile) -> None:
    """Sealers of two processes, and erasures one after another of a person who is always acting."""
    world, elsewhere, person = meanwhile.world, meanwhile.elsewhere, UserId.new()
    erased: list[int] = []
    over = asyncio.Event()
    sealed = 0

    async def act(seals: World) -> None:
        nonlocal sealed
        sealer = Sealer(seals.store, FakePublisher(), FakeEmitter(), seals.subjects, seals.letters)
        while not over.is_set():
            messages = [delivered(world.scope, event(actor=person), event(actor=UserId.new())) for _ in range(2)]
            await seal_all(sealer, messages)
            sealed += sum(each.outcome == "acknowledged" for each in messages)

    async with asyncio.TaskGroup() as tasks:
        for seals in (world, elsewhere):
            tasks.create_task(act(seals))
        for _ in range(20):
            try:
                erased.append((await world.erase(person)).entries)
            except NothingToErase:
                await asyncio.sleep(0.01)
        over.set()
    assert len(erased) > 5
    erased.append((await world.erase(person)).entries)
    assert sum(erased) == sealed
    assert await world.entries(actor=person) == []
