"""The log as C2SP tlog-tiles, read-only, for other people's tools.

    GET /v1/{scope}/log/checkpoint
    GET /v1/{scope}/log/tile/<L>/<N>[.p/<W>]
    GET /v1/{scope}/log/tile/entries/<N>[.p/<W>]

What always holds: each is asked of the audit service as its caller, who needs a token and the permission; nothing is
decided or kept here. What is immutable may be cached for good, by who asked and nobody else; a checkpoint by no one.
A bundle is more than one message can hold, so it is asked for in parts; only so many are put together at once.

On failure: a problem document, as everywhere at the door.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardmesh.contracts import audit
from wardmesh.contracts.operation import Contract, Empty, RequestT, ResponseT
from wardmesh.crypto.tiles import TILE_WIDTH
from wardmesh.errors import InternalError, InvalidRequest, Overloaded, violations_of
from wardmesh.ids import RequestId
from wardmesh_auth.gateway_http import Door

MAX_BUNDLES: Final = 16
"""Being put together at once; each is 16 MiB at the most."""
COMPRESSION_LEVEL: Final = 1
"""JSON shrinks to a fifth already, and a higher level holds up everybody else."""
ENTRIES: Final = "entries/"
NOTE_TYPE: Final = "text/plain; charset=utf-8"
TILE_TYPE: Final = "application/octet-stream"
IMMUTABLE: Final = {"cache-control": "private, max-age=31536000, immutable", "vary": "Authorization, Accept-Encoding"}


class LogPages:
    """The log's pages of the door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._bundles = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/{scope}/log/checkpoint", self.checkpoint, methods=["GET"]),
            Route("/v1/{scope}/log/tile/{path:path}", self.tile, methods=["GET"]),
        ]

    async def checkpoint(self, request: Request) -> Response:
        """The signed head."""
        return await self._door.guarded(request, self._checkpoint)

    async def tile(self, request: Request) -> Response:
        """A tile of hashes, or a bundle of entries."""
        return await self._door.guarded(request, self._tile)

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
