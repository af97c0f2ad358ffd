"""Work that is under way at once: so much and no more, each piece counted by its weight.

    under_way = UnderWay(pieces=6, weight=2_048)
    await under_way.begin(40, seal, scope, part)     # waits for room
    await under_way.settled()

What always holds: no more than `pieces` are under way, and no more than `weight` together, but one alone may weigh
more. Whoever begins the next waits for room, so what waits is the caller's to bound.

On failure: what a piece raises is a defect, and logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


class UnderWay:
    """Pieces of work, each a task."""

    def __init__(self, *, pieces: int, weight: int) -> None:
        self._pieces = pieces
        self._weight = weight
        self._weighs: dict[asyncio.Task[None], int] = {}
        self._ended = asyncio.Event()

    async def begin(
        self, weight: int, work: Callable[_P, Coroutine[Any, Any, None]], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Task[None]:
        """Begin `work` as soon as there is room for it, and return its task."""
        while not self._has_room_for(weight):
            self._ended.clear()
            await self._ended.wait()
        task = asyncio.create_task(work(*args, **kwargs))
        self._weighs[task] = weight
        task.add_done_callback(self._end)
        return task

    async def settled(self) -> None:
        """Return when nothing is under way any more."""
        while self._weighs:
            await asyncio.wait(self._weighs)

    def _has_room_for(self, weight: int) -> bool:
        under_way = len(self._weighs)
        return under_way == 0 or (under_way < self._pieces and sum(self._weighs.values()) + weight <= self._weight)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._weighs[task]
        self._ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a defect", exc_info=error)
