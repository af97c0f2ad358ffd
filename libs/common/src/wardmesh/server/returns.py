"""Answers that carry something: if nobody was there to take one, what it carries is handed back.

A long poll outlives its caller by up to its whole wait: a caller that was killed or cut off sends no word. What the
poll then takes off a stream would be answered to nobody, and come again only when its acknowledgement is overdue; and
the next poll that is left over may take it once more. So such an answer names a reply subject of ours, to which the
broker itself says at once that nobody listened ("no responders").

What always holds: an answer is published once, whoever listens. Only the broker and this service can publish to the
reply subject; whoever receives the answer could not.

On failure: what could not be handed back comes again when its acknowledgement is overdue, as it would without this.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

KEEP_SECONDS: Final = 5.0
"""The broker says so within its own round trip; after this, somebody has listened."""
NO_RESPONDERS: Final = "503"

HandBack = Callable[[], Awaitable[None]]
_log = logging.getLogger(__name__)


class Returns:
    """Sends such answers over one connection."""

    def __init__(self) -> None:
        self._waiting: dict[str, HandBack] = {}
        self._numbers = itertools.count(1)
        self._prefix = ""
        self._subscription: Any = None

    async def start(self, client: Client) -> None:
        """Begin to hear which answers were not taken."""
        self._prefix = client.new_inbox()
        self._subscription = await client.subscribe(f"{self._prefix}.*", cb=self._unheard)

    def expect(self, hand_back: HandBack) -> str:
        """Return the reply subject to publish an answer with; `hand_back` is called if nobody took it."""
        reply = f"{self._prefix}.{next(self._numbers)}"
        self._waiting[reply] = hand_back
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self._waiting.pop, reply, None)
        return reply

    async def _unheard(self, message: Msg) -> None:
        hand_back = self._waiting.pop(message.subject, None)
        if hand_back is None or (message.headers or {}).get("Status") != NO_RESPONDERS:
            return
        _log.info("an answer was not taken, what it carried is handed back")
        try:
            await hand_back()
        except (nats.errors.Error, OSError) as error:
            _log.warning("it could not be handed back and comes again later: %s", type(error).__name__)
