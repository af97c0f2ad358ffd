"""The access token at hand: got once for all callers, renewed before it expires.

What always holds: one renewal at a time, whoever asks; the others wait for its result, and it goes on if they give
up: a refresh token that was sent is spent. A token is used until it expires even if its renewal fails, so that an
outage of the auth service shorter than a fifth of its life goes unnoticed.

On failure: what the credential's `obtain` raised.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from wardmesh.client.credentials import Credential, Exchange, Grant
from wardmesh.client.retry import delay
from wardmesh.errors import TokenExpired, UnavailableError, WardmeshError

_log = logging.getLogger(__name__)


class Grants:
    """Hands out the present grant. `keep_fresh` runs in the background."""

    def __init__(self, credential: Credential, *, jitter: Callable[[], float] = random.random) -> None:
        self._credential = credential
        self._jitter = jitter
        self._grant: Grant | None = None
        self._renewal: asyncio.Task[Grant] | None = None

    @property
    def current(self) -> Grant | None:
        """The grant, unless it has expired."""
        grant = self._grant
        return grant if grant is not None and time.monotonic() < grant.expires_at else None

    async def renewed(self, exchange: Exchange, *, stale: Grant | None) -> Grant:
        """Return a grant other than `stale`, getting one if nobody else has."""
        current = self.current
        if current is not None and current is not stale:
            return current
        if self._grant is not None and not self._credential.renewable:
            raise TokenExpired("The access token has expired, and there is nothing to get another one with.")
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.get_running_loop().create_task(self._renew(exchange))
            self._renewal.add_done_callback(_look_at)
        return await asyncio.shield(self._renewal)

    async def close(self) -> None:
        """Give up a renewal that is under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait((self._renewal,))

    async def _renew(self, exchange: Exchange) -> Grant:
        self._grant = await self._credential.obtain(exchange)
        return self._grant

    async def keep_fresh(self, exchange: Exchange, on_renewed: Callable[[], None]) -> None:
        """Renew each grant after most of its life, for ever; tell `on_renewed` of each, whoever had it renewed."""
        attempt = 0
        known = self._grant
        while self._credential.renewable:
            grant = self._grant
            if grant is not known:
                # Told whoever got it: a call that needed one may have been quicker than we in an outage.
                known = grant
                on_renewed()
            if grant is not None and (left := grant.renew_at - time.monotonic()) > 0:
                await asyncio.sleep(left)
                continue
            try:
                await self.renewed(exchange, stale=grant)
            except UnavailableError as error:
                _log.info("the access token could not be renewed yet: %s", error.code)
                await asyncio.sleep(delay(attempt, self._jitter()))
                attempt += 1
            except WardmeshError as error:
                # Refused: calls that need a token will say so to whoever makes them.
                _log.warning("the access token will not be renewed: %s", error.code)
                return
            else:
                attempt = 0


def _look_at(renewal: asyncio.Task[Grant]) -> None:
    """Its failure is told to whoever waited; if nobody does any more, asyncio need not complain."""
    if not renewal.cancelled():
        renewal.exception()
