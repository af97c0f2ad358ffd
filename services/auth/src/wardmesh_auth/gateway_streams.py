"""Server-sent events: what a long poll brings, as one HTTP answer that goes on.

    GET /v1/{scope}/audit/tail             entries; `Last-Event-ID` goes on behind what was looked at
    GET /v1/{scope}/webhooks/events        events of a group; each batch is acknowledged when the next one is asked for

What always holds: every round is a request of its own through the service's gates, with the caller's token, so a
stream ends with the token or its revocation. The first round waits for nothing and is done before the answer begins, so
that what is refused is refused with its own status.

On failure: an event `problem` with the problem document, and the end of the stream; the client connects again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from wardmesh.contracts import audit, webhooks
from wardmesh.contracts.fields import POLL_DEADLINE, POLL_SECONDS
from wardmesh.contracts.operation import AnyContract
from wardmesh.errors import InvalidRequest, Overloaded, Violation, WardmeshError
from wardmesh.ids import RequestId
from wardmesh_auth.gateway_http import Asked, Door

MAX_STREAMS: Final = 256
"""Of one process; each holds a socket and a long poll."""
EVENT_STREAM: Final = "text/event-stream"


class Streams:
    """The two streams of the door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._open = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream; clients connect again, elsewhere."""
        self._closing.set()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/{scope}/audit/tail", self.tail, methods=["GET"]),
            Route("/v1/{scope}/webhooks/events", self.events, methods=["GET"]),
        ]

    async def tail(self, request: Request) -> Response:
        """Follow the audit log. Query: the fields of `Filter`, and `start` or `start_time`."""
        return await self._door.guarded(request, self._tail)

    async def events(self, request: Request) -> Response:
        """Follow events. Query: `pattern` and `group`."""
        return await self._door.guarded(request, self._events)

    async def _tail(self, request: Request, _request_id: RequestId) -> Response:
        asked = self._asked(request, audit.TAIL)
        query = dict(request.query_params)
        start = _whole_number("start", query.pop("start", None))
        start_time = query.pop("start_time", None)
        last = request.headers.get("last-event-id", "")
        if last == _NOTHING or _is_digits(last):
            start = int(last) + 1

        async def rounds() -> AsyncIterator[bytes]:
            next_start, wait = start, 0.0
            while True:
                moment = start_time if next_start is None else None
                body = {"filter": query, "start": next_start, "start_time": moment, "wait_seconds": wait}
                found = await self._round(asked, body)
                wait = POLL_SECONDS
                next_start = found["next_start"]
                entries = b"".join(_event("entry", entry["index"], entry) for entry in found["entries"])
                # The id of what was looked at last, also where nothing matched: who connects again goes on there.
                yield entries + f"id: {next_start - 1}\n: so far\n\n".encode()

        return await self._stream(rounds())

    async def _events(self, request: Request, _request_id: RequestId) -> Response:
        asked = self._asked(request, webhooks.FETCH)
        query = dict(request.query_params)

        async def rounds() -> AsyncIterator[bytes]:
            acks: list[str] = []
            wait = 0.0
            while True:
                found = await self._round(asked, {**query, "acks": acks, "wait_seconds": wait})
                wait = POLL_SECONDS
                # Acknowledged in the next round: by then the batch has been written to the socket.
                acks = [event.pop("ack") for event in found["events"]]
                yield b"".join(_event("event", event["id"], event) for event in found["events"]) or _KEEP_ALIVE

        return await self._stream(rounds())

    def _asked(self, request: Request, contract: AnyContract) -> Asked:
        if self._open >= MAX_STREAMS:
            raise Overloaded("The gateway holds as many streams as it may.")
        asked = self._door.asked(request, contract.service, contract.name)
        return replace(asked, seconds=POLL_DEADLINE.total_seconds())

    async def _round(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        # Each round is a call of its own in the audit log.
        headers = self._door.headers(asked, RequestId.new())
        sent = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        answer = await self._door.gateway.forward(asked.subject, sent, headers, seconds=asked.seconds)
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def _stream(self, rounds: AsyncIterator[bytes]) -> Response:
        first = await anext(rounds)

        async def written() -> AsyncIterator[bytes]:
            self._open += 1
            try:
                yield first
                while (chunk := await self._next(rounds)) is not None:
                    yield chunk
            except WardmeshError as error:
                yield _event("problem", None, error.to_problem().model_dump(mode="json", exclude_none=True))
            finally:
                self._open -= 1

        return StreamingResponse(written(), media_type=EVENT_STREAM, headers={"x-accel-buffering": "no"})

    async def _next(self, rounds: AsyncIterator[bytes]) -> bytes | None:
        """Return the next round, or None when streams are to end."""
        upcoming = asyncio.ensure_future(anext(rounds))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({upcoming, closing}, return_when=asyncio.FIRST_COMPLETED)
            return upcoming.result() if upcoming.done() else None
        finally:
            upcoming.cancel()
            closing.cancel()


_KEEP_ALIVE: Final = b": nothing new\n\n"
_NOTHING: Final = "-1"
"""The id before the first entry."""


def _event(name: str, identifier: object, data: object) -> bytes:
    # JSON without raw line breaks is one line of an event; identifiers of ours have none either.
    head = "" if identifier is None else f"id: {identifier}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _whole_number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not _is_digits(text):
        raise InvalidRequest(violations=(Violation(pointer=f"/query/{name}", message="expected a whole number"),))
    return int(text)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
