"""The HTTP side of the door: `POST /hooks/{workspace}/{source}`, and no other path.

What always holds:
- Cheap refusals come first, and the body is read only for a source that exists, within a limit of bytes and of time.
- The number of requests in hand is bounded, and so is what their bodies hold of memory.
- Every answer is JSON with security headers; every refusal an RFC 9457 problem document that says what to do.

Answers: 202 accepted · 200 a duplicate, nothing changed · 400 not verified, not JSON, or not all there · 404 no such
source · 405 · 413 · 415 · 500 and 503 try again.
"""

from __future__ import annotations

import logging
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wardmesh.errors import InternalError, Overloaded, RequestError, UnknownOperation, WardmeshError
from wardmesh.ids import RequestId
from wardmesh.server.http import SecurityHeaders, problem_response, read_body
from wardmesh_webhooks.domain import MAX_WEBHOOK_BYTES, StoredSource, content_type
from wardmesh_webhooks.door import Answer, Door, Origin
from wardmesh_webhooks.errors import ContentRefused, MethodRefused

MAX_IN_HAND: Final = 128
"""Bodies in memory at once: 64 MiB at the most."""
RETRY_AFTER_SECONDS: Final = 5.0
MAX_ADDRESS_CHARACTERS: Final = 64

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("wardmesh.webhooks")


class Ingest:
    """The ASGI endpoint."""

    def __init__(self, door: Door, *, max_in_hand: int = MAX_IN_HAND) -> None:
        self._door = door
        self._max_in_hand = max_in_hand
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request_id = RequestId.new()
        if self._in_hand >= self._max_in_hand:
            response = problem_response(Overloaded(retry_after_seconds=RETRY_AFTER_SECONDS), request_id)
        else:
            self._in_hand += 1
            try:
                # A span of our own: a stranger's `traceparent` is not continued.
                with _tracer.start_as_current_span(
                    "POST /hooks", kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
                ):
                    response = await self._serve(request, request_id)
            finally:
                self._in_hand -= 1
        response.headers["x-request-id"] = request_id
        await response(scope, receive, send)

    async def _serve(self, request: Request, request_id: RequestId) -> Response:
        origin = Origin(
            request_id,
            address=None if request.client is None else request.client.host[:MAX_ADDRESS_CHARACTERS],
            user_agent=request.headers.get("user-agent"),
        )
        source: StoredSource | None = None
        try:
            source = await self._door.find(request.path_params["workspace"], request.path_params["source"])
            answer = await self._receive(source, request, origin)
        except WardmeshError as error:
            await self._door.refused(source, error, origin)
            return _refusal(error, request_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender is answered, and told to try again
            # Without the exception's text: that may quote the body.
            _log.error("defect at the door: %s", type(error).__name__, extra={"request_id": str(request_id)})
            await self._door.refused(source, InternalError(), origin)
            return _refusal(InternalError(), request_id)
        body = {"id": answer.event_id, "status": "duplicate" if answer.duplicate else "accepted"}
        return Response(to_json(body), 200 if answer.duplicate else 202, media_type="application/json")

    async def _receive(self, source: StoredSource, request: Request, origin: Origin) -> Answer:
        if request.method != "POST":
            raise MethodRefused
        content = content_type(request.headers.get("content-type"))
        if content is None or request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ContentRefused
        try:
            body = await read_body(request, MAX_WEBHOOK_BYTES)
        except ClientDisconnect:
            raise RequestError("The connection ended before the body did.") from None
        return await self._door.receive(source, request.headers.items(), body, content, origin)


def application(door: Door, *, max_in_hand: int = MAX_IN_HAND) -> Starlette:
    """Return the ASGI application."""
    app = Starlette(
        routes=[Route("/hooks/{workspace}/{source}", Ingest(door, max_in_hand=max_in_hand))],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _not_ours},
    )
    app.router.redirect_slashes = False  # a redirect would be built from the Host header, which is the caller's
    return app


async def _not_ours(_request: Request, _error: Exception) -> Response:
    return problem_response(UnknownOperation("Webhooks are posted to /hooks/{workspace}/{source}."), RequestId.new())


def _refusal(error: WardmeshError, request_id: RequestId) -> Response:
    if error.retryable and error.retry_after_seconds is None:
        error.retry_after_seconds = RETRY_AFTER_SECONDS
    response = problem_response(error, request_id)
    if isinstance(error, MethodRefused):
        response.headers["allow"] = "POST"
    return response
