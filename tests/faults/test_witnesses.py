"""Two meshes, one of which witnesses the other: both are killed, and one goes back in time. Only in `make faults`."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from tests.faults.test_log import copy, put_back
from tests.mesh.witness import WitnessedMesh, WitnessMesh
from tests.mesh.world import Tenant, sign_up

import wardmesh
from wardmesh.audit_receipt import verify_growth
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import Checkpoint
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.errors import ServiceUnavailable, UnavailableError, WardmeshError
from wardmesh.ids import WorkspaceId
from wardmesh_audit.alarm import DISPUTED
from wardmesh_audit.signing import LogSigner

ROUNDS: Final = 12
"""Kills: each takes a process some seconds to come back from."""
USAGE: Final = wardmesh.ModelUsage(model="small-1", input_tokens=8, output_tokens=9, cost_usd="0.1", source="chat")


@dataclass
class World:
    """The mesh whose log is witnessed, its witness, and how the one is trusted with the other."""

    ours: WitnessedMesh
    witness: WitnessMesh
    policy: Policy

    async def tenant(self, name: str) -> Tenant:
        """Return an organization whose workspace's log the witness was told of."""
        tenant = await sign_up(self.ours, name)
        signer = LogSigner.from_files("wardmesh", self.ours.layout.identities.log_signing_key_file)
        with self.witness.listed.open("a") as file:
            file.write(f"vkey {signer.verifier_key(tenant.workspace)}\n")
        return tenant


@pytest.fixture(scope="module")
async def world(at_length: bool) -> AsyncIterator[World]:
    if not at_length:
        pytest.skip("make faults")
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-witnesses-"))
    (folder / "witness").mkdir()
    policy = folder / "policy"
    async with WitnessMesh(folder / "witness") as witness:
        classic, quantum = witness.vkeys
        policy.write_text(
            f"witness classic {classic} {witness.witness_url}\nwitness quantum {quantum} {witness.witness_url}\n"
            "group both all classic quantum\nquorum both\n"
        )
        ours = WitnessedMesh(folder / "ours", policy)
        await ours.start()
        try:
            yield World(ours, witness, Policy.parse(policy.read_bytes()))
        finally:
            await ours.stop()
    shutil.rmtree(folder)


async def grown(mesh: Mesh, count: int) -> Checkpoint:
    for _ in range(count):
        event = await mesh.audit.emit(USAGE)
    await mesh.audit.receipt(event_id=event)
    return await mesh.audit.checkpoint()


async def test_every_cosigned_checkpoint_extends_the_one_before_whatever_is_killed(world: World) -> None:
    """Callers in two processes of ours would be the same: replicas share the table and the bucket."""
    tenant = await world.tenant("killed")
    rng = random.Random(1)
    given: list[Checkpoint] = []
    ended = asyncio.Event()

    async with await tenant.connect_as_owner() as mesh:

        async def ask() -> None:
            while not ended.is_set():
                try:
                    await mesh.audit.emit(USAGE)
                    given.append(await mesh.audit.checkpoint())
                except UnavailableError:
                    await asyncio.sleep(0.1)

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(ROUNDS):
            await asyncio.sleep(rng.random() * 2)
            mesh_of, victim = rng.choice(
                [(world.ours, "audit"), (world.ours, "postgres"), (world.witness, "audit"), (world.witness, "postgres")]
            )
            mesh_of.kill(victim)
            await mesh_of.wait_ready(victim)
        async with asyncio.timeout(60):
            while True:  # until pauses are over
                try:
                    given.append(await grown(mesh, 1))
                    break
                except WardmeshError:
                    await asyncio.sleep(1)
        ended.set()
        await asyncio.gather(*asking)
        given.sort(key=lambda each: each.size)
        print(f"{len(given)} cosigned checkpoints, of {given[0].size} to {given[-1].size} entries")
        assert len(given) > ROUNDS
        for old, new in pairwise(given):
            proof = await mesh.audit.consistency(old_size=old.size, size=new.size)
            verify_growth(old.note.encode(), new.note.encode(), proof.hashes, new.verifier_key, policy=world.policy)


async def test_a_mesh_that_was_restored_whole_is_found_out_by_its_witness(world: World, tmp_path: Path) -> None:
    """Database, streams and buckets are those of an earlier day: nothing of ours can tell, and the witness can."""
    tenant = await world.tenant("restored")
    ours = world.ours
    async with await tenant.connect_as_owner() as mesh:
        before = await grown(mesh, 5)
    await ours.stop()
    copy(ours.data_dir, tmp_path / "older")
    await ours.start()
    async with await tenant.connect_as_owner() as mesh:
        kept = await grown(mesh, 5)
    await ours.stop()
    put_back(tmp_path / "older", ours.data_dir)
    await ours.start()

    async with await tenant.connect_as_owner() as mesh:
        for count in (1, 30):  # shorter than the witness knows it, and then longer
            event = await mesh.audit.emit(USAGE)
            for _ in range(count):
                event = await mesh.audit.emit(USAGE)
            with pytest.raises(ServiceUnavailable, match="quorum"):
                await mesh.audit.receipt(event_id=event)
        page = await mesh.audit.query(limit=1)
        assert page.entries  # sealing and reading go on
    assert before.size < kept.size
    connection = await asyncpg.connect(ours.database_url())
    try:
        told = await connection.fetchval("select count(*) from audit.entries where action = $1", DISPUTED)
    finally:
        await connection.close()
    assert told >= 1
    assert await cosigned_size(world, tenant.workspace) == kept.size


async def cosigned_size(world: World, workspace: WorkspaceId) -> int:
    connection = await asyncpg.connect(world.witness.database_url())
    try:
        return int(
            await connection.fetchval("select size from audit.witnessed where origin = $1", f"wardmesh/{workspace}")
        )
    finally:
        await connection.close()
