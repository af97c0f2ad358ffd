"""Erasing people under kill -9: the audit service, the broker and the database die in the middle of it.

The person goes on acting meanwhile, so that sealers have something in hand at every moment. Whoever asks repeats the
call until it is answered. Then nobody and nothing says any more who was erased; each erasure
has one entry and a certificate, and together they count everything that those people did; every proof and export
verifies; and what others did, whose keys lie in the same files, is there as it was.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from benchmarks.log_world import broker_as_audit
from tests.canary.hunt import Secret, hunt
from tests.faults.log_load import RETRY_SECONDS, make_consumer, start_again
from tests.faults.subjects import Subject
from tests.mesh import hunting
from tests.mesh.world import Tenant, sign_up

from wardmesh.audit_erasure import open_certificate
from wardmesh.audit_export import verify_export
from wardmesh.audit_receipt import verify_growth
from wardmesh.audit_rows import Format
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import ERASED, NOBODY, AuditEvent, Checkpoint, Erased, Filter
from wardmesh.errors import AuditUnavailable, NothingToErase, WardmeshError
from wardmesh.server.publishing import AuditPublisher
from wardmesh_audit.subject_keys import KeyFolder
from wardmesh_cli.embedded.mesh import EmbeddedMesh

VICTIMS: Final = ("audit", "nats", "postgres")
"""Each is killed while somebody else is being erased."""
MORE_VICTIMS: Final = ("audit", "audit")
"""At length."""
MOMENTS: Final = ("called", "retired", "noted", "destroyed")
"""What has happened by then: somebody asked; the key seals nothing more; what it has sealed is counted, and the erasure
noted beside the keys; the key is no more."""
CALL_SECONDS: Final = 5.0
ANSWERED_SECONDS: Final = 90.0
"""From the first call to its answer: what was killed takes seconds to come back on two busy cores."""
SETTLED_SECONDS: Final = 60.0
ACTS: Final = 4
OTHERS: Final = 10
TOTALS: Final[Counter[str]] = Counter()


@dataclass(frozen=True)
class World:
    tenant: Tenant
    publisher: AuditPublisher
    keys: KeyFolder

    @property
    def mesh(self) -> EmbeddedMesh:
        return self.tenant.mesh

    async def emit(self, *events: AuditEvent) -> None:
        """Emit until it is acknowledged."""
        while True:
            try:
                await self.publisher.emit(self.tenant.workspace, events)
            except AuditUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def settled(self) -> None:
        await hunting.everything_is_sealed(self.mesh, SETTLED_SECONDS)

    async def kill(self, victim: str) -> None:
        """Kill a process as a crash would, and have it back."""
        self.mesh.kill(victim)
        await start_again(self.mesh, victim)

    async def has_happened(self, moment: str, person: Subject) -> bool:
        if moment == "called":
            return True
        scope = self.tenant.workspace
        retired = await self.keys.retired(scope, person.user) is not None
        if moment == "retired":
            return retired
        return await self.keys.begun(scope, person.user) is not None and (moment == "noted" or not retired)


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[World]:
    """A mesh that can erase, and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-erasing-"))
    async with (
        EmbeddedMesh(data_dir=folder, services=("auth", "audit")) as mesh,
        broker_as_audit(mesh) as messaging,
    ):
        await make_consumer(messaging)  # the service's own; what it died with is given out again within seconds
        publisher = AuditPublisher(messaging, "audit")
        publisher.start()
        yield World(await sign_up(mesh, "erasing"), publisher, KeyFolder.open(mesh.layout.subject_keys))
        await publisher.stop()
    shutil.rmtree(folder)
    print("; ".join(f"{count} {what}" for what, count in sorted(TOTALS.items())))


@pytest.fixture
async def world(house: World) -> World:
    """A workspace of this round's own."""
    tenant = house.tenant
    async with await tenant.connect_as_owner(tenant.organization) as owner:
        made = await owner.auth.create_workspace(name="erasing")
    return replace(house, tenant=replace(tenant, workspace=made.id))


async def erase(owner: Mesh, person: Subject, between: Callable[[], Awaitable[None]]) -> Erased | None:
    """Ask until there is an answer; None if it was carried out, and only its answer was lost."""
    view = owner.within(timedelta(seconds=CALL_SECONDS))
    async with asyncio.timeout(ANSWERED_SECONDS):
        while True:
            try:
                return await view.audit.erase(subject=person.user)
            except NothingToErase:
                return None
            except WardmeshError as error:
                if not error.retryable:
                    raise
                TOTALS[error.code] += 1
            await between()
            await asyncio.sleep(RETRY_SECONDS)


async def erase_under_kill(world: World, owner: Mesh, victim: str, person: Subject, rng: random.Random) -> None:
    moment, comes_back = rng.choice(MOMENTS), rng.random() < 0.5

    async def between() -> None:
        nonlocal comes_back
        if comes_back:  # whoever is still there acts on, under another key if the first is gone
            comes_back = False
            await world.emit(person.act(rng))

    over = asyncio.Event()
    acting = asyncio.create_task(goes_on_acting(world, person, over, rng))
    asking = asyncio.create_task(erase(owner, person, between))
    while not asking.done() and not await world.has_happened(moment, person):
        await asyncio.sleep(0)
    await asyncio.sleep(rng.uniform(0.0, 0.1 if moment == "called" else 0.004))
    passed = [each for each in MOMENTS if await world.has_happened(each, person)]
    TOTALS[f"{victim} killed when {passed[-1]}"] += 1
    await world.kill(victim)
    TOTALS["lost answers" if await asking is None else "answers"] += 1
    over.set()
    await acting


