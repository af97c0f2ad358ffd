"""How far sealing is behind: whether what was in stream AUDIT at a moment is in the log.

What always holds: it waits for what was acknowledged to emitters before it was called, and for nothing that came later.
"Settled" is said only if the consumer has acknowledged everything up to there.

On failure: not settled, as when time runs out; whoever asks decides what that means.
"""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext

from wardmesh.server.streams import AUDIT
from wardmesh_audit.subscriber import CONSUMER

LOOK_SECONDS: Final = 0.05
_FAILURES: Final = (nats.errors.Error, nats.js.errors.Error, TimeoutError)


class StreamBacklog:
    """The port `Backlog` on the broker."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def settled(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                last = (await self._jetstream.stream_info(AUDIT)).state.last_seq
                while True:
                    if await self._reached(last):
                        return True
                    await asyncio.sleep(LOOK_SECONDS)
        except _FAILURES:
            return False

    async def _reached(self, sequence: int) -> bool:
        about = await self._jetstream.consumer_info(AUDIT, CONSUMER)
        if not about.num_pending and not about.num_ack_pending:
            return True
        return about.ack_floor is not None and about.ack_floor.stream_seq >= sequence
