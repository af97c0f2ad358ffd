"""One mesh's log, cosigned by another mesh over HTTP: every layer of both, and everybody who would rather fork it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.mesh.witness import NAME, WitnessedMesh, WitnessMesh
from tests.mesh.world import Tenant, sign_up
from typer.testing import CliRunner

import wardmesh
from wardmesh.audit_export import export_log
from wardmesh.crypto.cosignature import Cosigner
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.crypto.note import Signature, SignedNote
from wardmesh.crypto.tlog import consistency_proof
from wardmesh.crypto.tlog_policy import Policy
from wardmesh.crypto.tlog_witness import MAX_REQUEST_BYTES, SIZE_TYPE, AddCheckpoint, parse_size
from wardmesh.errors import ServiceUnavailable
from wardmesh.headers import DEADLINE_MS
from wardmesh.ids import UserId
from wardmesh_audit.proofs import Head
from wardmesh_audit.signing import LogSigner
from wardmesh_cli.application import build


@dataclass
class World:
    """A mesh whose logs are witnessed, and the one that does."""

    tenant: Tenant
    witness: WitnessMesh
    policy: Path
    signer: LogSigner

    @property
    def url(self) -> str:
        return f"{self.witness.witness_url}/add-checkpoint"

    async def books(self, connection: asyncpg.Connection[asyncpg.Record]) -> asyncpg.Record:
        """Return how far the witness has cosigned the workspace's log."""
        origin = self.signer.origin(self.tenant.workspace)
        row = await connection.fetchrow("select size, root from audit.witnessed where origin = $1", origin)
        assert row is not None
        return row

    async def post(self, body: bytes, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=20) as http:
            return await http.post(self.url, content=body, headers=headers)


@pytest.fixture(scope="module")
async def world(running_mesh: WitnessMesh) -> AsyncIterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-witnessed-"))
    policy = folder / "policy"
    classic, quantum = running_mesh.vkeys
    policy.write_text(
        f"witness classic {classic} {running_mesh.witness_url}\nwitness quantum {quantum} {running_mesh.witness_url}/\n"
        "group both all classic quantum\nquorum both\n"
    )
    try:
        async with WitnessedMesh(folder / "data", policy) as ours:
            tenant = await sign_up(ours, "witnessed")
            signer = LogSigner.from_files("wardmesh", ours.layout.identities.log_signing_key_file)
            running_mesh.listed.write_text(f"logs/v0\nvkey {signer.verifier_key(tenant.workspace)}\n")
            yield World(tenant, running_mesh, policy, signer)
    finally:
        shutil.rmtree(folder)


def command(*words: str) -> tuple[int, str]:
    ran = CliRunner().invoke(build(), ["audit", *words])
    return ran.exit_code, ran.output


async def test_a_log_is_cosigned_by_another_mesh_and_verified_offline(world: World, tmp_path: Path) -> None:
    usage = wardmesh.ModelUsage(model="small-1", input_tokens=8, output_tokens=9, cost_usd="0.1", source="chat")
    policy = Policy.parse(world.policy.read_bytes())
    async with await world.tenant.connect_as_owner() as mesh:
        for size in (3, 300):
            ids = await asyncio.gather(*(mesh.audit.emit(usage) for _ in range(size)))
            receipt = await mesh.audit.receipt(event_id=ids[-1])
        exported = await export_log(mesh.audit, tmp_path / "export")
        shown = await mesh.audit.witnesses()
    assert exported.size >= 303
    (tmp_path / "receipt").write_text(receipt.proof)
    assert {each.name for each in shown.witnesses} == {"classic", "quantum"}
    assert all(each.size is not None and each.size >= 303 for each in shown.witnesses)

    key = ("--key", exported.verifier_key)
    witnesses = [option for each in policy.witnesses.values() for option in ("--witness", str(each.key))]
    stranger = ("--witness", str(Cosigner("stranger", Ed25519PrivateKey.generate()).verifier))
    for verify in (("verify", str(tmp_path / "export")), ("verify-receipt", str(tmp_path / "receipt"))):
        for asked in (("--policy", str(world.policy)), (*witnesses, "--quorum", "2")):
            status, said = await asyncio.to_thread(command, *verify, *key, *asked)
            assert status == 0, said
            assert said.count("cosigned   by") == 2
        status, said = await asyncio.to_thread(command, *verify, *key, *witnesses, *stranger)
        assert (status, "missing: stranger" in said) == (1, True), said


