"""Following the log: `async for entry in mesh.audit.tail(...)`.

    async with mesh.audit.tail(category=Category.AUTHENTICATION, resume="siem") as entries:
        async for entry in entries:
            ...

What always holds: no entry is missed or repeated, through any disconnection: every poll says by index where it goes
on. An entry counts as read when the next one is asked for, or the block ends without an error. With a name (`resume`),
the place is saved every `SAVE_SECONDS` and at the end of the block; after a crash, what was read since comes again.

On failure: what may pass (`UnavailableError`) is waited for, for ever; anything else is raised where the loop waits,
and the tail can be asked again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from wardmesh.client.caller import Caller
from wardmesh.client.retry import delay
from wardmesh.contracts import audit
from wardmesh.contracts.fields import POLL_DEADLINE, POLL_SECONDS
from wardmesh.contracts.operation import Contract, Empty, Message
from wardmesh.errors import UnavailableError

SAVE_SECONDS: Final = 5.0
"""Seldom enough to cost nothing beside reading, often enough that little is read twice."""
SAVE_DEADLINE: Final = timedelta(seconds=5)
ResponseT = TypeVar("ResponseT", bound=Message)


class LogTail:
    """An endless iterator of a log's entries, oldest first."""

    def __init__(self, caller: Caller, request: audit.Tail, *, resume: str | None = None) -> None:
        self._caller = caller
        self._request = request
        self._resume = resume
        self._loaded = resume is None
        self._ready: deque[audit.Entry] = deque()
        self._handed: int | None = None
        self._next: int | None = request.start
        """Where the next poll goes on."""
        self._saved: int | None = None
        self._saved_at = 0.0

    @property
    def position(self) -> int | None:
        """The index of the first entry that does not count as read; None before the log has been asked."""
        if self._handed is not None:
            return self._handed
        return self._ready[0].index if self._ready else self._next

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> audit.Entry:
        self._handed = None
        if not self._loaded:
            await self._load()
        while not self._ready:
            await self._save_now_and_then()
            await self._poll()
        entry = self._ready.popleft()
        self._handed = entry.index
        return entry

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._handed = None
        await self._save()

    async def _poll(self) -> None:
        # Where "now" is must be known before the first wait: a wait that is cut off would lose it.
        wait_seconds = 0.0 if self._next is None else POLL_SECONDS
        request = self._request.model_copy(update={"start": self._next, "wait_seconds": wait_seconds})
        page = await self._ask(audit.TAIL, request)
        floor = 0 if self._next is None else self._next
        self._ready.extend(entry for entry in page.entries if entry.index >= floor)
        self._next = max(floor, page.next_start)

    async def _load(self) -> None:
        """Find out how far somebody got who gave the same name."""
        for position in (await self._ask(audit.LIST_POSITIONS, Empty())).positions:
            if position.name == self._resume:
                self._saved = position.next_start
                self._next = max(position.next_start, self._request.start or 0)
        self._loaded = True

    async def _ask(self, contract: Contract[..., Any, ResponseT], request: Message) -> ResponseT:
        """Ask until there is an answer: a reader of a log has no deadline."""
        failures = 0
        while True:
            try:
                return (await self._caller.call(contract, request, deadline=POLL_DEADLINE)).response
            except UnavailableError:
                await asyncio.sleep(delay(failures, random.random()))  # noqa: S311 - jitter
                failures += 1

    async def _save_now_and_then(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._saved_at >= SAVE_SECONDS:
            self._saved_at = now
            await self._save()

    async def _save(self) -> None:
        position = self.position
        if self._resume is None or not self._loaded or position is None or position == self._saved:
            return
        request = audit.SavePosition(name=self._resume, next_start=position)
        try:
            await self._caller.call(audit.SAVE_POSITION, request, deadline=SAVE_DEADLINE)
        except UnavailableError:
            return  # the next time; until then, what was read since the last one would come again
        self._saved = position
