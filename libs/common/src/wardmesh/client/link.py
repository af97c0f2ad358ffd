"""One connection to the broker, and the requests that wait on it. A link is never repaired: it ends, and another is
opened (`connection`).

What always holds: every request ends, in an answer or in one of `wardmesh.errors`. nats-py's own reconnecting is off:
it would send requests that it had buffered after their callers have given up, and after some errors it closes for good
and tells nobody.

On failure: `LinkRefused`, `LinkUntrusted` and `LinkUnreachable` on opening. A request: `ServiceUnavailable` if it was
certainly not carried out, `ConnectionLost` or `DeadlineExceeded` if it may have been.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh import tls
from wardmesh.errors import (
    BodyTooLarge,
    ConnectionLost,
    DeadlineExceeded,
    PermissionDenied,
    ReplySubjectRefused,
    ServiceUnavailable,
    WardmeshError,
    from_problem,
)
from wardmesh.ids import Principal, RequestId
from wardmesh.round_trip import heard
from wardmesh.subjects import refusal_inbox

OPEN_SECONDS: Final = 5.0
"""For TCP, TLS and the auth callout together; a broker that needs longer is as good as absent."""
PROMPT_REFUSAL_SECONDS: Final = 0.9
"""The broker refuses in the same words if the auth service said no, and if it said nothing for a second or more."""
PING_SECONDS: Final = 10
"""A peer that vanished without a word is noticed after two of these."""
FLUSH_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 1.0
"""After a TLS handshake that failed, nats-py waits without end for a stream to close that nobody holds any more."""
WATCH_SECONDS: Final = 0.25
"""How often a link looks whether nats-py has closed; it skips its callback if the socket breaks while it closes."""
NO_RESPONDERS: Final = "503"

_DENIED_PUBLISH: Final = re.compile(r'permissions violation for publish to "([^"]+)"')
_log = logging.getLogger(__name__)


class LinkRefused(Exception):
    """The broker refused the credential; `prompt` says that somebody decided so."""

    def __init__(self, *, prompt: bool) -> None:
        self.prompt = prompt
        super().__init__("the broker refused the credential")


class LinkUnreachable(Exception):
    """No broker answers."""


class LinkUntrusted(LinkUnreachable):
    """Something answers, and no trustworthy connection to it came about; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """Where and as whom links are opened."""

    servers: tuple[str, ...]
    user: str
    password: Callable[[], str] = field(repr=False)
    principal: Principal
    name: str
    tls: ssl.SSLContext | None = None
    tls_required: bool = False


class Reply(NamedTuple):
    data: bytes
    headers: dict[str, str] | None


class _Pending(NamedTuple):
    future: asyncio.Future[Reply | WardmeshError]  # results only: an exception that nobody awaits would be logged
    subject: str


class _Replies(asyncio.Future[Msg]):
    """Hands each message of a subscription straight to a function.

    nats-py sets the result of a subscription's future where it reads the socket. Its callbacks take a queue and a
    task's turn instead, for every message.
    """

    def __init__(self, receive: Callable[[Msg], None]) -> None:
        super().__init__()
        self._receive = receive

    def set_result(self, message: Msg, /) -> None:
        self._receive(message)


