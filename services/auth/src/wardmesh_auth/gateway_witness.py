"""The mesh as a witness of other people's logs (C2SP tlog-witness), at the HTTP door.

    POST /v1/witness/add-checkpoint

What always holds: nothing is decided or kept here. The body is handed to the audit service as it came, asked as nobody;
what counts is the log's signature, which that service verifies. One address may ask so often, and no body is read
beyond what a request may have.

On failure: the specification's statuses (400, 403, 404, 422), each with a problem document; 409 is the witness's size.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wardmesh.contracts.audit import ADD_CHECKPOINT, AddCheckpoint, Cosigned
from wardmesh.crypto.tlog_witness import ADD_CHECKPOINT_PATH, MAX_REQUEST_BYTES, SIZE_TYPE
from wardmesh.ids import RequestId
from wardmesh.server.http import read_body
from wardmesh.server.ratelimit import RateLimiter
from wardmesh_auth.gateway_http import Door

SUBMISSION_PREFIX: Final = "/v1/witness"
LINES_TYPE: Final = "text/plain; charset=utf-8"


class WitnessPage:
    """The witness's page of the door."""

    def __init__(self, door: Door, limiter: RateLimiter) -> None:
        self._door = door
        self._limiter = limiter

    def routes(self) -> list[Route]:
        return [Route(f"{SUBMISSION_PREFIX}/{ADD_CHECKPOINT_PATH}", self.add_checkpoint, methods=["POST"])]

    async def add_checkpoint(self, request: Request) -> Response:
        """Cosign a checkpoint."""
        return await self._door.guarded(request, self._add_checkpoint)

    async def _add_checkpoint(self, request: Request, request_id: RequestId) -> Response:
        asked = self._door.asked(request, ADD_CHECKPOINT.service, ADD_CHECKPOINT.name, limiter=self._limiter)
        body = AddCheckpoint(request=await read_body(request, MAX_REQUEST_BYTES))
        headers = self._door.headers(asked, request_id)
        answer = await self._door.gateway.forward(
            asked.subject, body.model_dump_json().encode(), headers, seconds=asked.seconds
        )
        cosigned = Cosigned.model_validate_json(answer.body)
        if cosigned.known_size is not None:
            # As a header: Starlette would add a charset, and the type is to be this one.
            return Response(f"{cosigned.known_size}\n", status_code=409, headers={"content-type": SIZE_TYPE})
        return Response(cosigned.lines, media_type=LINES_TYPE)
