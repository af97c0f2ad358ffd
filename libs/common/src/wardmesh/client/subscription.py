"""Endless reading by long polls: `async for`, with acknowledgements that ride on the next fetch.

    async for event in mesh.events.subscribe("stripe.invoice.*", group="billing"):
        async with event:              # acknowledged if the block succeeds, handed back if it raises
            await book(event.data)

What always holds:
- At least once. A delivery is acknowledged only after its block succeeded, and never before. What was not settled when
  its reader went away is delivered again.
- No more than twice `prefetch` deliveries are out at once, handed out or not; a reader that is slow fetches slowly.
- An acknowledgement leaves with the next fetch, or after `ACK_DELAY_SECONDS` if that is still polling.
- When reading ends, for whatever reason, acknowledgements are sent and what was not handed out is handed back.

On failure: what may pass (`UnavailableError`) is waited for, for ever; anything else is raised where the loop waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from wardmesh.client.retry import delay
from wardmesh.contracts.fields import POLL_DEADLINE, POLL_SECONDS
from wardmesh.errors import UnavailableError, WardmeshError

ACK_DELAY_SECONDS: Final = 0.5
"""Far less than what a consumer waits before it delivers again."""
MAX_ACKS: Final = 256
"""Acknowledgements of one fetch: their numbers fit its body."""
FLUSH_DEADLINE: Final = timedelta(seconds=5)
DEFAULT_PREFETCH: Final = 64

_log = logging.getLogger(__name__)


class Delivered(Protocol):
    """What every delivery is known by."""

    @property
    def ack(self) -> str: ...


class Settle(Protocol):
    """How a delivery tells its subscription what became of it."""

    def __call__(self, token: str, *, succeeded: bool) -> None: ...


class Delivery:
    """One thing received. Settle it once: by `async with`, or by `ack` or `nak`."""

    def __init__(self, token: str, settle: Settle) -> None:
        self._token = token
        self._settle: Settle | None = settle

    def ack(self) -> None:
        """It is done; do not deliver it again."""
        self._finish(succeeded=True)

    def nak(self) -> None:
        """It is not done; deliver it again."""
        self._finish(succeeded=False)

    def _finish(self, *, succeeded: bool) -> None:
        if self._settle is not None:
            settle, self._settle = self._settle, None
            settle(self._token, succeeded=succeeded)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(succeeded=kind is None)

    def __del__(self) -> None:
        # Dropped unsettled: it counts as not done. Otherwise its place among those that are out is lost for ever.
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the subscription with it
            self._finish(succeeded=False)


DeliveredT = TypeVar("DeliveredT", bound=Delivered)
FetchedT = TypeVar("FetchedT", bound=Delivered, covariant=True)
DeliveryT = TypeVar("DeliveryT", bound=Delivery)


class Fetch(Protocol[FetchedT]):
    """One long poll. A batch of 0 acknowledges only."""

    async def __call__(
        self, *, batch: int, wait_seconds: float, acks: tuple[str, ...], naks: tuple[str, ...], deadline: timedelta
    ) -> Sequence[FetchedT]: ...


class Subscription(Generic[DeliveredT, DeliveryT]):
    """Reads what one group is sent. Iterate it once; leave the loop, or `async with`, to end it.

    `admit` makes a delivery of what came, or returns None for what must not be handed out: that is handed back.
    """

    def __init__(
        self,
        fetch: Fetch[DeliveredT],
        admit: Callable[[DeliveredT, Settle], Awaitable[DeliveryT | None]],
        *,
        prefetch: int = DEFAULT_PREFETCH,
        jitter: Callable[[], float] = random.random,
        on_open: Callable[[Subscription[Any, Any]], None] | None = None,
    ) -> None:
        self._fetch = fetch
        self._admit = admit
        self._prefetch = prefetch
        self._jitter = jitter
        self._on_open = on_open
        self._ready: deque[DeliveredT] = deque()
        self._out = 0
        self._acks: deque[str] = deque()
        self._naks: deque[str] = deque()
        self._changed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._failure: WardmeshError | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[DeliveryT]:
        return self._read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop fetching, acknowledge what was done, hand back what was not handed out."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._arrived.set()
        for task in (self._fetching, self._flushing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._naks.extend(delivered.ack for delivered in self._ready)
        self._ready.clear()
        await self._flush()

    async def _read(self) -> AsyncGenerator[DeliveryT, None]:
        if self._fetching is not None or self._closed.is_set():
            raise RuntimeError("a subscription is read once; subscribe again")
        self._fetching = asyncio.get_running_loop().create_task(self._keep_fetching())
        if self._on_open is not None:
            self._on_open(self)
        try:
            while True:
                while not self._ready:
                    if self._failure is not None:
                        raise self._failure
                    if self._closed.is_set():
                        return
                    self._arrived.clear()
                    await self._arrived.wait()
                delivered = self._ready.popleft()
                delivery = await self._admit(delivered, self._settle)
                if delivery is None:
                    self._settle(delivered.ack, succeeded=False)
                    await asyncio.sleep(ACK_DELAY_SECONDS)  # it will come back; do not spin on it
                    continue
                yield delivery
                del delivery
        finally:
            await self.close()

    async def _keep_fetching(self) -> None:
        failures = 0
        while True:
            while self._out > self._prefetch and not self._closed.is_set():
                await self._wait_for_change()
            acks, naks = self._take_settled()
            try:
                arrived = await self._fetch(
                    batch=self._prefetch, wait_seconds=POLL_SECONDS, acks=acks, naks=naks, deadline=POLL_DEADLINE
                )
            except UnavailableError as error:
                self._put_back(acks, naks)  # settling twice amounts to settling once
                _log.info("fetching is interrupted: %s", error.code)
                await asyncio.sleep(delay(failures, self._jitter()))
                failures += 1
            except WardmeshError as error:
                self._put_back(acks, naks)
                self._failure = error
                self._arrived.set()
                return
            except asyncio.CancelledError:
                self._put_back(acks, naks)
                raise
            else:
                failures = 0
                self._ready.extend(arrived)
                self._out += len(arrived)
                self._arrived.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _settle(self, token: str, *, succeeded: bool) -> None:
        (self._acks if succeeded else self._naks).append(token)
        self._out -= 1
        self._changed.set()
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        if not self._closed.is_set():
            await asyncio.sleep(ACK_DELAY_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        while self._acks or self._naks:
            acks, naks = self._take_settled()
            try:
                await self._fetch(batch=0, wait_seconds=0.0, acks=acks, naks=naks, deadline=FLUSH_DEADLINE)
            except asyncio.CancelledError:
                self._put_back(acks, naks)
                raise
            except WardmeshError as error:
                # What is not acknowledged is delivered again: late, not lost.
                _log.warning("%d acknowledgements could not be sent: %s", len(acks), error.code)
                if not self._closed.is_set():
                    self._put_back(acks, naks)
                return

    def _take_settled(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        acks = tuple(self._acks.popleft() for _ in range(min(len(self._acks), MAX_ACKS)))
        naks = tuple(self._naks.popleft() for _ in range(min(len(self._naks), MAX_ACKS)))
        return acks, naks

    def _put_back(self, acks: tuple[str, ...], naks: tuple[str, ...]) -> None:
        self._acks.extendleft(reversed(acks))
        self._naks.extendleft(reversed(naks))