class Link:
    """An open connection. Made by `Link.open`."""

    def __init__(self, dialling: Dialling, on_closed: Callable[[Link], None], on_lame_duck: Callable[[], None]) -> None:
        self._client = Client()
        self._dialling = dialling
        self._prefix = f"_INBOX.{dialling.principal}.{secrets.token_hex(8)}."
        self._pending: dict[str, _Pending] = {}
        self._on_closed = on_closed
        self._on_lame_duck = on_lame_duck
        self._open = False
        self._denied_inbox = False
        self._watching: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, dialling: Dialling, *, on_closed: Callable[[Link], None], on_lame_duck: Callable[[], None]
    ) -> Link:
        """Return a link that answers can arrive on. `on_closed` is called once if it ends by itself."""
        link = cls(dialling, on_closed, on_lame_duck)
        try:
            await link._connect()
        except BaseException:
            await link._close_quietly()
            raise
        return link

    @property
    def is_open(self) -> bool:
        return self._open and not self._client.is_closed

    @property
    def servers(self) -> tuple[str, ...]:
        """The cluster's addresses, those that it told of itself included."""
        return tuple(server.geturl() for server in self._client.servers)

    async def request(
        self, subject: str, body: bytes, headers: dict[str, str], request_id: RequestId, seconds: float
    ) -> Reply:
        """Send a request and return its answer, which may be a problem; one at a time for each request id."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply | WardmeshError] = loop.create_future()
        self._pending[request_id] = _Pending(future, subject)
        timer = loop.call_later(seconds, _time_out, future, request_id)
        try:
            try:
                await self._client.publish(subject, body, reply=self._prefix + request_id, headers=headers)
            except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
                raise ServiceUnavailable("The connection ended before the request was sent.") from error
            except nats.errors.MaxPayloadError as error:
                raise BodyTooLarge from error
            outcome = await future
        finally:
            timer.cancel()
            del self._pending[request_id]
            if not self._pending and self._idle is not None:
                _settle(self._idle, None)
        if isinstance(outcome, WardmeshError):
            raise outcome
        return outcome

    async def retire(self, patience_seconds: float) -> None:
        """Close once every answer that is under way has arrived, or after `patience_seconds`."""
        if self._pending and self.is_open:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._idle,), timeout=patience_seconds)
        await self.close()

    async def close(self) -> None:
        """Close now; what is pending ends in `ConnectionLost`."""
        self._open = False
        await self._close_quietly()
        self._fail_all()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._client.connect(
                    servers=list(self._dialling.servers),
                    user=self._dialling.user,
                    password=self._dialling.password,
                    inbox_prefix=f"_INBOX.{self._dialling.principal}",
                    name=self._dialling.name,
                    **tls.connect_options(self._dialling.tls, required=self._dialling.tls_required),
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=PING_SECONDS,
                    flush_timeout=FLUSH_SECONDS,
                    error_cb=self._on_error,
                    closed_cb=self._on_nats_closed,
                    lame_duck_mode_cb=self._on_nats_lame_duck,
                )
                await self._client.subscribe(f"{self._prefix}*", future=_Replies(self._on_reply))
                refusals = refusal_inbox(self._dialling.principal)
                await self._client.subscribe(refusals, future=_Replies(self._on_refusal))
                await heard(self._client)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if "authorization violation" in str(error).lower():
                raise LinkRefused(prompt=loop.time() - started < PROMPT_REFUSAL_SECONDS) from error
            if tls.is_distrust(error):
                raise LinkUntrusted(tls.advice(error)) from error
            raise LinkUnreachable("no broker answers") from error
        if self._denied_inbox:
            raise LinkRefused(prompt=True)
        self._open = True
        self._watch()

    def _watch(self) -> None:
        if self._client.is_closed:
            self._end()
        else:
            self._watching = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)

    def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._open:
            self._open = False
            self._fail_all()
            self._on_closed(self)

    def _fail_all(self) -> None:
        for pending in self._pending.values():
            _settle(pending.future, ConnectionLost())

    async def _close_quietly(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        except (nats.errors.Error, OSError, TimeoutError, AssertionError) as error:
            # Closing a broken socket breaks again.
            _log.debug("closing a link: %s", type(error).__name__)

    # What follows is called by nats-py.

    def _on_reply(self, message: Msg) -> None:
        pending = self._pending.get(message.subject[len(self._prefix) :])
        if pending is None or pending.future.done():
            return  # the answer to a request whose caller has gone
        if message.headers and not message.data and message.headers.get("Status") == NO_RESPONDERS:
            _settle(pending.future, ServiceUnavailable("No instance of the service is running."))
        else:
            _settle(pending.future, Reply(message.data, message.headers))

    def _on_refusal(self, message: Msg) -> None:
        error = from_problem(message.data)
        pending = self._pending.get(error.request_id or "")
        if pending is not None:
            _settle(pending.future, error if isinstance(error, ReplySubjectRefused) else ReplySubjectRefused())

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        denied = _DENIED_PUBLISH.search(text)
        if denied is not None:
            for pending in self._pending.values():
                if pending.subject == denied[1]:
                    _settle(pending.future, PermissionDenied("The broker lets this caller publish no such request."))
        elif "permissions violation for subscription" in text:
            self._denied_inbox = True
        _log.debug("the link reports %s", type(error).__name__)

    async def _on_nats_closed(self) -> None:
        self._end()

    async def _on_nats_lame_duck(self) -> None:
        self._on_lame_duck()


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)


def _time_out(future: asyncio.Future[Reply | WardmeshError], request_id: RequestId) -> None:
    _settle(future, DeadlineExceeded(request_id=request_id))
