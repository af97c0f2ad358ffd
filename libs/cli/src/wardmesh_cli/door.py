"""The HTTP door, as far as the command needs it: what is asked before there is anything to connect to NATS with.

`POST /v1/{scope}/{service}/{operation}`, for any contract. What needs no token is asked in the organization of nobody.

What always holds: a redirect is not followed and no proxy of the environment is used for a loopback address, so that a
password reaches the host that was named, and no other.

On failure: the error of `wardmesh.errors` that the door answered with; if none did, `ServiceUnavailable` if nothing
answers there, `DeadlineExceeded` or `ConnectionLost` if the request may have been carried out.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, ParamSpec, TypeVar

import httpx2
from pydantic import ValidationError

from wardmesh.contracts.operation import MAX_DEADLINE, Contract, Credential, Message
from wardmesh.errors import ConnectionLost, DeadlineExceeded, InternalError, ServiceUnavailable, from_problem
from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import OrgId, Scope

P = ParamSpec("P")
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)

NOBODY: Final = OrgId.nil()
CONNECT_SECONDS: Final = 5.0
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
"""What a request ends in before a byte of it has left."""


class Door:
    """The gateway of one mesh. Made by `open_door`."""

    def __init__(self, url: str, client: httpx2.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._client = client

    async def call(
        self,
        contract: Contract[P, RequestT, ResponseT],
        request: RequestT,
        *,
        scope: Scope = NOBODY,
        token: str | None = None,
    ) -> ResponseT:
        """Call an operation; with the token, unless it carries a credential of its own."""
        headers = {"content-type": "application/json"}
        if token is not None and not isinstance(contract.access, Credential):
            headers[AUTHORIZATION] = f"Bearer {token}"
        path = f"{self.url}/v1/{scope}/{contract.service}/{contract.name}"
        try:
            answer = await self._client.post(path, content=request.model_dump_json(), headers=headers)
        except _NOT_SENT as error:
            raise ServiceUnavailable(f"Nothing answers at {self.url}: check the address, and that it is up.") from error
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded from error
        except httpx2.HTTPError as error:
            raise ConnectionLost from error
        if answer.status_code >= 300:
            raise from_problem(answer.content, status=answer.status_code)
        try:
            return contract.response.model_validate_json(answer.content, extra="ignore")
        except ValidationError as error:
            raise InternalError("The answer does not fit the contract; command and mesh may differ.") from error

    async def clock(self) -> datetime | None:
        """Return what time it is there, to the second; None if it does not say."""
        try:
            answer = await self._client.head(self.url)
        except httpx2.HTTPError as error:
            raise ServiceUnavailable(f"Nothing answers at {self.url}: check the address, and that it is up.") from error
        date = answer.headers.get("date")
        try:
            return None if date is None else parsedate_to_datetime(date)
        except ValueError:
            return None


@asynccontextmanager
async def open_door(
    url: str, *, tls: ssl.SSLContext | None = None, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[Door]:
    """The door at `url`, while the block runs."""
    async with httpx2.AsyncClient(
        transport=transport,
        verify=tls or True,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(MAX_DEADLINE.total_seconds() + 1, connect=CONNECT_SECONDS),
    ) as client:
        yield Door(url, client)
