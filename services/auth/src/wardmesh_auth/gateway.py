"""The gateway's side of the broker: forwards one HTTP caller's request and waits for its answer.

The gateway is nobody. It carries the caller's own token, on the caller's own subject, with a reply subject inside the
caller's own inbox (`_INBOX.{principal}.gateway.{instance}.{nonce}`), so the service's gates, and the reply guard before
all, decide as if the caller had connected itself.

What always holds: an answer is taken only on the very reply subject that was named for it, whose nonce is 128 random
bits and used once. Every wait is bounded, and so is the number of requests under way.

On failure: the service's own error, unchanged; `ServiceUnavailable` if nobody answers for the service,
`DeadlineExceeded` if the answer does not come in time, `ConnectionLost` as soon as it can't come any more, `Overloaded`
at the bound.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.aio.msg import Msg

from wardmesh.errors import (
    CODE_HEADER,
    ConnectionLost,
    DeadlineExceeded,
    Overloaded,
    ServiceUnavailable,
    WardmeshError,
    from_problem,
)
from wardmesh.headers import DEADLINE_MS
from wardmesh.round_trip import heard
from wardmesh.server.broker import GATEWAY
from wardmesh.server.messaging import Messaging
from wardmesh.subjects import RpcSubject, reply_inbox

MAX_IN_FLIGHT: Final = 1024
GRACE_SECONDS: Final = 0.5
"""The service's own word that the deadline has passed says more than ours; it gets this long to arrive."""
NONCE_BYTES: Final = 16
NO_RESPONDERS: Final = "503"
STATUS_HEADER: Final = "Status"


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, as the service encoded it."""

    body: bytes


class Gateway:
    """Forwards requests over the connection of the `gateway` user."""

    def __init__(self, messaging: Messaging, instance: str) -> None:
        self._messaging = messaging
        self._instance = instance
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def start(self) -> None:
        """Begin to hear answers."""
        subject = f"_INBOX.*.{GATEWAY}.{self._instance}.*"
        self._messaging.on_disconnect(self._cut_off)
        await self._messaging.nats.subscribe(subject, cb=self._receive)
        await heard(self._messaging.nats)

    async def forward(self, subject: RpcSubject, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        """Send a request and return its answer; raise what the service refused it with."""
        if len(self._waiting) >= MAX_IN_FLIGHT:
            raise Overloaded("The gateway has as much in hand as it may.")
        if not self._messaging.is_connected:
            raise ServiceUnavailable("The gateway has lost the message broker.")
        reply = f"{reply_inbox(subject.principal)}.{GATEWAY}.{self._instance}.{secrets.token_hex(NONCE_BYTES)}"
        waiting = self._waiting[reply] = asyncio.get_running_loop().create_future()
        sent = {**headers, DEADLINE_MS: str(round(seconds * 1000))}
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                await self._messaging.nats.publish(subject.format(), body, reply=reply, headers=sent)
                message = await waiting
        except TimeoutError:
            raise DeadlineExceeded from None
        except (nats.errors.Error, OSError) as error:
            raise ServiceUnavailable("The gateway could not reach the message broker.") from error
        finally:
            del self._waiting[reply]
        return _read(subject, message)

    def _cut_off(self) -> None:
        """Answers that are under way arrive nowhere: whoever waits hears of it now, and not when time is up."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionLost())

    async def _receive(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def _read(subject: RpcSubject, message: Msg) -> Answer:
    headers = message.headers or {}
    if not message.data and headers.get(STATUS_HEADER) == NO_RESPONDERS:
        raise ServiceUnavailable(f"No instance of {subject.service} is running; try again shortly.")
    status = headers.get(CODE_HEADER)
    if status is not None:
        raise _error(message.data, status)
    return Answer(message.data)


def _error(body: bytes, status: str) -> WardmeshError:
    return from_problem(body, status=int(status) if status.isdigit() else None)
