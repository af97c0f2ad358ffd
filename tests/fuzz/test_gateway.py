"""Generated requests against the gateway's own OpenAPI page: every answer is one that the page promises.

What must hold for anything that is sent: no 500, no body that is not JSON, no status that the page does not list, and
the security headers on every answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mesh.world import Tenant, sign_up

from wardmesh.contracts import ALL
from wardmesh.contracts.operation import AnyContract
from wardmesh.server.http import SECURITY_HEADERS
from wardmesh_cli.embedded.mesh import EmbeddedMesh

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
hostile = st.sampled_from(
    ["*", ">", "ws_*", "../..", "\x00", "' or 1=1 --", "${jndi:x}", "a" * 5000, "\ud800", "wmk_AAAA", "-1", "1e999", ""]
)
"""What has broken parsers, shells, queries and templates before."""


class Door:
    """The gateway, asked as an organization's owner."""

    def __init__(self, http: httpx2.Client, tenant: Tenant, token: str) -> None:
        self._http, self._tenant, self._token = http, tenant, token

    def post(self, contract: AnyContract, body: bytes) -> httpx2.Response:
        return self._http.post(
            f"/v1/{self._tenant.workspace}/{contract.service}/{contract.name}",
            content=body,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )


@pytest.fixture(scope="module")
async def door(running_mesh: EmbeddedMesh) -> AsyncIterator[Door]:
    tenant = await sign_up(running_mesh, "fuzz")
    session = await tenant.log_in(scope=tenant.workspace)
    with httpx2.Client(base_url=running_mesh.http_url, timeout=40) as http:
        yield Door(http, tenant, session["token"])


def promised(contract: AnyContract) -> set[str]:
    return {"200", "400", "401", "403", "404", "409", "413", "422", "429", "503", "504"}


def check(contract: AnyContract, answer: httpx2.Response) -> None:
    assert str(answer.status_code) in promised(contract), (contract.key, answer.status_code, answer.text[:500])
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    document: dict[str, Any] = json.loads(answer.content)
    if answer.status_code == 200:
        contract.response.model_validate_json(answer.content)
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert document["status"] == answer.status_code
        assert document["code"]


# Long polls wait, and revoking the owner would end the run.
QUICK = [
    key for key, item in ALL.items() if not item.is_long_poll and key not in {"auth.revoke_principal", "auth.log_in"}
]


@pytest.mark.property
@pytest.mark.parametrize("key", QUICK)
def test_whatever_is_sent_the_answer_is_one_that_is_promised(door: Door, key: str) -> None:
    contract = ALL[key]
    fields = st.fixed_dictionaries(
        {}, optional=dict.fromkeys(contract.request.model_fields, json_values | hostile)
    ) | st.dictionaries(st.text(max_size=10), json_values, max_size=3)
    bodies = st.binary(max_size=200) | fields.map(lambda value: json.dumps(value).encode())

    @settings(max_examples=max(5, settings.default.max_examples // 10), suppress_health_check=list(HealthCheck))
    @given(bodies)
    def run(body: bytes) -> None:
        check(contract, door.post(contract, body))

    run()


@pytest.mark.property
@given(path=st.text(max_size=60), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]))
@settings(suppress_health_check=list(HealthCheck))
def test_no_path_and_no_method_breaks_the_door(running_mesh: EmbeddedMesh, path: str, method: str) -> None:
    from urllib.parse import quote

    with httpx2.Client(base_url=running_mesh.http_url, timeout=20) as http:
        answer = http.request(method, "/" + quote(path.encode("utf-8", "surrogatepass")))
    assert answer.status_code < 500
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.property
@settings(suppress_health_check=list(HealthCheck))
@given(
    head=st.one_of(st.just("old 0\n\n"), st.text(max_size=40), hostile),
    lines=st.lists(st.one_of(st.text(max_size=30), hostile, st.just(""), st.just("AA==")), max_size=8),
    tail=st.binary(max_size=100),
)
def test_nothing_that_nobody_signed_breaks_the_witness(
    running_mesh: EmbeddedMesh, head: str, lines: list[str], tail: bytes
) -> None:
    body = (head + "\n".join(lines)).encode("utf-8", "surrogatepass") + tail
    with httpx2.Client(base_url=running_mesh.http_url, timeout=20) as http:
        answer = http.post("/v1/witness/add-checkpoint", content=body)
    assert answer.status_code in {400, 403, 404, 413, 422, 429}
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.content)["status"] == answer.status_code
