"""The spool: `emit` returns when the event is on this machine's disk, and it is sent when the mesh is there.

What always holds: events go out in the order they were taken, and leave the disk only when the log has them. Those that
come at the same time share one fsync. An event that the log refuses for what it is does not hold up those behind it: it
is kept apart, and said so in the process's log. Memory is bounded; disk is bounded (`SpoolFull`).

On failure: while the mesh is away, or does not let the principal write, sending is tried again, ever slower, for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from wardmesh.client.batching import Batcher, BatchLimits, Send
from wardmesh.client.retry import delay
from wardmesh.client.spool_files import SpoolFolder
from wardmesh.errors import BodyTooLarge, InvalidRequest, MalformedJson, UnavailableError, WardmeshError
from wardmesh.ids import EventId

LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between tries, while the mesh is away: soon enough after it is back, and no load on one that is coming back."""
_THE_EVENTS_FAULT: Final = (BodyTooLarge, InvalidRequest, MalformedJson)
_log = logging.getLogger(__name__)


class Spool:
    """Keeps events on disk and drains them. Construct, `start`, `add`, `close`; the folder is its opener's to close."""

    def __init__(
        self,
        files: SpoolFolder,
        send: Send[EventId],
        limits: BatchLimits,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._files = files
        self._send = send
        self._limits = limits
        self._jitter = jitter
        self._writing: Batcher[EventId] = Batcher(self._write, limits)
        self._some = asyncio.Event()
        self._empty = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to drain, also what an earlier process has left."""
        self._draining = asyncio.get_running_loop().create_task(self._drain(), name="audit-spool")

    async def add(self, body: bytes, *, deadline: timedelta | None = None) -> EventId:
        """Return the event's id once it is on disk here."""
        return await self._writing.add(body, deadline=deadline)

    async def close(self, patience_seconds: float) -> None:
        """Take no more; send what there is, for as long as `patience_seconds`. What is left stays on disk."""
        until = asyncio.get_running_loop().time() + patience_seconds
        await self._writing.close(patience_seconds)
        if self._draining is None:
            return
        try:
            async with asyncio.timeout_at(until):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("audit events stay in the spool until it is opened again")
        self._draining.cancel()
        await asyncio.gather(self._draining, return_exceptions=True)

    async def _drain(self) -> None:
        failures = 0
        while True:
            try:
                self._some.clear()
                batch = await asyncio.to_thread(self._files.read, self._limits.items, self._limits.bytes)
                if batch is None:
                    self._empty.set()
                    await self._some.wait()
                    continue
                self._empty.clear()
                await self._deliver(batch.bodies)
                await asyncio.to_thread(self._files.done, batch)
                failures = 0
            except (WardmeshError, OSError) as error:
                what = error.code if isinstance(error, WardmeshError) else type(error).__name__
                if not failures or not isinstance(error, UnavailableError):
                    _log.warning("audit events wait in the spool: %s", what)
                await asyncio.sleep(delay(failures, self._jitter(), longest=LONGEST_PAUSE_SECONDS))
                failures += 1

    async def _write(self, bodies: Sequence[bytes], _deadline: timedelta | None) -> Sequence[EventId]:
        await asyncio.to_thread(self._files.append, bodies)
        self._empty.clear()
        self._some.set()
        return [EventId.parse(json.loads(body)["id"]) for body in bodies]

    async def _deliver(self, bodies: Sequence[bytes]) -> None:
        """Return when every event is in the log, or kept apart because the log does not take it."""
        try:
            await self._send(bodies, None)  # nobody waits for it
        except _THE_EVENTS_FAULT as error:
            if len(bodies) > 1:
                for body in bodies:
                    await self._deliver([body])
                return
            await asyncio.to_thread(self._files.refuse, bodies[0], error.code)
            _log.error("the log does not take an event of the spool, which keeps it: %s", error.code)
