"""FastStream's pull subscribers, made prompt, and kept from losing what they have pulled.

    await pulling.start(broker, lost=…)        # instead of `await broker.start()`

FastStream 0.7.8 collects a batch by fetching again and again until it is full or its time is over; it expects
`nats.errors.TimeoutError` at the end. nats-py 2.16 raises the builtin `TimeoutError`, which is another class, if the
time is over between two of its steps. Then the collecting task dies, and with it what it had pulled: those messages
come again when their acknowledgement is overdue (docs/adr/0009 has how often).

What always holds after `start`:
- A batch is handed on as soon as there is something, with whatever else is there; it never waits to be full. While one
  is worked on the next gathers at the broker, so batches grow with the load, up to `BATCH_BYTES`: a pull counts
  messages, so it asks for as many as fit if none is larger than the largest of the last batch.
- What was pulled is handed on.
- A consumer that does not answer for `LOST_SECONDS` (somebody deleted it, or its stream was restored) is reported to
  `lost`, which should end the process: at the next start it is made anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import nats.errors
from faststream.nats import NatsBroker
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber, PullStreamSubscriber
from nats.aio.msg import Msg
from nats.js import JetStreamContext

BATCH_BYTES: Final = 32 * 1024 * 1024
LARGEST_BYTES: Final = 1024 * 1024
"""Of a message: what is expected before the first is seen (the broker's `max_payload`)."""
REST_SECONDS: Final = 0.002
"""What comes later is kept by nats-py, and is the first of the next batch."""
FAILED_PAUSE_SECONDS: Final = 0.5
LOST_SECONDS: Final = 15.0
"""Longer than a cluster takes to find a new leader."""
_log = logging.getLogger(__name__)


async def start(broker: NatsBroker, *, lost: Callable[[], None]) -> None:
    """Start `broker`; what its pull subscribers fetch is handed on from now on as described above."""
    await broker.start()
    for subscriber in broker.subscribers:
        if isinstance(subscriber, BatchPullStreamSubscriber | PullStreamSubscriber):
            subscription = subscriber.subscription
            if subscription is not None:
                full = subscriber.pull_sub.batch_size
                subscription.fetch = PromptFetch(subscription, full, lost).fetch  # type: ignore[method-assign]  # FastStream offers no seam


class PromptFetch:
    """Stands in for the `fetch` of one subscription."""

    def __init__(
        self, subscription: JetStreamContext.PullSubscription, full_batch: int, lost: Callable[[], None]
    ) -> None:
        self._fetch = subscription.fetch
        self._full_batch = full_batch
        self._lost = lost
        self._failing_since: float | None = None
        self._fit = BATCH_BYTES // LARGEST_BYTES

    async def fetch(self, batch: int = 1, timeout: float | None = 5, heartbeat: float | None = None) -> list[Msg]:
        """Return what there is as soon as there is something; raise `nats.errors.TimeoutError` if nothing came."""
        if batch < self._full_batch:  # the rest of a batch that has something already
            raise nats.errors.TimeoutError
        try:
            messages = await self._fetch(1, timeout, heartbeat)
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
