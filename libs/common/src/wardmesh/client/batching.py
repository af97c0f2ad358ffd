"""Natural batching: while one call is under way the next callers share one, and so one fsync at the other end.

What always holds: `add` returns only after the call that carried its item was answered. One item's fault does not
refuse the others: a batch that is refused as wrong is sent again one by one. Items go out in the order they came in.
The queue is bounded; who finds it full waits. A call may take as long as the most patient of its items.

On failure: `add` raises what the call ended in, or `DeadlineExceeded`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from wardmesh.contracts.operation import DEFAULT_DEADLINE, MAX_DEADLINE
from wardmesh.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InternalError,
    RequestError,
    ServiceUnavailable,
    WardmeshError,
)

IdT = TypeVar("IdT", bound=str)

MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
"""What waits in memory at most. Sixteen full audit batches: seconds of a fast disk, a nuisance in a crash."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one call may carry."""

    items: int
    bytes: int


class _Item(NamedTuple, Generic[IdT]):
    body: bytes
    done: asyncio.Future[IdT]
    until: float | None
    """On the event loop's clock; None if its caller named no deadline."""


Send: TypeAlias = Callable[[Sequence[bytes], timedelta | None], Awaitable[Sequence[IdT]]]
"""Sends items within a deadline, or the operation's own, and returns an id for each."""


class Batcher(Generic[IdT]):
    """Collects items, as JSON, into calls of `send`."""

    def __init__(self, send: Send[IdT], limits: BatchLimits) -> None:
        self._send = send
        self._limits = limits
        self._queue: deque[_Item[IdT]] = deque()
        self._queued_bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    async def add(self, body: bytes, *, deadline: timedelta | None = None) -> IdT:
        """Return the item's id once it is durable."""
        loop = asyncio.get_running_loop()
        until = None if deadline is None else loop.time() + deadline.total_seconds()
        try:
            async with asyncio.timeout((deadline or MAX_DEADLINE).total_seconds()):
                while self._queued_bytes >= MAX_QUEUED_BYTES:
                    turn: asyncio.Future[None] = loop.create_future()
                    self._room.append(turn)
                    await turn
                if self._closed:
                    raise ServiceUnavailable("This mesh is closed; connect again.")
                item: _Item[IdT] = _Item(body, loop.create_future(), until)
                self._queue.append(item)
                self._queued_bytes += len(body)
                if self._sending is None or self._sending.done():
                    self._sending = loop.create_task(self._send_all())
                return await item.done
        except TimeoutError as error:
            raise DeadlineExceeded from error

    async def close(self, patience_seconds: float) -> None:
        """Take no more; send what is queued, for as long as `patience_seconds`. What is left then fails."""
        self._closed = True
        if self._sending is not None:
            await asyncio.wait((self._sending,), timeout=patience_seconds)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        for item in self._queue:
            _fail(item, ServiceUnavailable("The mesh was closed before this was sent."))
        self._queue.clear()
        self._let_in()

    async def _send_all(self) -> None:
        while self._queue:
            batch = self._take()
            if batch:
                try:
                    await self._deliver(batch)
                finally:
                    for item in batch:
                        _fail(item, ConnectionLost("The mesh was closed before this was answered."))

    def _take(self) -> list[_Item[IdT]]:
        batch: list[_Item[IdT]] = []
        size = 0
        while self._queue and len(batch) < self._limits.items:
            item = self._queue[0]
            if batch and size + len(item.body) + 1 > self._limits.bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= len(item.body)
            if not item.done.done():  # its caller is still there
                batch.append(item)
                size += len(item.body) + 1
        self._let_in()
        return batch

    async def _deliver(self, batch: list[_Item[IdT]]) -> None:
        try:
            ids = await self._send([item.body for item in batch], _patience(batch))
            if len(ids) != len(batch):
                raise InternalError("The answer has another number of ids than the request had items.")
            for item, item_id in zip(batch, ids, strict=True):
                if not item.done.done():
                    item.done.set_result(item_id)
        except RequestError as error:
            if len(batch) == 1:
                return _fail(batch[0], error)
            for item in batch:
                await self._deliver([item])
        except WardmeshError as error:
            for item in batch:
                _fail(item, error)

    def _let_in(self) -> None:
        while self._room and (self._closed or self._queued_bytes < MAX_QUEUED_BYTES):
            turn = self._room.popleft()
            if not turn.done():
                turn.set_result(None)
                if not self._closed:
                    break


def _patience(batch: Sequence[_Item[IdT]]) -> timedelta | None:
    """Return how long the most patient item of a batch waits, or None if that is the operation's own deadline."""
    now = asyncio.get_running_loop().time()
    own = now + DEFAULT_DEADLINE.total_seconds()
    untils = [item.until for item in batch]
    if all(until is None for until in untils):
        return None
    return timedelta(seconds=max(own if until is None else until for until in untils) - now)


def _fail(item: _Item[IdT], error: Exception) -> None:
    if not item.done.done():
        item.done.set_exception(error)
