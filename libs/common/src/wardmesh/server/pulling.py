"""FastStream's pull subscribers, made prompt, and kept from losing what they have pulled.

    pulled = await pulling.start(broker, lost=…)        # instead of `await broker.start()`
    …
    await pulled.stop()                                 # instead of `await broker.stop()`

FastStream 0.7.8 collects a batch by fetching again and again until it is full or its time is over; it expects
`nats.errors.TimeoutError` at the end. nats-py 2.16 raises the builtin `TimeoutError`, which is another class, if the
time is over between two of its steps. Then the collecting task dies, and with it what it had pulled: those messages
come again when their acknowledgement is overdue (docs/adr/0009 has how often). When it is stopped, it forgets what it
has pulled and not begun, and so does nats-py: that too comes again only when its acknowledgement is overdue. So it is
where messages are taken one by one (`PullSub` without `batch`), a whole pull of them.

What always holds after `start`:
- A batch is handed on as soon as there is something, with whatever else is there; it never waits to be full. While one
  is worked on the next gathers at the broker, so batches grow with the load, up to `BATCH_BYTES`: a pull counts
  messages, so it asks for as many as fit if none is larger than the largest of the last batch. One by one, those of a
  pull are begun together, the next pull is made when all are done, and a lone one does not wait for others at all.
- What was pulled is handed on, or, once it is stopped, given back at once: another process has it in milliseconds.
  Nothing is given back that was handed on, which is whoever has it to settle.
- A consumer that does not answer for `LOST_SECONDS` (somebody deleted it, or its stream was restored) is reported to
  `lost`, which should end the process: at the next start it is made anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NoReturn, TypeAlias

import nats.errors
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases import (
    BatchPullStreamSubscriber,
    ConcurrentPullStreamSubscriber,
    PullStreamSubscriber,
)
from nats.aio.msg import Msg
from nats.js import JetStreamContext

BATCH_BYTES: Final = 16 * 1024 * 1024
"""More gain little, and are what one reader has to itself while the others find nothing left."""
LARGEST_BYTES: Final = 1024 * 1024
"""Of a message: what is expected before the first is seen (the broker's `max_payload`)."""
REST_SECONDS: Final = 0.002
"""What comes later is kept by nats-py, and is the first of the next batch."""
FAILED_PAUSE_SECONDS: Final = 0.5
LOST_SECONDS: Final = 15.0
"""Longer than a cluster takes to find a new leader."""
PULL_SECONDS: Final = 0.5
"""One pull waits so long, and then another is made; so the end does not wait longer either."""
SETTLE_SECONDS: Final = 0.2
"""After the last pull: what the broker had begun to send comes within a few milliseconds."""
END_SECONDS: Final = 5.0
"""For all of it; a broker that does not answer must not hold up the end."""
_PULLING: Final = (BatchPullStreamSubscriber, PullStreamSubscriber)
Finish: TypeAlias = "Callable[[], Awaitable[None]]"
_log = logging.getLogger(__name__)


async def start(broker: NatsBroker, *, lost: Callable[[], None]) -> Pulling:
    """Start `broker`; what its pull subscribers fetch is handed on from now on as described above.

    They MUST NOT have `max_workers`: FastStream keeps a queue for those, and forgets it when it is stopped.
    """
    if any(isinstance(subscriber, ConcurrentPullStreamSubscriber) for subscriber in broker.subscribers):
        raise ValueError("what waits for one of max_workers could not be given back; let a pull bring fewer instead")
    await broker.start()
    fetches: list[PromptFetch] = []
    for subscriber in broker.subscribers:
        if isinstance(subscriber, _PULLING):
            subscription = subscriber.subscription
            if subscription is not None:
                pull = subscriber.pull_sub
                prompt = PromptFetch(subscription, pull.batch_size, lost, gather=pull.batch)
                subscription.fetch = prompt.fetch  # type: ignore[method-assign]  # FastStream offers no seam
                fetches.append(prompt)
    return Pulling(broker, fetches)


class Pulling:
    """A broker that was started."""

    def __init__(self, broker: NatsBroker, fetches: Sequence[PromptFetch]) -> None:
        self._broker = broker
        self._fetches = fetches

    async def stop(self, finish: Finish | None = None) -> None:
        """Pull no more, give back what was pulled and is not begun, and finish the batch in hand.

        Where the handler returns before it is done with a batch, `finish` waits for what it is at. A connection that is
        closed already is no error here: whoever was told of it ends the process.
        """
        for fetch in self._fetches:
            await fetch.end()
        if finish is not None:
            await finish()
        try:
            await self._broker.stop()
        except* nats.errors.ConnectionClosedError:
            _log.warning("the connection was closed before its end; what is not acknowledged comes again")
            for subscriber in self._broker.subscribers:
                if isinstance(subscriber, _PULLING):
                    for task in subscriber.tasks:  # FastStream cancels them, unless it could not unsubscribe before
                        task.cancel()


class PromptFetch:
    """Stands in for the `fetch` of one subscription."""

    def __init__(
        self,
        subscription: JetStreamContext.PullSubscription,
        full_batch: int,
        lost: Callable[[], None],
        *,
        gather: bool = True,
    ) -> None:
        self._subscription = subscription
        self._fetch = subscription.fetch
        self._full_batch = full_batch
        self._lost = lost
        self._gather = gather
        """Wait `REST_SECONDS` for company also where the broker has none yet: a batch is cheaper than two."""
        self._failing_since: float | None = None
        self._fit = BATCH_BYTES // LARGEST_BYTES
        self._ending = asyncio.Event()
        self._idle = asyncio.Event()
        """Nothing is on its way from nats-py to whoever asked."""
        self._idle.set()

    async def fetch(self, batch: int = 1, timeout: float | None = 5, heartbeat: float | None = None) -> list[Msg]:
        """Return what there is as soon as there is something; raise `nats.errors.TimeoutError` if nothing came."""
        if self._ending.is_set():
            await _until_cancelled()
        if batch < self._full_batch:  # the rest of a batch that has something already
            raise nats.errors.TimeoutError
        self._idle.clear()
        try:
            messages = await self._pulled(batch, timeout, heartbeat)
            if self._ending.is_set():
                await _give_back(messages)
        finally:
            self._idle.set()
        if self._ending.is_set():
            await _until_cancelled()
        return messages

    async def end(self) -> None:
        """Pull no more, and give back what was pulled and has not been handed on.

        The last pull is waited for: of one whose inbox is gone, the broker learns when it has answered.
        """
        self._ending.set()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._idle.wait()
                inbox = self._subscription._sub
                # A busy machine may be slow to send, and to read: what the broker says before its answer has come too.
                await inbox._conn.flush()
                await asyncio.sleep(SETTLE_SECONDS)
                await inbox._conn.flush()
                while self._subscription.pending_msgs:
                    await _give_back([await inbox.next_msg()])
        except (nats.errors.Error, OSError, TimeoutError) as error:
            _log.warning("what was pulled could not be given back, it comes again: %s", type(error).__name__)

    async def _pulled(self, batch: int, timeout: float | None, heartbeat: float | None) -> list[Msg]:
        try:
            messages = await self._fetch(1, min(timeout or PULL_SECONDS, PULL_SECONDS), heartbeat)
            if not self._ending.is_set() and (self._gather or self._has_more(messages[0])):
                messages += await self._rest(min(batch, self._fit) - 1)
        except TimeoutError:
            self._failing_since = None
            raise nats.errors.TimeoutError from None
        except nats.errors.ConnectionClosedError:
            await asyncio.sleep(FAILED_PAUSE_SECONDS)  # FastStream would ask again at once, for ever
            raise
        except nats.errors.Error as error:
            await self._failed(error)
            raise nats.errors.TimeoutError from None
        self._failing_since = None
        self._fit = max(1, BATCH_BYTES // max(1, *(len(message.data) for message in messages)))
        return messages

    def _has_more(self, first: Msg) -> bool:
        return self._subscription.pending_msgs > 0 or first.metadata.num_pending > 0

    async def _rest(self, most: int) -> list[Msg]:
        """Return what else is there.

        Asked for at once with the first, nats-py sometimes waits for all of it: the broker's word that a pull is over
        may be taken for the answer to the next one, and then everything that comes is kept until the time is over.
        """
        if most < 1:
            return []
        try:
            return await self._fetch(most, REST_SECONDS, None)
        except (nats.errors.Error, TimeoutError):
            return []  # what ails the consumer, the next fetch will say

    async def _failed(self, error: nats.errors.Error) -> None:
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
            _log.warning("a consumer does not answer: %s", type(error).__name__)
        elif now - self._failing_since > LOST_SECONDS:
            _log.error("a consumer has not answered for %s s: %s", LOST_SECONDS, type(error).__name__)
            self._failing_since = None
            self._lost()
        await asyncio.sleep(FAILED_PAUSE_SECONDS)


async def _until_cancelled() -> NoReturn:
    """FastStream would ask again at once; it cancels whoever asks when it is stopped."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def _give_back(messages: Iterable[Msg]) -> None:
    for message in messages:
        if message.reply:  # else it is the broker's word about a pull
            await message.nak()