async def test_an_erasure_is_shown_to_whoever_trusts_the_witnesses(world: World, tmp_path: Path) -> None:
    """Erase, certificate, receipt with cosignatures: verified offline, by the policy and by keys alone."""
    policy = Policy.parse(world.policy.read_bytes())
    async with await world.tenant.connect_as_owner() as mesh:
        somebody = UserId.new()
        about = wardmesh.NewAuditEvent(category="tool_call", action="tool.call", targets=(somebody,))
        await mesh.audit.receipt(event_id=await mesh.audit.emit(about))
        erased = await mesh.audit.erase(subject=somebody)
        receipt = await mesh.audit.receipt(event_id=erased.erasure_id)
        other = await mesh.audit.receipt(event_id=await mesh.audit.emit(about))
    (tmp_path / "certificate").write_text(erased.certificate)
    for name, given in (("receipt", receipt), ("other", other)):
        (tmp_path / name).write_text(given.proof)
        assert somebody not in given.proof
    verify = ("verify-certificate", str(tmp_path / "certificate"), "--key", erased.verifier_key)
    witnesses = [option for each in policy.witnesses.values() for option in ("--witness", str(each.key))]
    for asked in (("--policy", str(world.policy)), (*witnesses, "--quorum", "2")):
        status, said = await asyncio.to_thread(command, *verify, "--receipt", str(tmp_path / "receipt"), *asked)
        assert (status, said.count("cosigned   by")) == (0, 2), said
        assert f"told by    entry {receipt.index} of the log" in said
        status, said = await asyncio.to_thread(command, *verify, "--receipt", str(tmp_path / "other"), *asked)
        assert (status, "another event than the erasure" in said) == (1, True), said
    stranger = ("--witness", str(Cosigner("stranger", Ed25519PrivateKey.generate()).verifier))
    status, said = await asyncio.to_thread(command, *verify, "--receipt", str(tmp_path / "receipt"), *stranger)
    assert (status, "missing: stranger" in said) == (1, True), said


async def test_what_the_gateway_serves_is_cosigned_too(world: World, tmp_path: Path) -> None:
    session = await world.tenant.log_in(scope=world.tenant.workspace)
    async with httpx2.AsyncClient(base_url=world.tenant.mesh.http_url, timeout=20) as http:
        headers = {"authorization": f"Bearer {session['token']}"}
        answer = await http.get(f"/v1/{world.tenant.workspace}/log/checkpoint", headers=headers)
    assert answer.status_code == 200
    assert {line.name for line in SignedNote.parse(answer.content).signatures} >= {NAME}
    (tmp_path / "token").write_text(session["token"])
    url = f"{world.tenant.mesh.http_url}/v1/{world.tenant.workspace}/log"
    verify = ("verify", url, "--token-file", str(tmp_path / "token"), "--policy", str(world.policy))
    status, said = await asyncio.to_thread(command, *verify, "--key", world.signer.verifier_key(world.tenant.workspace))
    assert (status, said.count("cosigned   by")) == (0, 2), said


async def test_a_log_that_the_witness_was_not_told_of_is_not_given_out_without_its_quorum(world: World) -> None:
    async with await world.tenant.connect_as_owner(world.tenant.organization) as mesh:
        event = await mesh.audit.emit(wardmesh.NewAuditEvent(category="tool_call", action="tool.call"))
        with pytest.raises(ServiceUnavailable, match="quorum"):
            await mesh.within(timedelta(seconds=3)).audit.receipt(event_id=event)


