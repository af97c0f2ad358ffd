"""The way out by HTTPS, to a real server: what it says, what it takes for taken, and where it does not go."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from makers import candidates, event, make_person
from siem import LOOPBACK, Answer, Siem, Taken, says, siem
from starlette.responses import Response, StreamingResponse

from wardmesh.contracts.audit import ForwardFormat, parse_address
from wardmesh_audit.batches import Batch
from wardmesh_audit.domain import Stored, decode_leaf
from wardmesh_audit.outward import Outward
from wardmesh_audit.outward_tls import OutwardTls
from wardmesh_audit.ports_forwarding import BatchTooLarge, NotDelivered, Target
from wardmesh_audit.sending import HttpSender

LOCAL = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Siem]:
    async with siem(tmp_path_factory.mktemp("siem")) as running:
        yield running


@pytest.fixture(autouse=True)
def emptied(server: Siem) -> None:
    server.requests.clear()
    server.answers.clear()


def batch(count: int = 2) -> Batch:
    scope = make_person().scope
    made = candidates(scope, *(event() for _ in range(count)))
    entries = [decode_leaf(Stored(index, each.leaf)) for index, each in enumerate(made, 40)]
    return Batch(scope, "siem", entries)


def sender(server: Siem, *, allowed: Sequence[ipaddress.IPv4Network] = LOCAL, seconds: float = 5.0) -> HttpSender:  # type: ignore[assignment]
    async def lookup(host: str, port: int) -> list[str]:
        return [LOOPBACK]

    return HttpSender(Outward(allowed, lookup=lookup), OutwardTls(server.ca_file), seconds=seconds)


def target(url: str, *, secret: str | None = None, header: str | None = None) -> Target:
    place = parse_address(url)
    return Target(place.scheme, place.host, place.port, place.path, header, secret, ForwardFormat.OCSF)


async def send(way: HttpSender, where: Target, *batches: Batch) -> None:
    async with way.open(where) as endpoint:
        for each in batches or [batch()]:
            await endpoint.send(each)


async def why_not(way: HttpSender, where: Target) -> str:
    with pytest.raises(NotDelivered) as refused:
        await send(way, where)
    assert refused.value.__cause__ is None, "nothing of the endpoint's in a traceback"
    return refused.value.error


async def test_a_batch_arrives_with_all_that_tells_which_it_is(server: Siem) -> None:
    sent = batch()
    await send(sender(server), target(server.url("/in?token=%41b;c"), secret="s3cret key"), sent, sent)
    first, again = server.requests
    assert first == again, "a repetition is the same to the byte"
    assert (first.method, first.path, first.indexes) == ("POST", "/in?token=%41b;c", [40, 41])
    told = {name: value for name, value in first.headers.items() if name.startswith("wardmesh-")}
    assert told == {
        "wardmesh-scope": sent.scope, "wardmesh-forwarder": "siem", "wardmesh-entries": "2",
        "wardmesh-first-index": "40", "wardmesh-last-index": "41",
    }  # fmt: skip
    assert first.headers["authorization"] == "Bearer s3cret key"
    assert first.headers["host"] == f"localhost:{server.port}"
    assert first.headers["content-type"] == "application/x-ndjson"
    await send(sender(server), target(server.url(), secret="Splunk x", header="X-Key"))
    assert server.requests[2].headers["x-key"] == "Splunk x"
    assert "authorization" not in server.requests[2].headers


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_what_is_taken(server: Siem, status: int) -> None:
    server.answers = [says(status)]
    await send(sender(server), target(server.url()))


@pytest.mark.parametrize("status", [302, 307, 308, 400, 401, 403, 404, 429, 500, 502, 503, 504])
async def test_what_is_not_taken(server: Siem, status: int) -> None:
    server.answers = [says(status, b"secret words", location=server.url("/elsewhere"))]
    assert await why_not(sender(server), target(server.url())) == f"http_{status}"
    assert len(server.requests) == 1, "no redirect is followed"


async def test_an_endpoint_says_when_and_how_much(server: Siem) -> None:
    for said, understood in (("120", 120.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("9" * 30, None)):
        server.answers = [says(429, retry_after=said)]
        with pytest.raises(NotDelivered) as refused:
            await send(sender(server), target(server.url()))
        assert refused.value.retry_after_seconds == understood
    server.answers = [says(413)]
    with pytest.raises(BatchTooLarge):
        await send(sender(server), target(server.url()))


def silent() -> Answer:
    async def answer(_taken: Taken) -> Response:
        await asyncio.sleep(2)
        return Response()

    return answer


def endless(*, fast: bool) -> Answer:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100_000 if fast else 40):
            yield b"x" * 1024
            await asyncio.sleep(0 if fast else 0.05)

    async def answer(_taken: Taken) -> Response:
        return StreamingResponse(pieces())

    return answer


async def test_one_that_does_not_answer_or_trickles_is_not_waited_for(server: Siem) -> None:
    for answer in (silent(), endless(fast=False)):
        server.answers = [answer]
        began = asyncio.get_running_loop().time()
        assert await why_not(sender(server, seconds=0.5), target(server.url())) == "timed_out"
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_an_answer_without_an_end_is_cut_and_the_next_batch_goes_all_the_same(server: Siem) -> None:
    server.answers = [endless(fast=True)]
    await send(sender(server), target(server.url()), batch(), batch())
    assert len(server.requests) == 2


async def test_a_cookie_does_not_outlive_a_turn(server: Siem) -> None:
    server.answers = [says(200, set_cookie="who=a; Path=/")]
    await send(sender(server), target(server.url()))
    await send(sender(server), target(server.url()))
    assert "cookie" not in server.requests[1].headers


async def test_a_certificate_is_for_the_name_that_was_given(server: Siem, tmp_path: Path) -> None:
    assert await why_not(sender(server), target(server.url(host="other.example"))) == "tls"
    strangers = HttpSender(Outward(LOCAL), OutwardTls(None), seconds=5.0)
    assert await why_not(strangers, target(server.url())) == "tls"
    assert server.requests == []


async def test_what_is_not_there_is_unreachable(server: Siem) -> None:
    assert await why_not(sender(server), target("https://localhost:1/")) == "unreachable"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"])
async def test_nobody_is_sent_inside(server: Siem, host: str) -> None:
    way = HttpSender(Outward(), OutwardTls(server.ca_file), seconds=5.0)
    assert await why_not(way, target(server.url(host=host))) == "not_public"
    assert server.requests == []


async def test_a_name_that_says_something_else_a_moment_later_is_of_no_use(server: Siem) -> None:
    """DNS rebinding: the first answer is judged, and is the one that is connected to."""
    answers = [["127.0.0.2"], [LOOPBACK]]

    async def rebinding(host: str, port: int) -> list[str]:
        return answers.pop(0)

    way = HttpSender(
        Outward([ipaddress.ip_network("127.0.0.2/32")], lookup=rebinding), OutwardTls(server.ca_file), seconds=5.0
    )
    assert await why_not(way, target(server.url())) == "unreachable", "at 127.0.0.2 nobody listens"
    assert len(answers) == 1, "it was asked once"
    assert server.requests == []


async def test_a_proxy_of_the_environments_is_not_used(server: Siem, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await send(sender(server), target(server.url()))
    assert len(server.requests) == 1
