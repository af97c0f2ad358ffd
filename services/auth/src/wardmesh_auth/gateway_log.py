"""The log as C2SP tlog-tiles, read-only, for other people's tools.

    GET /v1/{scope}/log/checkpoint
    GET /v1/{scope}/log/tile/<L>/<N>[.p/<W>]
    GET /v1/{scope}/log/tile/entries/<N>[.p/<W>]
    GET /v1/{scope}/log/kept.ndjson[?size=…]      as an export has it, of so many entries (`wardmesh.audit_pruning`)

What always holds: each is asked of the audit service as its caller, who needs a token and the permission; nothing is
decided or kept here. What is immutable may be cached for good, by who asked and nobody else; the rest by no one.
A bundle is more than one message can hold, so it is asked for in parts; only so many are put together at once. A list
is written as its pages come, each a request of its own, and never ends as if it were whole when it is not.

On failure: a problem document, as everywhere at the door; a list that has begun breaks off.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wardmesh.audit_pruning import KEPT
from wardmesh.contracts import audit
from wardmesh.contracts.operation import Contract, Empty, RequestT, ResponseT
from wardmesh.crypto.tiles import TILE_WIDTH
from wardmesh.errors import (
    InternalError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    WardmeshError,
    violations_of,
)
from wardmesh.ids import RequestId
from wardmesh_auth.gateway_http import Door

MAX_BUNDLES: Final = 16
"""Being put together at once; each is 16 MiB at the most."""
MAX_LISTS: Final = 64
"""Being written at once; each holds a socket and a page."""
LIST_SECONDS: Final = 600.0
"""For all of a list: as long as a token lasts, so that who reads slowly does not hold a place for ever."""
MAX_TRIES: Final = 5
"""Of a page, where the service asks to come again."""
MAX_PAUSE_SECONDS: Final = 5.0
COMPRESSION_LEVEL: Final = 1
"""JSON shrinks to a fifth already, and a higher level holds up everybody else."""
ENTRIES: Final = "entries/"
NOTE_TYPE: Final = "text/plain; charset=utf-8"
LIST_TYPE: Final = "application/x-ndjson"
TILE_TYPE: Final = "application/octet-stream"
IMMUTABLE: Final = {"cache-control": "private, max-age=31536000, immutable", "vary": "Authorization, Accept-Encoding"}

_log = logging.getLogger(__name__)


class LogPages:
    """The log's pages of the door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._bundles = 0
        self._lists = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/{scope}/log/checkpoint", self.checkpoint, methods=["GET"]),
            Route("/v1/{scope}/log/tile/{path:path}", self.tile, methods=["GET"]),
            Route(f"/v1/{{scope}}/log/{KEPT}", self.kept, methods=["GET"]),
        ]

    async def checkpoint(self, request: Request) -> Response:
        """The signed head."""
        return await self._door.guarded(request, self._checkpoint)

    async def tile(self, request: Request) -> Response:
        """A tile of hashes, or a bundle of entries."""
        return await self._door.guarded(request, self._tile)

    async def kept(self, request: Request) -> Response:
        """To when entries are kept that are not kept for ever: of the first `size`, or of all that there are."""
        return await self._door.guarded(request, self._kept)

    async def _checkpoint(self, request: Request, request_id: RequestId) -> Response:
        signed = await self._ask(request, request_id, audit.CHECKPOINT, Empty())
        return Response(signed.note, media_type=NOTE_TYPE)

    async def _tile(self, request: Request, request_id: RequestId) -> Response:
        path = request.path_params["path"]
        if not path.startswith(ENTRIES):
            tile = await self._ask(request, request_id, audit.TILE, _validated(audit.ReadTile, path=f"tile/{path}"))
            return Response(tile.content, media_type=TILE_TYPE, headers=IMMUTABLE)
        if self._bundles >= MAX_BUNDLES:
            raise Overloaded("The gateway puts together as many bundles of entries as it may.")
        self._bundles += 1
        try:
            content = await self._bundle(request, request_id, f"tile/{path}")
            return await _compressed(request, content)
        finally:
            self._bundles -= 1

    async def _bundle(self, request: Request, request_id: RequestId, path: str) -> bytes:
        content = bytearray()
        skip, left = 0, 1
        while left and skip < TILE_WIDTH:
            part = await self._ask(
                request, request_id, audit.BUNDLE, _validated(audit.ReadBundle, path=path, skip=skip)
            )
            if part.entries < 1:
                raise InternalError
            content += part.content
            skip, left = skip + part.entries, part.left
        return bytes(content)

    async def _kept(self, request: Request, request_id: RequestId) -> Response:
        if self._lists >= MAX_LISTS:
            raise Overloaded("The gateway writes as many lists as it may.")
        asked = _validated(audit.ReadKept, size=request.query_params.get("size"))
        self._lists += 1  # from here on: others may ask while the first page is waited for
        try:
            first = await self._ask(request, request_id, audit.KEPT, asked)
        except BaseException:
            self._lists -= 1
            raise

        async def written() -> AsyncIterator[bytes]:
            page = first
            while True:
                yield b"".join(run.model_dump_json().encode() + b"\n" for run in page.runs)
                if page.next_start is None or request.method == "HEAD":
                    return
                place = page.next_start
                page = await self._next(request, place, first.size)
                if page.next_start is not None and page.next_start <= place:
                    raise InternalError  # it would never end

        return _Listed(written(), media_type=LIST_TYPE, ended=self._ended)

    def _ended(self) -> None:
        self._lists -= 1

    async def _next(self, request: Request, start: int, size: int) -> audit.KeptRuns:
        """Return the next page, which is a request of its own; come again where the service asks for it."""
        tries = 0
        while True:
            try:
                return await self._ask(request, RequestId.new(), audit.KEPT, audit.ReadKept(start=start, size=size))
            except (RateLimited, Overloaded, ServiceUnavailable) as error:
                tries += 1
                if tries == MAX_TRIES:
                    raise
                await asyncio.sleep(min(error.retry_after_seconds or 2.0**tries / 10, MAX_PAUSE_SECONDS))

    async def _ask(
        self,
        request: Request,
        request_id: RequestId,
        contract: Contract[..., RequestT, ResponseT],
        body: RequestT,
    ) -> ResponseT:
        asked = self._door.asked(request, contract.service, contract.name)
        headers = self._door.headers(asked, request_id)
        answer = await self._door.gateway.forward(
            asked.subject, body.model_dump_json().encode(), headers, seconds=asked.seconds
        )
        return contract.response.model_validate_json(answer.body)


class _Listed(StreamingResponse):
    """Lines as they come. What breaks off is left without an end, so that the server cuts the connection."""

    def __init__(self, lines: AsyncIterator[bytes], *, media_type: str, ended: Callable[[], None]) -> None:
        super().__init__(lines, media_type=media_type)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()

    async def stream_response(self, send: Send) -> None:
        try:
            async with asyncio.timeout(LIST_SECONDS):
                await super().stream_response(send)
        except (WardmeshError, TimeoutError) as error:
            _log.warning("a list broke off: %s", getattr(error, "code", "too_slow"))


def _validated(model: type[RequestT], **fields: object) -> RequestT:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(violations=violations_of(error)) from None


async def _compressed(request: Request, content: bytes) -> Response:
    headers = dict(IMMUTABLE)
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("accept-encoding", "").split(",")]
    if "gzip" in accepted:
        content = await asyncio.to_thread(gzip.compress, content, COMPRESSION_LEVEL, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(content, media_type=TILE_TYPE, headers=headers)
