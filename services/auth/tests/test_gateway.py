"""The HTTP door by itself, over a real socket, with a broker that answers what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import httpx2
import pytest
from fake_identities import FakeAudit
from openapi_spec_validator import validate

from wardmesh.contracts import ALL
from wardmesh.contracts.fields import POLL_SECONDS
from wardmesh.crypto.encoding import base64url_encode
from wardmesh.errors import PermissionDenied, TokenExpired, WardmeshError
from wardmesh.headers import AUTHORIZATION, CAME_FROM, REQUEST_ID
from wardmesh.ids import AgentId, OrgId, UserId, WorkspaceId
from wardmesh.server.http import serving
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.subjects import RpcSubject
from wardmesh_auth import openapi
from wardmesh_auth.gateway import Answer, Gateway
from wardmesh_auth.gateway_http import Door, application
from wardmesh_auth.gateway_log import LogPages
from wardmesh_auth.gateway_streams import Streams

# Fixed, because they are in the names of tests.
AGENT = AgentId.parse("agt_01h455vb4pex5vsknk084sn02q")
WORKSPACE = WorkspaceId.parse("ws_01h455vb4pex5vsknk084sn02q")


def token_for(principal: str) -> str:
    payload = base64url_encode(json.dumps({"sub": principal}).encode())
    return f"e30.{payload}.e30"


class FakeGateway(Gateway):
    """Answers with what the test put into `answers`, one after another; then it waits."""

    def __init__(self) -> None:
        self.asked: list[tuple[RpcSubject, dict[str, object], Mapping[str, str]]] = []
        self.answers: list[dict[str, object] | Exception] = []

    async def forward(self, subject: RpcSubject, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        self.asked.append((subject, json.loads(body or b"{}"), headers))
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(json.dumps(answer).encode())


class Mesh:
    """The door with its fakes."""

    def __init__(self) -> None:
        self.gateway = FakeGateway()
        self.audit = FakeAudit()
        self.now = 0.0
        self.door = Door(
            self.gateway,
            self.audit,
            limiter=RateLimiter(Rate(per_second=1.0, burst=2)),
            monotonic=lambda: self.now,
            state_origin=lambda who, request_id, origin: f"{who} {request_id} {origin.address} {origin.user_agent}",
            jwks=list,
            openapi={},
        )
        self.streams = Streams(self.door)
        self.app = application(self.door, [*self.streams.routes(), *LogPages(self.door).routes()])


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(mesh.app, "127.0.0.1", 0) as port:
        headers = {"authorization": f"Bearer {token_for(AGENT)}"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client:
            yield client
            mesh.streams.close()


async def test_a_call_goes_out_under_the_callers_own_name(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"secrets": []}]
    response = await http.post(f"/v1/{WORKSPACE}/secrets/list", json={"prefix": "a"})
    assert response.json() == {"secrets": []}
    (subject, body, headers) = mesh.gateway.asked[0]
    assert subject == RpcSubject("secrets", "list", WORKSPACE, AGENT)
    assert body == {"prefix": "a"}
    assert headers[AUTHORIZATION] == f"Bearer {token_for(AGENT)}"


async def test_where_a_call_came_from_is_the_gateways_word_and_never_the_callers(
    mesh: Mesh, http: httpx2.AsyncClient
) -> None:
    mesh.gateway.answers = [{"secrets": []}, {"entries": [], "next_start": 0}]
    forged = {"came-from": "forged", "x-forwarded-for": "192.0.2.1", "forwarded": "for=192.0.2.1", "user-agent": "me"}
    await http.post(f"/v1/{WORKSPACE}/secrets/list", json={}, headers=forged)
    async with http.stream("GET", f"/v1/{WORKSPACE}/audit/entries", headers=forged):
        pass
    for _subject, _body, headers in mesh.gateway.asked[:2]:
        assert headers[CAME_FROM] == f"{AGENT} {headers[REQUEST_ID]} 127.0.0.1 me"


async def test_an_operation_with_its_own_credential_is_asked_as_nobody(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{}]
    await http.post("/v1/-/auth/log_in", json={})
    (subject, _body, headers) = mesh.gateway.asked[0]
    assert subject == RpcSubject("auth", "log_in", OrgId.nil(), UserId.nil())
    assert AUTHORIZATION not in headers, "nobody needs a token here, so nobody is given one"


async def test_one_address_tries_so_many_credentials(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{}, {}, {}]
    statuses = [(await http.post("/v1/-/auth/log_in", json={})).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await http.post("/v1/-/auth/log_in", json={})
    assert int(refused.headers["retry-after"]) >= 1
    assert {event.reason for _, event in mesh.audit.events} == {"rate_limited"}
    mesh.now = 1.0
    assert (await http.post("/v1/-/auth/log_in", json={})).status_code == 200


@pytest.mark.parametrize(
    "token",
    [
        "x", "x.y.z", "..", "é.é.é", "a" * 5000,
        token_for("*"), token_for("usr_*"), token_for(">"), token_for(f"{AGENT}.>"),
    ],
    ids=range(9),
)  # fmt: skip
async def test_a_token_that_names_nobody_forms_no_subject(mesh: Mesh, http: httpx2.AsyncClient, token: str) -> None:
    headers = [(b"authorization", b"Bearer " + token.encode())]
    response = await http.post(f"/v1/{WORKSPACE}/secrets/list", json={}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "token_invalid")
    assert not mesh.gateway.asked


@pytest.mark.parametrize("scope", ["*", ">", "ws_*", "ws_x", "usr_00000000000000000000000000", "a.b", f"{WORKSPACE}.x"])
async def test_a_scope_that_is_none_forms_no_subject(mesh: Mesh, http: httpx2.AsyncClient, scope: str) -> None:
    response = await http.post(f"/v1/{scope}/secrets/list", json={})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert not mesh.gateway.asked


async def test_what_a_service_recorded_is_not_recorded_again(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [PermissionDenied(request_id="req_1"), PermissionDenied()]
    for _ in range(2):
        assert (await http.post(f"/v1/{WORKSPACE}/secrets/list", json={})).status_code == 403
    assert [(scope, event.reason) for scope, event in mesh.audit.events] == [(OrgId.nil(), "permission_denied")]


async def test_a_defect_shows_nothing_of_itself(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [RuntimeError("the password is hunter2")]
    response = await http.post(f"/v1/{WORKSPACE}/secrets/list", json={})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "hunter2" not in response.text


# --- streams


def entry(index: int) -> dict[str, object]:
    return {"index": index, "event": {"action": "x.y"}}


async def lines(response: httpx2.Response, count: int) -> list[str]:
    found: list[str] = []
    async for line in response.aiter_lines():
        if line:
            found.append(line)
        if len(found) == count:
            break
    return found


async def test_the_log_is_followed_from_where_the_client_was(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"entries": [entry(7), entry(8)], "next_start": 9}, {"entries": [], "next_start": 9}]
    url = f"/v1/{WORKSPACE}/audit/tail?category=authentication"
    async with http.stream("GET", url, headers={"last-event-id": "6"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = await lines(response, 10)
    assert found[:2] == ["id: 7", "event: entry"]
    assert json.loads(found[2].removeprefix("data: "))["index"] == 7
    # Every round says how far it has looked; what has no data is no event of a client's.
    assert found[6:] == ["id: 8", ": so far", "id: 8", ": so far"]
    starts = [(body["start"], body["wait_seconds"]) for _, body, _ in mesh.gateway.asked]
    assert starts[:2] == [(7, 0), (9, POLL_SECONDS)], "the answer begins at once; after that there is time"
    assert all(body["filter"] == {"category": "authentication"} for _, body, _ in mesh.gateway.asked)
    assert len({headers["Request-Id"] for _, _, headers in mesh.gateway.asked}) == len(mesh.gateway.asked)


@pytest.mark.parametrize(("last", "start"), [("6", 7), ("-1", 0), ("", None), ("-2", None), ("x", None)])
async def test_who_connects_again_goes_on_where_it_was_told(
    mesh: Mesh, http: httpx2.AsyncClient, last: str, start: int | None
) -> None:
    mesh.gateway.answers = [{"entries": [], "next_start": 0}, {"entries": [], "next_start": 0}]
    url = f"/v1/{WORKSPACE}/audit/tail?start_time=2026-11-22T12:00:00Z"
    async with http.stream("GET", url, headers={"last-event-id": last}) as response:
        assert await lines(response, 3) == ["id: -1", ": so far", "id: -1"]
    asked = [(body.get("start"), body.get("start_time")) for _, body, _ in mesh.gateway.asked[:2]]
    # A time is where the first round begins, unless the client has been here before; after that, an index says it.
    assert asked == [(start, "2026-11-22T12:00:00Z" if start is None else None), (0, None)]


async def test_what_is_refused_at_once_has_its_own_status(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [PermissionDenied()]
    assert (await http.get(f"/v1/{WORKSPACE}/audit/tail")).status_code == 403
    assert (await http.get(f"/v1/{WORKSPACE}/audit/tail?start=x")).status_code == 422


async def test_a_stream_ends_with_its_token_and_says_so(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"entries": [], "next_start": 0}, TokenExpired()]
    async with http.stream("GET", f"/v1/{WORKSPACE}/audit/tail") as response:
        found = [line async for line in response.aiter_lines() if line]
    assert found[2] == "event: problem"
    assert json.loads(found[3].removeprefix("data: "))["code"] == "token_expired"


async def test_events_are_acknowledged_when_the_next_are_asked_for(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"events": [{"id": "evt-1", "ack": "1.1.1.1.1"}]}, {"events": []}]
    async with http.stream("GET", f"/v1/{WORKSPACE}/webhooks/events?pattern=>&group=g") as response:
        found = await lines(response, 4)
    assert found[:2] == ["id: evt-1", "event: event"]
    assert "ack" not in json.loads(found[2].removeprefix("data: "))
    assert [body["acks"] for _, body, _ in mesh.gateway.asked[:2]] == [[], ["1.1.1.1.1"]]


async def test_streams_end_when_the_process_stops(mesh: Mesh, http: httpx2.AsyncClient) -> None:
    mesh.gateway.answers = [{"entries": [], "next_start": 0}]
    async with http.stream("GET", f"/v1/{WORKSPACE}/audit/tail") as response:
        asyncio.get_running_loop().call_later(0.1, mesh.streams.close)
        assert [line async for line in response.aiter_lines() if line] == ["id: -1", ": so far"]


# --- the page


def test_the_page_is_openapi_and_has_every_operation() -> None:
    page = openapi.document(ALL.values(), version="1")
    validate(page)
    assert {path.removeprefix("/v1/{scope}/").replace("/", ".") for path in page["paths"]} == set(ALL)
    log_in = page["paths"]["/v1/{scope}/auth/log_in"]["post"]
    assert log_in["security"] == []
    assert page["paths"]["/v1/{scope}/secrets/get"]["post"]["security"] == [{"token": []}]


OURS = ("wardmesh", "wardmesh_auth")


def test_every_error_has_a_status_that_the_page_names() -> None:
    def all_of(kind: type[WardmeshError]) -> set[int]:
        # Those that cross the wire, and our own; another service's may have been imported by its tests.
        children = [child for child in kind.__subclasses__() if child.__module__.split(".")[0] in OURS]
        return {kind.status}.union(*(all_of(child) for child in children))

    named = {int(status) for status in openapi.document([], version="1")["components"]["responses"]}
    assert all_of(WardmeshError) - {500, 405} <= named
