"""Wakes tails when a log grows: one subscription for each scope that somebody in this process follows.

What always holds: when `listen` has been entered, the broker knows of the subscription, so that whoever looks at the
log after that misses nothing: it either sees an entry or is woken. News that get lost all the same (the broker was
away) cost `MAX_SILENCE_SECONDS`, because nobody waits longer than that without looking again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from wardmesh.ids import Scope
from wardmesh.round_trip import heard
from wardmesh.subjects import SealedSubject

MAX_SILENCE_SECONDS: Final = 2.0
FLUSH_SECONDS: Final = 2
_log = logging.getLogger(__name__)


class WakeupListener:
    """One tail that waits."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return when something was sealed since the last call, or after `seconds`, or after `MAX_SILENCE_SECONDS`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, MAX_SILENCE_SECONDS)):
                await self._event.wait()
        self._event.clear()


@dataclass
class _Following:
    """The tails of one scope, and the subscription that they share."""

    listeners: set[WakeupListener] = field(default_factory=set)
    subscription: asyncio.Task[Subscription | None] | None = None


class NatsWakeups:
    """The port `Wakeups` on a core NATS connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._following: dict[Scope, _Following] = {}

    @asynccontextmanager
    async def listen(self, scope: Scope) -> AsyncIterator[WakeupListener]:
        """Hear of what is sealed in `scope` from now on."""
        listener = WakeupListener()
        following = self._following.setdefault(scope, _Following())
        following.listeners.add(listener)
        if following.subscription is None:
            following.subscription = asyncio.create_task(self._subscribe(scope, following))
        try:
            await asyncio.shield(following.subscription)
            yield listener
        finally:
            following.listeners.discard(listener)
            if not following.listeners and self._following.get(scope) is following:
                del self._following[scope]
                await self._unsubscribe(following.subscription)

    async def _subscribe(self, scope: Scope, following: _Following) -> Subscription | None:
        async def wake(_message: Msg) -> None:
            for listener in following.listeners:
                listener.wake()

        try:
            subscription = await self._client.subscribe(SealedSubject(scope).format(), cb=wake)
            await heard(self._client, seconds=FLUSH_SECONDS)
        except (nats.errors.Error, TimeoutError) as error:
            _log.warning("no news of sealed entries, looking every %s s: %s", MAX_SILENCE_SECONDS, type(error).__name__)
            return None
        return subscription

    async def _unsubscribe(self, subscribing: asyncio.Task[Subscription | None]) -> None:
        with suppress(nats.errors.Error):
            subscription = await subscribing
            if subscription is not None:
                await subscription.unsubscribe()
