"""The way to witnesses by HTTP.

What always holds: a witness is believed in nothing here. No redirect is followed, no encoding undone, no proxy of the
environment used, nothing sent but the request, and no answer read beyond what one may have. How long it may take is the
caller's to bound.

On failure: `WitnessUnreachable`, without the text of what went wrong: it may quote what the other side sent.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import httpx2

from wardmesh.crypto.tlog_witness import ADD_CHECKPOINT_PATH, MAX_ANSWER_BYTES
from wardmesh.tls import trusting_also
from wardmesh_audit.witness_ports import WitnessAnswer, WitnessUnreachable

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 10.0
MAX_CONNECTIONS: Final = 64


class HttpWitnessDoor:
    """The port `WitnessDoor`; keeps connections open."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._client = httpx2.AsyncClient(
            verify=trusting_also(ca_file),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
            headers={"accept-encoding": "identity", "user-agent": "wardmesh"},
        )

    async def add_checkpoint(self, url: str, request: bytes) -> WitnessAnswer:
        content = bytearray()
        try:
            async with self._client.stream(
                "POST",
                f"{url.rstrip('/')}/{ADD_CHECKPOINT_PATH}",
                content=request,
                headers={"content-type": "text/plain"},
            ) as answer:
                async for chunk in answer.aiter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise WitnessUnreachable("its answer does not end")
                return WitnessAnswer(answer.status_code, bytes(content))
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
            raise WitnessUnreachable(type(error).__name__) from error

    async def close(self) -> None:
        await self._client.aclose()