async def goes_on_acting(world: World, person: Subject, until: asyncio.Event, rng: random.Random) -> None:
    while not until.is_set():
        await world.emit(person.act(rng))
        await asyncio.sleep(rng.uniform(0.0, 0.01))


async def others_act(world: World, others: Sequence[Subject], until: asyncio.Event, rng: random.Random) -> None:
    while not until.is_set():
        await world.emit(*(rng.choice(others).act(rng) for _ in range(rng.randint(1, 10))))
        await asyncio.sleep(rng.random() / 5)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_an_erasure_that_was_killed_ends_like_any_other(
    world: World, seed: int, at_length: bool, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    victims = VICTIMS + MORE_VICTIMS if at_length else VICTIMS
    people, others = [Subject() for _ in victims], [Subject() for _ in range(OTHERS)]
    everybody = [*people, *others]
    rng.shuffle(everybody)
    # All in one envelope, so that their keys are in one file.
    await world.emit(*(each.act(rng) for _ in range(ACTS) for each in everybody))
    await world.settled()
    keys = [key for person in people for key in hunting.keys_of(world.mesh, person.user)]
    assert len(keys) == len(people)
    async with await world.tenant.connect_as_owner() as owner:
        kept = await owner.audit.checkpoint()
        until = asyncio.Event()
        async with asyncio.TaskGroup() as load:
            load.create_task(others_act(world, others, until, rng))
            for victim, person in zip(rng.sample(victims, len(victims)), people, strict=True):
                await erase_under_kill(world, owner, victim, person, rng)
            until.set()
        await world.settled()
        for person in people:  # what was still on its way when the erasure was over
            with suppress(NothingToErase):
                await owner.audit.erase(subject=person.user)
            with pytest.raises(NothingToErase):
                await owner.audit.erase(subject=person.user)
        await world.settled()

        entries = {entry.event.id: entry async for entry in owner.audit.search(Filter())}
        for act in (act for person in people for act in person.acts):
            assert entries[act.id].withheld, "it is in the log"
            assert entries[act.id].event.acting_for in (None, NOBODY)
        for other in others:
            assert [entries[act.id].event for act in other.acts] == other.acts
        await check_erasures(owner, kept, sum(len(person.acts) for person in people))
        await hunt_for(world, owner, people, keys, others[0].acts[0], tmp_path)
        for kind in Format:
            assert verify_selection(tmp_path / "given" / kind, kept.verifier_key).withheld > 0
        report = verify_export(tmp_path / "given" / "whole", kept.verifier_key, kept={"kept": kept.note.encode()})
        assert report.is_sound, str(report)
        assert not [file for file in hunting.key_files(world.mesh) if file.parent.name == "erasures"]
    TOTALS["rounds"] += 1
    TOTALS["entries"] += report.size


async def check_erasures(owner: Mesh, kept: Checkpoint, acts: int) -> None:
    """Each erasure has one entry and its certificate, and nothing that was erased is in none of them."""
    erasures = {each.erasure_id: each for each in (await owner.audit.erasures()).erasures}
    told = [entry async for entry in owner.audit.search(Filter(action=ERASED))]
    assert Counter(entry.event.id for entry in told) == Counter(list(erasures))
    assert {entry.event.id: entry.event.details["entries"] for entry in told} == {
        erasure: each.entries for erasure, each in erasures.items()
    }
    present = await owner.audit.checkpoint()
    for erasure, each in erasures.items():
        certificate = open_certificate(each.certificate.encode(), present.verifier_key)
        assert (certificate.erasure_id, certificate.entries) == (erasure, each.entries)
        assert kept.size <= certificate.size <= present.size
    assert sum(each.entries for each in erasures.values()) == acts
    growth = await owner.audit.consistency(old_size=kept.size, size=present.size)
    verify_growth(kept.note.encode(), present.note.encode(), growth.hashes, present.verifier_key)
    TOTALS["erasures"] += len(erasures)


async def hunt_for(
    world: World, owner: Mesh, people: Sequence[Subject], keys: Sequence[Secret], shown: AuditEvent, folder: Path
) -> None:
    for name in ("rows", "messages", "given"):
        (folder / name).mkdir()
    for left in world.mesh.layout.subject_keys.glob("*/.*"):  # a key's file, or a note's, that was being written
        os.utime(left, (0, 0))
    KeyFolder.open(world.mesh.layout.subject_keys)  # as at the first start an hour later: sweeps what crashes left
    await hunting.what_readers_get(owner, folder / "given", people[0].user, shown.id)
    await hunting.write_messages(world.mesh, dict.fromkeys(hunting.READERS, 1), folder / "messages")
    places = {
        "rows": await hunting.write_rows(world.mesh, folder / "rows"),
        "messages": hunting.files_in(folder / "messages"),
        "keys": hunting.key_files(world.mesh),
        "given": hunting.files_in(folder / "given"),
    }
    traits = [trait for person in people for trait in person.traits()]
    assert [str(each) for each in hunt([*traits, *keys], places).findings] == []
