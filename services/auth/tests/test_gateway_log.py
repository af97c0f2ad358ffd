"""The log's pages at the door: what is asked of the audit service, and how its answers look by HTTP."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator

import httpx2
import pytest
from test_gateway import AGENT, WORKSPACE, Mesh, token_for

from wardmesh.crypto.tiles import decode_bundle, encode_bundle
from wardmesh.errors import NotFound, PermissionDenied, RateLimited, TokenExpired
from wardmesh.server.http import serving
from wardmesh.subjects import RpcSubject
from wardmesh_auth import gateway_log

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


RUN = {"first": 0, "last": 9, "kept_to": "2027-03-01"}
LATER = {"first": 12, "last": 12, "kept_to": "2027-04-01"}


async def test_days_are_lines_that_come_page_by_page(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [
        {"runs": [RUN], "size": 20, "next_start": 12},
        {"runs": [], "size": 20, "next_start": 13},
        RateLimited(retry_after_seconds=0.01),
        {"runs": [LATER], "size": 20, "next_start": None},
    ]
    page = await http.get(f"{LOG}/kept.ndjson?size=20")
    assert [json.loads(line) for line in page.text.splitlines()] == [RUN, LATER]
    assert page.headers["content-type"] == "application/x-ndjson"
    assert page.headers["cache-control"] == "no-store"
    assert [(subject.operation, body) for subject, body, _ in mesh.gateway.asked] == [
        ("kept", {"start": start, "size": 20}) for start in (0, 12, 13, 13)
    ]
    ids = [headers["Request-Id"] for _, _, headers in mesh.gateway.asked]
    assert (len(set(ids)), page.headers["request-id"]) == (4, ids[0])


async def test_a_list_that_breaks_off_does_not_look_whole(
    mesh: Mesh, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that expires, a service that goes, one that says nonsense, a reader that does not read."""
    first = {"runs": [RUN], "size": 20, "next_start": 12}
    for broken in (TokenExpired(), NotFound(), {"runs": [LATER], "size": 20, "next_start": 12}):
        mesh.gateway.answers = [first, broken]
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.get(f"{LOG}/kept.ndjson")
    monkeypatch.setattr(gateway_log, "LIST_SECONDS", 0.05)
    mesh.gateway.answers = [first, RateLimited(retry_after_seconds=3)]
    with pytest.raises(httpx2.RemoteProtocolError):
        await http.get(f"{LOG}/kept.ndjson")


async def test_lists_are_refused_and_bounded_like_everything(
    mesh: Mesh, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.gateway.answers = [PermissionDenied(), NotFound()]
    assert (await http.get(f"{LOG}/kept.ndjson")).status_code == 403
    assert (await http.get(f"{LOG}/kept.ndjson?size=99")).status_code == 404
    assert (await http.get(f"{LOG}/kept.ndjson", headers={"authorization": ""})).status_code == 401
    for size in ("-1", "x", "1.5", "9" * 5000):
        assert (await http.get(f"{LOG}/kept.ndjson?size={size}")).status_code == 422, size
    monkeypatch.setattr(gateway_log, "MAX_LISTS", 1)
    for _ in range(3):  # none of these, nor of those that were refused or broke off, holds a place
        mesh.gateway.answers = [{"runs": [RUN], "size": 20, "next_start": 12}]
        assert (await http.head(f"{LOG}/kept.ndjson")).status_code == 200
    mesh.gateway.answers = [{"runs": [RUN], "size": 20, "next_start": 12}, RateLimited(retry_after_seconds=30)]
    async with http.stream("GET", f"{LOG}/kept.ndjson") as page:
        assert (page.status_code, (await http.get(f"{LOG}/kept.ndjson")).status_code) == (200, 503)
    async with asyncio.timeout(5):
        while (await http.head(f"{LOG}/kept.ndjson")).status_code == 503:  # until it is known that nobody reads
            mesh.gateway.answers = [{"runs": [], "size": 0}]


async def test_there_is_no_other_file(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    for path in ("entries.ndjson", "verifier-key", "tile"):
        assert (await http.get(f"{LOG}/{path}")).status_code == 405, path  # where an operation would be
    mesh.gateway.answers = [NotFound()]
    assert (await http.get(f"{LOG}/tile/")).status_code == 404
    assert [body["path"] for _, body, _ in mesh.gateway.asked] == ["tile/"]
