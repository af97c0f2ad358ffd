"""The HTTP door: where a password goes, and where it does not."""

from __future__ import annotations

import httpx2
import pytest

from wardmesh.contracts import auth
from wardmesh.contracts.operation import Empty
from wardmesh.errors import ConnectionLost, CredentialRefused, DeadlineExceeded, InternalError, ServiceUnavailable
from wardmesh.ids import OrgId, UserId
from wardmesh_cli.bootstrap import first_administrator
from wardmesh_cli.door import open_door

ORG = OrgId.new()
LOG_IN = auth.LogIn(organization=ORG, email="ada@example.org", password="correct horse 1")


async def ask(answer: httpx2.Response | Exception) -> list[httpx2.Request]:
    """Log in with a token at hand, and be answered so."""
    asked: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with open_door("http://door.example/", transport=httpx2.MockTransport(respond)) as door:
        await door.call(auth.LOG_IN, LOG_IN, token="a-token")
    return asked


async def test_a_refusal_is_the_error_that_it_says() -> None:
    problem = CredentialRefused("Check it.").to_problem().model_dump_json()
    with pytest.raises(CredentialRefused, match="Check it"):
        await ask(httpx2.Response(401, content=problem))


async def test_a_redirect_is_not_followed() -> None:
    with pytest.raises(InternalError):
        await ask(httpx2.Response(307, headers={"location": "http://elsewhere.example/"}))


async def test_what_does_not_fit_and_what_does_not_answer() -> None:
    with pytest.raises(InternalError):
        await ask(httpx2.Response(200, content=b"{}"))
    with pytest.raises(ServiceUnavailable, match=r"Nothing answers at http://door.example"):
        await ask(httpx2.ConnectError("refused"))


@pytest.mark.parametrize(
    ("broke", "said"),
    [
        (httpx2.ReadTimeout("slow"), DeadlineExceeded),
        (httpx2.ReadError("reset"), ConnectionLost),
        (httpx2.RemoteProtocolError("closed without an answer"), ConnectionLost),
    ],
)
async def test_a_request_that_was_sent_is_not_said_to_have_reached_nobody(broke: Exception, said: type) -> None:
    with pytest.raises(said) as caught:
        await ask(broke)
    assert caught.value.executed


async def test_a_token_goes_only_where_one_is_needed() -> None:
    asked: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(503, content=ServiceUnavailable().to_problem().model_dump_json())

    async with open_door("http://door.example", transport=httpx2.MockTransport(respond)) as door:
        for contract, request in ((auth.LOG_IN, LOG_IN), (auth.WHO_AM_I, Empty())):
            with pytest.raises(ServiceUnavailable):
                await door.call(contract, request, scope=ORG, token="a-token")  # type: ignore[arg-type]
    assert [request.headers.get("authorization") for request in asked] == [None, "Bearer a-token"]
    assert asked[1].url.path == f"/v1/{ORG}/auth/who_am_i"


async def test_a_first_administrator_that_is_refused_leaves_no_credential_behind() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("sign_up"):
            made = auth.SignedUp(organization=ORG, workspace="ws_01h455vb4pex5vsknk084sn02q", user=UserId.new())  # type: ignore[arg-type]
            return httpx2.Response(200, content=made.model_dump_json())
        return httpx2.Response(401, content=CredentialRefused().to_problem().model_dump_json())

    async with open_door("http://door.example", transport=httpx2.MockTransport(respond)) as door:
        with pytest.raises(CredentialRefused):
            await first_administrator(door)