async def test_whoever_asks_a_witness_otherwise_is_refused_as_the_specification_says(world: World) -> None:
    async with await world.tenant.connect_as_owner() as mesh:
        present = await mesh.audit.checkpoint()
    note = SignedNote.parse(present.note.encode())
    own = SignedNote(note.text, note.signatures[:1])
    scope, size = world.tenant.workspace, present.size

    def forked(at: int) -> SignedNote:
        """Sign another tree with the log's own key, as whoever stole it would."""
        signed = world.signer.sign(scope, Head(at, (), root_of([leaf_hash(b"x")] * at)))
        return SignedNote.parse(signed.note)

    assert (await world.post(AddCheckpoint(size, (), own).encode())).status_code == 200
    assert (await world.post(AddCheckpoint(size, (), own).encode(), accept="text/plain")).status_code == 200
    for old, wrong in ((0, own), (size, forked(size)), (0, forked(size - 1))):
        answer = await world.post(AddCheckpoint(old, (), wrong).encode())
        assert (answer.status_code, answer.headers["content-type"], parse_size(answer.content)) == (
            409,
            SIZE_TYPE,
            size,
        )
    refused = {
        400: [b"", b"old x\n\n" + own.encode(), AddCheckpoint(size + 1, (), own).encode()],
        403: [AddCheckpoint(size, (), SignedNote(own.text, (_wrong(own.signatures[0]),))).encode()],
        404: [AddCheckpoint(0, (), SignedNote(own.text.replace(scope, "ws_x"), own.signatures)).encode()],
        413: [b"x" * (MAX_REQUEST_BYTES + 1)],
        422: [AddCheckpoint(size, (bytes(32),), forked(size + 5)).encode()],
    }
    for status, bodies in refused.items():
        for body in bodies:
            answer = await world.post(body)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), body
    async with httpx2.AsyncClient(timeout=20) as http:
        assert (await http.get(world.url)).status_code == 405
    # The witness's own mesh has it on record that this log has signed two trees of one size.
    connection = await asyncpg.connect(world.witness.database_url())
    try:
        async with asyncio.timeout(10):
            while not await connection.fetchval(
                "select count(*) from audit.entries where action = 'log.cosign' and outcome = 'refused' "
                'and leaf like \'%"reason":"forked"%\'::bytea'
            ):
                await asyncio.sleep(0.1)
        assert (await world.books(connection))["size"] == size
    finally:
        await connection.close()


async def test_of_concurrent_forks_a_killed_witness_cosigns_one_at_the_most(world: World) -> None:
    """The key was stolen: two histories of one log race for a witness that is killed meanwhile."""
    async with await world.tenant.connect_as_owner() as mesh:
        size = (await mesh.audit.checkpoint()).size
        leaves = [leaf_hash(each) async for each in mesh.audit.leaves(end=size)]
    scope = world.tenant.workspace

    def request(number: int) -> bytes:
        grown = [*leaves, leaf_hash(b"%d" % number)]
        proof = _consistency(grown, size)
        signed = world.signer.sign(scope, Head(size + 1, (), root_of(grown)))
        return AddCheckpoint(size, proof, SignedNote.parse(signed.note)).encode()

    async def ask(number: int) -> tuple[int, int]:
        async with asyncio.timeout(60):
            while True:
                answer = await world.post(request(number), **{DEADLINE_MS: "1000"})
                if answer.status_code in (200, 409):
                    return number, answer.status_code
                await asyncio.sleep(0.2)

    asking = [asyncio.create_task(ask(number)) for number in range(8)]
    await asyncio.sleep(0.01)
    world.witness.kill("audit")
    outcomes = await asyncio.gather(*asking)
    cosigned = [number for number, status in outcomes if status == 200]
    assert len(cosigned) <= 1
    connection = await asyncpg.connect(world.witness.database_url())
    try:
        row = await world.books(connection)
    finally:
        await connection.close()
    assert row["size"] == size + 1
    if cosigned:
        assert row["root"] == root_of([*leaves, leaf_hash(b"%d" % cosigned[0])])


def _consistency(leaves: list[bytes], old: int) -> tuple[bytes, ...]:
    return tuple(
        consistency_proof(old, len(leaves), lambda level, at: root_of(leaves[at << level : (at + 1) << level]))
    )


def _wrong(line: Signature) -> Signature:
    return Signature(line.name, line.key_id, bytes(64))
