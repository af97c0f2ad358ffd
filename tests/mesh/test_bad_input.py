"""Bad input by NATS and by HTTP: each has its own code and a sentence, none is a time-out, each is in the log."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from joserfc import jws
from joserfc.jwk import OKPKey
from tests.mesh.world import RawCaller, Tenant, code_of, raw_caller

from wardmesh.contracts import audit, secrets
from wardmesh.contracts.audit import Outcome
from wardmesh.ids import AgentId, WorkspaceId
from wardmesh_cli.embedded.mesh import EmbeddedMesh


@pytest.fixture
async def owner(acme: Tenant) -> AsyncIterator[RawCaller]:
    session = await acme.log_in(scope=acme.workspace)
    async with raw_caller(
        acme.mesh, scope=acme.workspace, principal=acme.owner, credential=session["token"], token=session["token"]
    ) as caller:
        yield caller


async def recorded(tenant: Tenant, reason: str) -> list[str]:
    """Return the actions that the tenant's log has refused for this reason, once there is one."""
    async with await tenant.connect_as_owner() as mesh:
        async with asyncio.timeout(10):
            while True:
                found = await mesh.audit.query(limit=200)
                matching = [
                    entry.event.action
                    for entry in found.entries
                    if entry.event.reason == reason and entry.event.outcome is Outcome.REFUSED
                ]
                if matching:
                    return matching
                await asyncio.sleep(0.05)


def forged_token(real: str, **changes: Any) -> str:
    """Return a token with the claims of a real one, signed by somebody else."""
    claims = json.loads(base64.urlsafe_b64decode(real.split(".")[1] + "=="))
    header = json.loads(base64.urlsafe_b64decode(real.split(".")[0] + "=="))
    return jws.serialize_compact(
        {"alg": "Ed25519", "kid": header["kid"]},
        json.dumps(claims | changes).encode(),
        OKPKey.generate_key("Ed25519"),
        algorithms=["Ed25519"],
    )


async def test_over_nats_each_has_its_own_code_and_is_recorded(acme: Tenant, owner: RawCaller) -> None:
    asked = secrets.LIST.subject(acme.workspace, acme.owner)
    real = owner.token
    cases: list[tuple[str, str, bytes, str | None]] = [
        ("unknown_operation", asked.replace(".list.", ".no_such."), b"{}", real),
        ("malformed_json", asked, b'{"prefix": ', real),
        ("invalid_request", asked, b'{"limit": "many"}', real),
        ("body_too_large", asked, b'{"prefix": "' + b"x" * 100_000 + b'"}', real),
        ("token_invalid", asked, b"{}", forged_token(real)),
        ("token_invalid", asked, b"{}", forged_token(real, iss="somebody-else")),
        ("token_invalid", asked, b"{}", "not-a-token"),
    ]
    for code, subject, body, token in cases:
        owner.token = token or ""
        started = time.monotonic()
        answer = await owner.ask(subject, body)
        assert code_of(answer) == code
        assert time.monotonic() - started < 9, "an answer, not a time-out"
        problem = json.loads(answer.data)
        assert problem["detail"].endswith((".", "…"))
        assert "Traceback" not in answer.data.decode()
        assert "pydantic" not in answer.data.decode()
        assert await recorded(acme, code)


async def test_a_scope_that_is_not_the_tokens_is_refused(acme: Tenant, owner: RawCaller) -> None:
    other = await acme.log_in(scope=acme.organization)
    owner.token = other["token"]
    assert code_of(await owner.ask(secrets.LIST.subject(acme.workspace, acme.owner))) == "scope_mismatch"
    assert await recorded(acme, "scope_mismatch")


async def test_a_reply_subject_that_is_not_the_callers_is_refused_into_its_own_inbox(
    acme: Tenant, owner: RawCaller
) -> None:
    answer = await owner.ask(
        secrets.LIST.subject(acme.workspace, acme.owner),
        reply=f"_INBOX.{AgentId.new()}.x",
        listen=f"_INBOX.{acme.owner}.refused",
    )
    assert code_of(answer) == "reply_subject_refused"
    assert await recorded(acme, "reply_subject_refused")


async def test_a_service_that_is_down_is_said_at_once(running_mesh: EmbeddedMesh, acme: Tenant) -> None:
    session = await acme.log_in(scope=acme.workspace)
    running_mesh.kill("secrets")
    async with httpx2.AsyncClient(base_url=running_mesh.http_url, timeout=20) as http:
        codes = set()
        for _ in range(50):
            answer = await http.post(
                f"/v1/{acme.workspace}/secrets/list", json={}, headers={"Authorization": f"Bearer {session['token']}"}
            )
            codes.add(answer.json().get("code"))
            if "service_unavailable" in codes:
                break
    await running_mesh.wait_ready("secrets")
    assert "service_unavailable" in codes


async def test_over_http_each_has_its_status(acme: Tenant, rival: Tenant) -> None:
    session = await acme.log_in(scope=acme.workspace)
    token = session["token"]
    path = f"/v1/{acme.workspace}/secrets/list"
    async with httpx2.AsyncClient(base_url=acme.mesh.http_url, timeout=20) as http:

        async def post(url: str, content: bytes = b"{}", bearer: str | None = token, **headers: str) -> httpx2.Response:
            sent = {"Content-Type": "application/json"} | headers
            if bearer is not None:
                sent["Authorization"] = f"Bearer {bearer}"
            return await http.post(url, content=content, headers=sent)

        answers = {
            "unknown_operation": await post(f"/v1/{acme.workspace}/secrets/no_such"),
            "malformed_json": await post(path, b"{"),
            "invalid_request": await post(path, b'{"limit": -1}'),
            "body_too_large": await post(path, b'{"prefix": "' + b"x" * 3_000_000 + b'"}'),
            "token_missing": await post(path, bearer=None),
            "token_invalid": await post(path, bearer=forged_token(token)),
            "scope_mismatch": await post(f"/v1/{rival.workspace}/secrets/list"),
        }
    statuses = {code: answer.status_code for code, answer in answers.items()}
    assert {code: answer.json()["code"] for code, answer in answers.items()} == {code: code for code in answers}
    assert statuses == {
        "unknown_operation": 404, "malformed_json": 400, "invalid_request": 422, "body_too_large": 413,
        "token_missing": 401, "token_invalid": 401, "scope_mismatch": 403,
    }  # fmt: skip
    assert "bearer" in answers["token_missing"].headers["www-authenticate"].lower()
    for answer in answers.values():
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_too_many_requests_are_told_when_to_come_back(acme: Tenant) -> None:
    wrong = {"organization": acme.organization, "email": acme.email, "password": "not the password at all"}
    async with httpx2.AsyncClient(base_url=acme.mesh.http_url, timeout=30) as http:
        answers = await asyncio.gather(
            *[http.post(f"/v1/{acme.organization}/auth/log_in", json=wrong) for _ in range(60)]
        )
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert {answer.status_code for answer in answers} <= {401, 429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in limited)


async def test_a_scope_of_the_wrong_kind_says_which_it_takes(acme: Tenant) -> None:
    session = await acme.log_in(scope=acme.organization)
    async with raw_caller(
        acme.mesh, scope=acme.organization, principal=acme.owner, credential=session["token"], token=session["token"]
    ) as caller:
        answer = await caller.ask(secrets.LIST.subject(acme.organization, acme.owner))
        assert code_of(answer) == "scope_mismatch"
        assert "ws" in json.loads(answer.data)["detail"]
        assert code_of(await caller.ask(audit.QUERY.subject(acme.organization, acme.owner))) == "ok"
    assert WorkspaceId.prefix == "ws"
