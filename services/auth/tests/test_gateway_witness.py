"""The witness's page at the door: C2SP's request in, C2SP's answer out, and nobody's name in between."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator

import httpx2
import pytest
from test_gateway import AGENT, Mesh, token_for

from wardmesh.crypto.tlog_witness import MAX_REQUEST_BYTES
from wardmesh.errors import InvalidRequest, NotFound, RefusedError, RequestError
from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import OrgId, UserId
from wardmesh.server.http import serving
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.subjects import RpcSubject
from wardmesh_auth.gateway_http import application
from wardmesh_auth.gateway_witness import WitnessPage

PATH = "/v1/witness/add-checkpoint"
BODY = b"old 0\n\nnot looked at here"


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[httpx2.AsyncClient]:
    page = WitnessPage(mesh.door, RateLimiter(Rate(per_second=1.0, burst=4)))
    async with serving(application(mesh.door, page.routes()), "127.0.0.1", 0) as port:
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)
        async with client:
            yield client


async def test_a_request_goes_on_as_it_came_and_in_nobodys_name(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"lines": "— w AAAAAAA=\n"}]
    answer = await http.post(PATH, content=BODY, headers={AUTHORIZATION: f"Bearer {token_for(AGENT)}"})
    assert (answer.status_code, answer.text) == (200, "— w AAAAAAA=\n")
    assert answer.headers["cache-control"] == "no-store"
    (subject, body, headers) = mesh.gateway.asked[0]
    assert subject == RpcSubject("audit", "add_checkpoint", OrgId.nil(), UserId.nil())
    assert urlsafe_b64decode(str(body["request"])) == BODY
    assert AUTHORIZATION not in headers


async def test_the_witnesss_size_is_answered_in_its_own_type(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"known_size": 0}]
    answer = await http.post(PATH, content=BODY)
    assert (answer.status_code, answer.content) == (409, b"0\n")
    assert answer.headers["content-type"] == "text/x.tlog.size"


@pytest.mark.parametrize(
    ("error", "status"), [(RequestError, 400), (RefusedError, 403), (NotFound, 404), (InvalidRequest, 422)]
)
async def test_what_is_refused_has_the_specifications_status(
    mesh: Mesh, http: httpx2.AsyncClient, error: type[RequestError], status: int
) -> None:
    mesh.gateway.answers = [error()]
    answer = await http.post(PATH, content=BODY)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_a_body_has_a_bound_and_an_address_a_share_of_its_own(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    assert (await http.post(PATH, content=b"x" * (MAX_REQUEST_BYTES + 1))).status_code == 413
    mesh.gateway.answers = [{"lines": ""}] * 3
    statuses = [(await http.post(PATH, content=BODY)).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    mesh.gateway.answers = [{}]
    assert (await http.post("/v1/-/auth/log_in", json={})).status_code == 200  # logins have another
    assert (await http.get(PATH)).status_code == 405
