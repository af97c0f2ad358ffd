"""The log's pages at the door: what is asked of the audit service, and how its answers look by HTTP."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator

import httpx2
import pytest
from test_gateway import AGENT, WORKSPACE, Mesh, token_for

from wardmesh.crypto.tiles import decode_bundle, encode_bundle
from wardmesh.errors import NotFound, PermissionDenied
from wardmesh.server.http import serving
from wardmesh.subjects import RpcSubject

LOG = f"/v1/{WORKSPACE}/log"


def b64(content: bytes) -> str:
    return urlsafe_b64encode(content).decode()


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(mesh.app, "127.0.0.1", 0) as port:
        headers = {"authorization": f"Bearer {token_for(AGENT)}"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client:
            yield client


async def test_a_checkpoint_is_text_that_nobody_caches(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"note": "wardmesh/x\n0\nAA==\n\n— x AA==\n", "verifier_key": "x", "size": 0}]
    page = await http.get(f"{LOG}/checkpoint")
    assert page.text.startswith("wardmesh/x\n0\n")
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.headers["cache-control"] == "no-store"
    assert mesh.gateway.asked[0][0] == RpcSubject("audit", "checkpoint", WORKSPACE, AGENT)


async def test_a_tile_is_bytes_that_its_asker_may_keep(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    content = bytes(range(256)) * 32
    mesh.gateway.answers = [{"content": b64(content)}]
    page = await http.get(f"{LOG}/tile/1/x001/067")
    assert page.content == content
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "Authorization" in page.headers["vary"]
    (subject, body, _headers) = mesh.gateway.asked[0]
    assert (subject.operation, body) == ("tile", {"path": "tile/1/x001/067"})


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_a_bundle_is_put_together_from_parts(mesh: Mesh, http: httpx2.AsyncClient, encoding: str) -> None:
    entries = [b"entry %d" % number for number in range(3)]
    mesh.gateway.answers = [
        {"content": b64(encode_bundle(entries[:2])), "entries": 2, "left": 1},
        {"content": b64(encode_bundle(entries[2:])), "entries": 1, "left": 0},
    ]
    page = await http.get(f"{LOG}/tile/entries/000.p/3", headers={"accept-encoding": encoding})
    assert page.headers.get("content-encoding", "identity") == encoding
    assert decode_bundle(page.content, width=3) == entries
    assert [body["skip"] for _, body, _ in mesh.gateway.asked] == [0, 2]


async def test_a_part_without_entries_ends_it(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"content": "", "entries": 0, "left": 256}]
    assert (await http.get(f"{LOG}/tile/entries/000")).status_code == 500


async def test_what_the_log_refuses_is_refused(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [NotFound(), PermissionDenied()]
    missing = await http.get(f"{LOG}/tile/0/000")
    assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")
    assert (await http.get(f"{LOG}/tile/entries/000")).status_code == 403
    assert (await http.get(f"{LOG}/checkpoint", headers={"authorization": ""})).status_code == 401
    assert (await http.get(f"{LOG}/tile/{'0' * 100}")).status_code == 422
    assert (await http.post(f"{LOG}/checkpoint")).status_code != 200


async def test_there_is_no_other_file(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    for path in ("entries.ndjson", "verifier-key", "tile"):
        assert (await http.get(f"{LOG}/{path}")).status_code == 405, path  # where an operation would be
    mesh.gateway.answers = [NotFound()]
    assert (await http.get(f"{LOG}/tile/")).status_code == 404
    assert [body["path"] for _, body, _ in mesh.gateway.asked] == ["tile/"]
