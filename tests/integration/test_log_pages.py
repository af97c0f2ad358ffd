"""The log by HTTP, read by another implementation (tlog-scales) and by `wardmesh audit verify`, with a token alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

import wardmesh
from wardmesh.audit_receipt import verify_receipt
from wardmesh.contracts.auth import EXCHANGE_KEY, ExchangeKey
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.ids import WorkspaceId
from wardmesh.testing import RunningMesh
from wardmesh_cli.application import build
from wardmesh_cli.door import open_door

backend = pytest.importorskip("tlog_scales.backend", reason="tlog-scales is not installed")
reader = pytest.importorskip("tlog_scales.reader")
signing = pytest.importorskip("tlog_scales.signing")
SIZE = 300


async def token(mesh: RunningMesh, key: str) -> str:
    async with open_door(mesh.http_url) as door:
        return (await door.call(EXCHANGE_KEY, ExchangeKey(api_key=key))).token


async def test_other_peoples_tools_read_the_log(mesh: RunningMesh, workspace: WorkspaceId, tmp_path: Path) -> None:
    usage = wardmesh.ModelUsage(model="small-1", input_tokens=812, output_tokens=97, cost_usd="0.0061", source="chat")
    key = await mesh.agent(workspace, permissions=["audit.read", "audit.export", "audit.write"])
    async with mesh.connect(key) as agent:
        ids = await asyncio.gather(*(agent.audit.emit(usage) for _ in range(SIZE)))
        receipts = [await agent.audit.receipt(event_id=each) for each in ids]
        last = max(receipts, key=lambda receipt: receipt.index)
    bearer, url = await token(mesh, key), f"{mesh.http_url}/v1/{workspace}/log"

    def theirs() -> None:
        http = backend.HttpBackend(url)
        http.session.headers["authorization"] = f"Bearer {bearer}"
        tiles = reader.TilesReader(http)
        checkpoint = tiles.get_checkpoint()
        checkpoint.verify(signing.Vkey.from_string(last.verifier_key))
        assert checkpoint.size >= SIZE
        assert checkpoint.root_hash == tiles.calculate_root_hash()
        for index in (0, 255, 256, last.index):
            entry = tiles.get_entry(index)
            tiles.get_inclusion_proof(index, checkpoint.size).check(leaf_hash(entry), checkpoint.root_hash)
        assert tiles.get_entry(last.index) == verify_receipt(last.proof.encode(), last.verifier_key).entry
        http.session.close()

    def ours() -> tuple[int, str]:
        file = tmp_path / "token"
        file.write_text(bearer)
        ran = CliRunner().invoke(
            build(), ["audit", "verify", url, "--key", last.verifier_key, "--token-file", str(file)]
        )
        return ran.exit_code, ran.output

    await asyncio.to_thread(theirs)
    status, said = await asyncio.to_thread(ours)
    assert status == 0, said


async def test_a_log_is_read_by_who_may_and_in_its_own_scope(mesh: RunningMesh, workspace: WorkspaceId) -> None:
    reading = await mesh.agent(workspace, permissions=["audit.read"])
    writing = await mesh.agent(workspace, permissions=["audit.write"])
    async with mesh.connect(reading) as agent:
        size = (await agent.audit.checkpoint()).size
    foreign = await mesh.workspace()
    async with httpx2.AsyncClient(base_url=mesh.http_url, timeout=20) as http:

        async def status(scope: WorkspaceId, path: str, key: str | None) -> int:
            headers = {} if key is None else {"authorization": f"Bearer {await token(mesh, key)}"}
            return (await http.get(f"/v1/{scope}/log/{path}", headers=headers)).status_code

        for path in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
            assert await status(workspace, path, None) == 401
            assert await status(workspace, path, writing) == 403
            assert await status(foreign, path, reading) == 403
        assert size >= 1
        assert await status(workspace, "tile/0/000.p/1", reading) == 200
        assert await status(workspace, "tile/entries/000.p/1", reading) == 403  # hashes may be read, entries not
        assert await status(workspace, "tile/7/000", reading) == 404
