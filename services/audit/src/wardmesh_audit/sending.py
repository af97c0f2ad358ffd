"""The way out: which one an address names, and the one by HTTPS: one POST a batch, taken when the answer is 2xx.

What always holds:
- The certificate is verified for the name that the tenant gave, whatever address it resolved to. One of ours is shown
  if the tenant gave one, and the endpoint asks for it.
- No redirect is followed, no proxy of the environment's is used, no cookie outlives a turn, and a connection serves
  one forwarder: nobody's secret goes where somebody else's certificate was looked at.
- Of an answer the status is read, and `Retry-After`. Its body is dropped, after `ANSWER_BYTES` with the connection.

On failure: `NotDelivered` with one word of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import httpx2

from wardmesh_audit.batches import Batch, body_of, headers_of
from wardmesh_audit.outward import IPAddress, NotPublic, Outward
from wardmesh_audit.outward_tls import CLIENT_CERTIFICATE, OutwardTls, refused_us, tls_errors
from wardmesh_audit.ports_forwarding import BatchTooLarge, Endpoint, NotDelivered, Sender, Target

CONNECT_SECONDS: Final = 5.0
ANSWER_BYTES: Final = 64 * 1024
_TOO_LARGE: Final = 413


class HttpEndpoint:
    """A connection to an endpoint. Implements `Endpoint`."""

    def __init__(self, client: httpx2.AsyncClient, target: Target, url: httpx2.URL, seconds: float) -> None:
        self._client = client
        self._target = target
        self._url = url
        self._seconds = seconds

    async def send(self, batch: Batch) -> None:
        target = self._target
        body = await asyncio.to_thread(body_of, batch, target.format)
        headers = headers_of(batch)
        headers["Host"] = self._url_host()
        if target.secret is not None:
            name, value = ("Authorization", f"Bearer {target.secret}") if target.header is None else (
                target.header, target.secret)  # fmt: skip
            headers[name] = value
        try:
            async with asyncio.timeout(self._seconds):
                status, retry_after = await self._post(body, headers)
        except (TimeoutError, httpx2.TimeoutException):
            raise NotDelivered("timed_out") from None
        except httpx2.ConnectError as error:
            raise NotDelivered(_of_tls(error) or "unreachable") from None
        except httpx2.HTTPError as error:
            # By TLS 1.3 an endpoint that will not have us says so after our first words.
            raise NotDelivered(CLIENT_CERTIFICATE if refused_us(error) else "broken") from None
        if 200 <= status < 300:
            return
        if status == _TOO_LARGE:
            raise BatchTooLarge(f"http_{status}")
        raise NotDelivered(f"http_{status}", retry_after_seconds=retry_after)

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, float | None]:
        request = self._client.build_request(
            "POST", self._url, content=body, headers=headers, extensions={"sni_hostname": self._target.host}
        )
        answer = await self._client.send(request, stream=True)
        try:
            taken = 0
            async for piece in answer.aiter_raw():
                taken += len(piece)
                if taken > ANSWER_BYTES:
                    break
        finally:
            await answer.aclose()
        return answer.status_code, _seconds(answer.headers.get("retry-after"))

    def _url_host(self) -> str:
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        return host if self._target.port == 443 else f"{host}:{self._target.port}"


class Senders:
    """The port `Sender`: the one for the address's scheme."""

    def __init__(self, by_scheme: Mapping[str, Sender]) -> None:
        self._by_scheme = by_scheme

    def open(self, target: Target) -> AbstractAsyncContextManager[Endpoint]:
        return self._by_scheme[target.scheme].open(target)


async def reachable(outward: Outward, target: Target, seconds: float) -> IPAddress:
    """Return the address that an attempt goes to; raise `NotDelivered` if there is none."""
    try:
        async with asyncio.timeout(seconds):
            addresses = await outward.addresses(target.host, target.port)
    except TimeoutError:
        raise NotDelivered("timed_out") from None
    except NotPublic:
        raise NotDelivered("not_public") from None
    return addresses[target.attempt % len(addresses)]


class HttpSender:
    """The port `Sender` by HTTPS."""

    def __init__(self, outward: Outward, tls: OutwardTls, *, seconds: float) -> None:
        self._outward = outward
        self._tls = tls
        self._seconds = seconds

    @asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[HttpEndpoint]:
        """Look where the name leads; the connection is made with the first batch."""
        address = await reachable(self._outward, target, self._seconds)
        host = f"[{address}]" if address.version == 6 else str(address)
        transport = httpx2.AsyncHTTPTransport(
            verify=await asyncio.to_thread(self._tls.context, target.client),
            trust_env=False,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
        )
        timeout = httpx2.Timeout(self._seconds, connect=min(CONNECT_SECONDS, self._seconds))
        async with httpx2.AsyncClient(
            transport=transport, timeout=timeout, trust_env=False, follow_redirects=False
        ) as client:
            # As it was given: what a library would spell otherwise may be part of a signature.
            url = httpx2.URL(f"https://{host}:{target.port}").copy_with(raw_path=target.path.encode("ascii"))
            yield HttpEndpoint(client, target, url, self._seconds)


def _seconds(retry_after: str | None) -> float | None:
    """Return what `Retry-After` asks for, if it does in seconds; a date would be the endpoint's clock."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() and len(retry_after) < 7 else None


def _of_tls(error: BaseException) -> str | None:
    """Return our word for what was wrong, if it was the handshake."""
    if next(tls_errors(error), None) is None:
        return None
    return CLIENT_CERTIFICATE if refused_us(error) else "tls"
