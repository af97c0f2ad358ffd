"""What the mesh's HTTP doors share: security headers, bodies read within a bound, and a server that ends cleanly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Final

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardmesh.errors import PROBLEM_CONTENT_TYPE, BodyTooLarge, RequestError, WardmeshError
from wardmesh.ids import RequestId

API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""For answers that are data: a browser that is made to show one may load and run nothing."""
SECURITY_HEADERS: Final = {
    "content-security-policy": API_POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
BODY_SECONDS: Final = 15.0
"""How long a body may take to arrive; a sender that trickles holds nothing for longer."""
SHUTDOWN_SECONDS: Final = 10


class SecurityHeaders:
    """ASGI middleware that sets `SECURITY_HEADERS` on every answer, unless the answer says otherwise itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the raw body; raise `BodyTooLarge` as soon as it is over `limit` bytes, `RequestError` if it stalls."""
    declared = request.headers.get("content-length", "")
    too_large = BodyTooLarge(f"The body may have {limit} bytes at the most.")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise too_large
                body += chunk
    except TimeoutError:
        raise RequestError(f"The body did not arrive within {BODY_SECONDS:.0f} s.") from None
    return bytes(body)


def problem_response(error: WardmeshError, request_id: RequestId | None = None) -> Response:
    """Return an error as an RFC 9457 problem document, with the headers that its status asks for."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="wardmesh"'
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_seconds + 0.5)))
    body = error.to_problem(request_id).model_dump_json(exclude_none=True)
    return Response(body, status_code=error.status, headers=headers, media_type=PROBLEM_CONTENT_TYPE)


class _Server(uvicorn.Server):
    """A server that leaves signals to the process it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port, which is a free one if 0 was given."""
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
            date_header=True,
            proxy_headers=False,  # the public address comes from configuration, never from a caller
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            limit_concurrency=1000,
            h11_max_incomplete_event_size=32 * 1024,
        )
    )
    task = asyncio.create_task(server.serve(), name=f"http-{port}")
    try:
        while not server.started:
            if task.done():
                await task
                raise OSError(f"cannot listen on {host}:{port}")
            await asyncio.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait({task})
