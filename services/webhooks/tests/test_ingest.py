"""The HTTP side of the door, over real sockets: what a sender gets to see, and what a hostile one can hold up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from services.webhooks.tests.conftest import FakeAudit, FakeStore, Sender

from wardmesh.contracts.audit import Outcome
from wardmesh.errors import ServiceUnavailable
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh.server import http
from wardmesh_webhooks import ingest
from wardmesh_webhooks.domain import MAX_WEBHOOK_BYTES, StoredSource
from wardmesh_webhooks.door import Door

BODY = b'{"action":"opened","number":1}'


@pytest.fixture
async def port(door: Door) -> AsyncIterator[int]:
    async with http.serving(ingest.application(door, max_in_hand=8), "127.0.0.1", 0) as port:
        yield port


@pytest.fixture
async def client(port: int) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
async def source(sender: Sender) -> StoredSource:
    return await sender.open()


def path(source: StoredSource) -> str:
    return f"/hooks/{source.workspace}/{source.name}"


async def raw(port: int, request: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read(4096)
    finally:
        writer.close()


def head(source: StoredSource, *lines: str) -> bytes:
    signed = [f"{name}: {value}" for name, value in Sender.headers(BODY)]
    return "\r\n".join([f"POST {path(source)} HTTP/1.1", "Host: x", *signed, *lines, "", ""]).encode()


async def test_accepted_then_a_duplicate(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, fake_store: FakeStore
) -> None:
    answers = [await client.post(path(source), content=BODY, headers=sender.headers(BODY)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 200]
    assert [answer.json()["status"] for answer in answers] == ["accepted", "duplicate"]
    assert answers[0].json()["id"] == answers[1].json()["id"] == fake_store.published[0].id
    assert len(fake_store.published) == 1
    assert answers[0].headers["x-request-id"] == fake_store.audited[0].request_id


async def test_a_forged_one_is_refused(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, audit: FakeAudit
) -> None:
    answer = await client.post(path(source), content=BODY + b" ", headers=sender.headers(BODY))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_signature"
    ((scope, event),) = audit.events
    assert (scope, event.outcome, event.reason) == (source.workspace, Outcome.REFUSED, "signature_mismatch")
    assert event.source_address == "127.0.0.1"
    assert event.request_id == answer.json()["request_id"]


async def test_a_claimed_address_is_not_believed(
    client: httpx2.AsyncClient, source: StoredSource, audit: FakeAudit
) -> None:
    claims = {"x-forwarded-for": "8.8.8.8", "forwarded": "for=8.8.8.8", "content-type": "application/json"}
    await client.post(path(source), content=BODY, headers=claims)
    assert audit.events[0][1].source_address == "127.0.0.1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
async def test_other_methods_are_refused(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, audit: FakeAudit, method: str
) -> None:
    answer = await client.request(method, path(source), headers=sender.headers(BODY))
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert audit.events[0][1].reason == "method_not_allowed"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_other_content_is_refused_unread(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, audit: FakeAudit, headers: dict[str, str]
) -> None:
    signed = dict(sender.headers(BODY)) | headers
    answer = await client.post(path(source), content=BODY, headers=signed)
    assert answer.status_code == 415
    assert audit.events[0][1].reason == "unsupported_content"


async def test_unknown_addresses_all_look_the_same(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, audit: FakeAudit
) -> None:
    seen = set()
    for address in (
        f"/hooks/{source.workspace}/other",
        f"/hooks/{WorkspaceId.new()}/github",
        "/hooks/ws_1/github",
        "/hooks/*/%3E",
    ):
        answer = await client.post(address, content=BODY, headers=sender.headers(BODY))
        body = answer.json() | {"request_id": None}
        seen.add((answer.status_code, json.dumps(body), tuple(sorted(set(answer.headers) - {"date"}))))
    assert len(seen) == 1
    assert next(iter(seen))[0] == 404
    assert {scope for scope, _ in audit.events} <= {OrgId.nil()}


@pytest.mark.parametrize(
    "address", ["/", "/hooks", "/hooks/a", "/hooks/a/b/c", "/hooks/a/b/", "/docs", "/openapi.json"]
)
async def test_there_are_no_other_pages_and_no_redirects(client: httpx2.AsyncClient, address: str) -> None:
    answer = await client.post(address)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_security_headers(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource
) -> None:
    for answer in (
        await client.post(path(source), content=BODY, headers=sender.headers(BODY)),
        await client.post(path(source)),
        await client.get("/"),
    ):
        for name, value in http.SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers


async def test_a_body_over_the_limit_is_refused_by_its_length_and_by_its_bytes(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, fake_store: FakeStore
) -> None:
    huge = b'{"a":"' + b"x" * MAX_WEBHOOK_BYTES + b'"}'

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(huge), 65536):
            yield huge[start : start + 65536]

    headers = dict(sender.headers(huge))
    for content in (huge, in_chunks()):
        answer = await client.post(path(source), content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert not fake_store.published


async def test_a_body_of_exactly_the_limit_is_taken(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource
) -> None:
    body = b'{"a":"' + b"x" * (MAX_WEBHOOK_BYTES - 8) + b'"}'
    assert len(body) == MAX_WEBHOOK_BYTES
    assert (await client.post(path(source), content=body, headers=sender.headers(body))).status_code == 202


async def test_a_claimed_gigabyte_is_refused_before_a_byte_of_it_comes(
    port: int, source: StoredSource, audit: FakeAudit
) -> None:
    answer = await raw(port, head(source, "Content-Length: 1000000000"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert audit.events[0][1].reason == "body_too_large"


async def test_a_body_cut_short_is_not_taken(
    port: int, source: StoredSource, fake_store: FakeStore, audit: FakeAudit
) -> None:
    await raw(port, head(source, f"Content-Length: {len(BODY) + 1}") + BODY, half_close=True)
    async with asyncio.timeout(5):
        while not audit.events:
            await asyncio.sleep(0.01)
    assert audit.events[0][1].reason == "request_error"
    assert not fake_store.published


async def test_a_body_in_chunks_is_verified_like_any_other(
    port: int, source: StoredSource, fake_store: FakeStore
) -> None:
    chunks = b"".join(b"1\r\n" + BODY[at : at + 1] + b"\r\n" for at in range(len(BODY)))
    answer = await raw(port, head(source, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 202")
    assert fake_store.published[0].data == BODY


async def test_two_lengths_at_once_are_refused(port: int, source: StoredSource, fake_store: FakeStore) -> None:
    """The attack: a request that a proxy and we would cut at different places."""
    both = head(source, "Content-Length: 4", f"Content-Length: {len(BODY)}") + BODY
    assert b" 400 " in (await raw(port, both)).split(b"\r\n")[0]
    assert not fake_store.published


async def test_a_body_that_trickles_is_given_up(
    port: int, source: StoredSource, audit: FakeAudit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.3)
    started = time.monotonic()
    answer = await raw(port, head(source, f"Content-Length: {len(BODY)}") + BODY[:3])
    assert answer.startswith(b"HTTP/1.1 400")
    assert time.monotonic() - started < 3
    assert audit.events[0][1].outcome is Outcome.REFUSED


async def test_slow_senders_fill_the_hall_and_not_the_memory(
    port: int, client: httpx2.AsyncClient, sender: Sender, source: StoredSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.6)
    slow = [asyncio.create_task(raw(port, head(source, f"Content-Length: {len(BODY)}") + BODY[:3])) for _ in range(8)]
    await asyncio.sleep(0.2)
    answer = await client.post(path(source), content=BODY, headers=sender.headers(BODY))
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    await asyncio.gather(*slow)
    answer = await client.post(path(source), content=BODY, headers=sender.headers(BODY))
    assert answer.status_code == 202


async def test_what_could_not_be_kept_is_to_be_sent_again(
    client: httpx2.AsyncClient, sender: Sender, source: StoredSource, fake_store: FakeStore, audit: FakeAudit
) -> None:
    fake_store.failure = ServiceUnavailable()
    answer = await client.post(path(source), content=BODY, headers=sender.headers(BODY))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert audit.events[0][1].outcome is Outcome.FAILED
    assert (await client.post(path(source), content=BODY, headers=sender.headers(BODY))).status_code == 202


async def test_a_defect_of_ours_shows_nothing(
    client: httpx2.AsyncClient,
    sender: Sender,
    source: StoredSource,
    fake_store: FakeStore,
    audit: FakeAudit,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_store.failure = ZeroDivisionError("canary-7f3a")
    answer = await client.post(path(source), content=BODY, headers=sender.headers(BODY))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "canary" not in answer.text
    assert "canary" not in caplog.text
    assert audit.events[0][1].outcome is Outcome.FAILED
