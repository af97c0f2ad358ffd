"""A link to the broker, always: opened again when it ends, replaced before its credential expires.

What always holds: at most one link is current, and requests go to it alone. A replaced link stays until the answers
that are under way on it have arrived, so replacing loses nothing; what is to replace it is tried for as long as it
stands. While there is none, callers wait up to their deadline.

On failure: `CredentialRefused` once the broker has refused the credential promptly, several times in a row;
`ServiceUnavailable` when the wait is over, or at once if the broker can't be trusted. Both say that nothing was carried
out. Opening goes on meanwhile, ever slower, so that a client outlives an outage of any length.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from wardmesh import tls
from wardmesh.client.link import Dialling, Link, LinkRefused, LinkUnreachable, LinkUntrusted
from wardmesh.client.retry import delay
from wardmesh.errors import CredentialRefused, ServiceUnavailable

REFUSALS_BELIEVED: Final = 3
"""One refusal may be a service that is just starting; this many in a row are an answer."""
LONGEST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_REFUSED_SECONDS: Final = 30.0
"""A revoked key that keeps knocking costs the auth service work."""
RETIRE_SECONDS: Final = 30.0
"""No call takes longer than this (`MAX_DEADLINE`), so no answer comes later."""


class Connection:
    """Keeps a link at hand. `start` begins; `close` ends it."""

    def __init__(self, dialling: Dialling, *, jitter: Callable[[], float] = random.random) -> None:
        self._dialling = dialling
        self._jitter = jitter
        self._current: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None
        self._refusal: CredentialRefused | None = None
        self._distrust: str | None = None
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> Link | None:
        """The link, if there is one now."""
        link = self._current
        return link if link is not None and link.is_open else None

    @property
    def is_closed(self) -> bool:
        return self._closed

    def start(self) -> None:
        """Begin to open a link."""
        self._open_again()

    async def link(self, until: float) -> Link:
        """Return a link, waiting for one until `until` on the event loop's clock."""
        loop = asyncio.get_running_loop()
        while True:
            if self._closed:
                raise ServiceUnavailable("This mesh is closed; connect again.")
            if (link := self.current) is not None:
                return link
            if self._refusal is not None:
                raise CredentialRefused from self._refusal
            if self._distrust is not None:
                raise ServiceUnavailable(self._distrust)
            self._raise_defect()
            if self._changed is None or self._changed.done():
                self._changed = loop.create_future()
            left = until - loop.time()
            if left <= 0:
                where = ", ".join(_shown(self._dialling.servers))
                in_tls, advice = (" in TLS", tls.PLAIN_ADVICE) if self._dialling.tls_required else ("", tls.TLS_ADVICE)
                raise ServiceUnavailable(f"No broker answers at {where}{in_tls}. {advice}")
            await asyncio.wait((self._changed,), timeout=left)

    def renew(self) -> None:
        """Begin to replace the link by one with the present credential. The old one goes when nothing waits on it."""
        if self._renewing is None or self._renewing.done():
            self._renewing = self._spawn(self._keep_renewing())

    async def close(self) -> None:
        """Close every link. Requests that still wait end in `ConnectionLost`."""
        self._closed = True
        self._wake()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._current is not None:
            await self._current.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _open_again(self) -> None:
        if not self._closed and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self._keep_opening())
            self._opening.add_done_callback(lambda _: self._wake())

    def _raise_defect(self) -> None:
        """Raise what opening ended in, if it was neither a refusal nor an outage: waiting would not help."""
        opening = self._opening
        if opening is not None and opening.done() and not opening.cancelled():
            opening.result()

    async def _keep_opening(self) -> None:
        attempt = refusals = 0
        while True:
            try:
                link = await self._open()
            except LinkRefused as error:
                refusals = refusals + 1 if error.prompt else 0
            except LinkUnreachable as error:
                refusals = 0
                self._distrust = str(error) if isinstance(error, LinkUntrusted) else None
                self._wake()
            else:
                self._take(link)
                if link.is_open:
                    return
            if refusals >= REFUSALS_BELIEVED:
                self._refusal = CredentialRefused()
                self._wake()
            longest = LONGEST_PAUSE_SECONDS if self._refusal is None else LONGEST_PAUSE_REFUSED_SECONDS
            await asyncio.sleep(delay(attempt, self._jitter(), longest=longest))
            attempt += 1

    async def _keep_renewing(self) -> None:
        """Try until it is replaced: if the old one came to its end first, what is under way on it would be lost."""
        attempt = 0
        while self.current is not None:  # otherwise one is being opened, and with the present credential
            try:
                link = await self._open()
            except (LinkRefused, LinkUnreachable):
                await asyncio.sleep(delay(attempt, self._jitter(), longest=LONGEST_PAUSE_SECONDS))
                attempt += 1
                continue
            if self._closed:
                await link.close()
            else:
                self._take(link)
            return

    async def _open(self) -> Link:
        link = await Link.open(self._dialling, on_closed=self._on_closed, on_lame_duck=self._on_lame_duck)
        # A cluster tells of its other nodes; the next link may need one of them.
        scheme = self._dialling.servers[0].partition("://")[0]  # nats-py refuses to mix TCP and WebSocket
        told = (server for server in link.servers if server.startswith(f"{scheme}://"))
        self._dialling = replace(self._dialling, servers=tuple(dict.fromkeys((*self._dialling.servers, *told))))
        return link

    def _take(self, link: Link) -> None:
        old, self._current = self._current, link
        if old is not None:
            self._spawn(_retire(old))
        self._refusal = self._distrust = None
        self._wake()

    def _on_closed(self, link: Link) -> None:
        if link is self._current:
            self._current = None
            self._open_again()

    def _on_lame_duck(self) -> None:
        """The server is about to stop; move to another one while it still answers."""
        self.renew()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


async def _retire(link: Link) -> None:
    try:
        await link.retire(RETIRE_SECONDS)
    finally:  # also when the mesh is closed meanwhile
        await link.close()


def _shown(servers: tuple[str, ...]) -> list[str]:
    """Addresses without user information: a URL may carry a password."""
    return [server.rpartition("@")[2] for server in servers]
