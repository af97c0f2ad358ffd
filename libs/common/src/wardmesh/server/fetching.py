"""Long polls on a stream: what a client receives, it receives through one of these, and never from JetStream itself.

    fetcher = Fetcher(messaging.nats, "EVENTS", limits=FetchLimits(forget_after=EVENTS_MAX_AGE))
    deliveries = await fetcher.fetch(
        consumer=consumer_name(workspace, principal, group), filter_subject=f"evt.{workspace}.stripe.>",
        batch=64, wait_seconds=20, acks=tokens_of_what_was_done)

A group's place in the stream is a durable pull consumer, named after workspace, principal, group and filter. Any
replica can serve any poll, since the place is the broker's to keep.

What always holds:
- The caller chooses neither the stream nor the consumer. An acknowledgement is five numbers; stream and consumer are
  put in front of them here, so the token of another group acknowledges nothing of that group's.
- Acknowledgements are sent first and confirmed by the broker before anything new is asked for. One that is not
  confirmed (a stale token, a consumer that is gone) is dropped, and the message comes again: at least once.
- A poll ends when there is something, when its time is over, when an answer is full (in messages or in bytes), or when
  the service stops. It never waits for a batch to fill.
- What was taken for a caller who went away is handed back at once (`hand_back`; who went away, `returns` finds out).
- A consumer that was deleted is made again, at the beginning of what the stream still has: repeated, not lost. One that
  nobody used for `forget_after` is forgotten by the broker; let that be the stream's own age limit, and by then
  nothing is left that the group had seen.

A group that asks with another filter is another consumer. Changing the filter of the one would skip, in silence, what
matches the new filter and lies behind the old one's place, and while a new version is rolled out two filters would
take turns at it.

On failure: `ServiceUnavailable` and `Overloaded`, retryable: acknowledging twice amounts to once. `Conflict` if the
workspace has as many groups as it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
from base64 import b32encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import nats.errors
import nats.js.errors
from cachetools import LRUCache
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from wardmesh.contracts.fields import MAX_BATCH
from wardmesh.errors import Conflict, InternalError, Overloaded, ServiceUnavailable
from wardmesh.ids import Principal, WorkspaceId

MAX_FETCH_BYTES: Final = 704 * 1024
"""Of one poll, with subjects and headers. In base64 it grows by a third, and fits max_payload (1 MiB) with its JSON
around it. A stream that is fetched from MUST NOT take larger messages, or its consumers would stick at one."""
MAX_GROUPS_OF_WORKSPACE: Final = 100
"""A consumer costs the broker memory and a file; a caller could otherwise make one with every poll."""
MAX_NAK_DELAY: Final = timedelta(minutes=5)
_API_SECONDS: Final = 3.0
_CONFIRM_SECONDS: Final = 2.0  # the broker does not answer to numbers it never gave out
_GRACE_SECONDS: Final = 1.0  # beyond what the broker was told, before a poll is ended here
_HEARTBEAT_SECONDS: Final = 2.5  # two missed: the broker has forgotten the poll, by a restart for instance
_STRAGGLER_SECONDS: Final = 1.0  # for messages that the broker says it sent; those that are lost come again
_SHORTEST_WAIT_SECONDS: Final = 0.05
_DRAIN_SECONDS: Final = 1.0  # a round trip, within what callers keep of their deadline for the way back
_ATTEMPTS: Final = 3
_KNOWN_CONSUMERS: Final = 10_000
_NAMES_PER_PAGE: Final = 1024
_NANOSECONDS: Final = 1_000_000_000
_ACK_TOKENS: Final = 9  # $JS.ACK.{stream}.{consumer}.{delivered}.{stream seq}.{consumer seq}.{time}.{pending}

_TOKEN = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20}){4}")
_STATUS: Final = "Status"
_DESCRIPTION: Final = "Description"
_PENDING: Final = "Nats-Pending-Messages"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How a group's consumer behaves. `forget_after` SHOULD be the age at which the stream drops messages."""

    forget_after: timedelta
    ack_wait: timedelta = timedelta(seconds=60)
    """What was delivered and neither acknowledged nor handed back comes again after this time."""
    max_ack_pending: int = 4 * MAX_BATCH
    """What a group may have in hand; it gets no more until some is acknowledged."""
    max_bytes: int = MAX_FETCH_BYTES
    max_groups: int = MAX_GROUPS_OF_WORKSPACE


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one group."""

    subject: str
    headers: Mapping[str, str]
    data: bytes = field(repr=False)
    ack: str
    """Its token, for `acks` or `naks` of a later poll of the same group."""
    delivered: int
    """1 for the first time."""


def consumer_name(workspace: WorkspaceId, principal: Principal, group: str) -> str:
    """Return the stable name of a principal's group; `group` may be any text."""
    return f"{workspace}-{_digest(workspace, principal, group)}"


def nak_delay(delivered: int) -> timedelta:
    """Return how long a message rests that was handed back for the `delivered`th time: 1 s, 2 s, 4 s … 5 minutes."""
    seconds = 2 ** min(max(delivered, 1) - 1, 16)
    return min(timedelta(seconds=seconds), MAX_NAK_DELAY)


class Fetcher:
    """Polls of one stream, by one service. `close` before the connection is drained: it ends every poll under way."""

    def __init__(self, client: Client, stream: str, limits: FetchLimits) -> None:
        self._client = client
        self._stream = stream
        self._limits = limits
        self._jetstream = client.jetstream(timeout=_API_SECONDS)
        self._known: LRUCache[str, bool] = LRUCache(_KNOWN_CONSUMERS)
        self._polls: set[asyncio.Future[None]] = set()
        self._closed = False

    async def fetch(
        self,
        *,
        consumer: str,
        filter_subject: str,
        batch: int,
        wait_seconds: float,
        acks: Sequence[str] = (),
        naks: Sequence[str] = (),
    ) -> list[Delivery]:
        """Settle `acks` and `naks`, then return what there is, waiting up to `wait_seconds` for the first of it.

        A `batch` of 0 settles only.

        `consumer` is what `consumer_name` returned; `filter_subject` is the service's, never a caller's text.
        """
        name = _durable_name(consumer, filter_subject)
        ends_at = _now() + wait_seconds
        with _translated():
            await self._settle(name, acks, naks)
            if batch == 0:  # to the broker, 0 is 1
                return []
            for _ in range(_ATTEMPTS):
                if self._closed:
                    return []
                await self._ensure(name, filter_subject)
                try:
                    return await self._pull(name, batch, max(0.0, ends_at - _now()))
                except _ConsumerGone:
                    self._known.pop(name, None)
        raise ServiceUnavailable("The group's place in the stream could not be established.")

    async def terminate(self, *, consumer: str, filter_subject: str, token: str) -> None:
        """Never deliver this message to this group again: for one that nobody can read."""
        with _translated():
            await self._confirm(_durable_name(consumer, filter_subject), token, b"+TERM")

    async def hand_back(self, *, consumer: str, filter_subject: str, tokens: Iterable[str]) -> None:
        """Deliver these again, at once: whoever they were taken for is not there any more."""
        name = _durable_name(consumer, filter_subject)
        for token in tokens:
            await self._client.publish(f"$JS.ACK.{self._stream}.{name}.{token}", b"-NAK")

    def close(self) -> None:
        """End every poll under way, with what it has; later ones return at once."""
        self._closed = True
        for poll in self._polls:
            _finish(poll)

    async def _settle(self, name: str, acks: Sequence[str], naks: Sequence[str]) -> None:
        settled = [self._confirm(name, token, b"+ACK") for token in acks]
        settled += [self._confirm(name, token, _nak(token)) for token in naks]
        if settled and not all(await asyncio.gather(*settled)):
            _log.info("some acknowledgements had no effect; their messages are delivered again")

    async def _confirm(self, name: str, token: str, verdict: bytes) -> bool:
        """Tell the broker about one message; return whether it took notice."""
        if _TOKEN.fullmatch(token) is None:
            return False
        try:
            await self._client.request(f"$JS.ACK.{self._stream}.{name}.{token}", verdict, timeout=_CONFIRM_SECONDS)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return False
        return True

    async def _ensure(self, name: str, filter_subject: str) -> None:
        if name in self._known:
            return
        limits = self._limits
        try:
            await self._jetstream.consumer_info(self._stream, name)
        except nats.js.errors.NotFoundError:
            if await self._count(name.partition("-")[0]) >= limits.max_groups:
                raise Conflict(
                    f"The workspace has {limits.max_groups} groups (a pattern read by a principal under a group's "
                    f"name) in this stream. Use one of them; an unused one is forgotten after {limits.forget_after}."
                ) from None
        # Also for one that is there: it may have been made with older limits. Making it twice changes nothing.
        await self._jetstream.add_consumer(
            self._stream,
            ConsumerConfig(
                name=name,
                durable_name=name,
                filter_subject=filter_subject,
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=limits.ack_wait.total_seconds(),
                max_ack_pending=limits.max_ack_pending,
                inactive_threshold=limits.forget_after.total_seconds(),
            ),
        )
        self._known[name] = True

    async def _count(self, workspace: str) -> int:
        """Count the workspace's consumers; done only when a group is new."""
        count = offset = 0
        while True:
            request = json.dumps({"offset": offset}).encode()
            subject = f"$JS.API.CONSUMER.NAMES.{self._stream}"
            answer = json.loads((await self._client.request(subject, request, timeout=_API_SECONDS)).data)
            names: list[str] = answer.get("consumers") or []
            count += sum(name.startswith(f"{workspace}-") for name in names)
            offset += len(names)
            if not names or offset >= int(answer.get("total", 0)):
                return count

    async def _pull(self, name: str, batch: int, wait_seconds: float) -> list[Delivery]:
        if not self._client.is_connected:
            raise ServiceUnavailable("The message broker is not connected.")
        poll = _Poll(name, batch, asyncio.get_running_loop().create_future())
        # Before the first await: `close` ends whatever it can see.
        self._polls.add(poll.ended)
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=poll.receive)
        try:
            request = self._request(batch, wait_seconds)
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}", json.dumps(request).encode(), reply=inbox
            )
            await poll.wait(wait_seconds + _GRACE_SECONDS, heartbeats="idle_heartbeat" in request)
            if not poll.is_over and self._client.is_connected:
                # Ended on our side alone: what the broker sends until it hears of that belongs to the answer.
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    async with asyncio.timeout(_DRAIN_SECONDS):
                        await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py has no types there  # type: ignore[no-untyped-call]  # nats-py leaves it unannotated
        except BaseException:
            for delivery in poll.deliveries:
                await self._client.publish(f"$JS.ACK.{self._stream}.{name}.{delivery.ack}", b"-NAK")
            raise
        finally:
            self._polls.discard(poll.ended)
            with contextlib.suppress(nats.errors.Error):  # closed meanwhile, and the subscription with it
                await subscription.unsubscribe()
        return poll.result()

    def _request(self, batch: int, wait_seconds: float) -> dict[str, int | bool]:
        # `no_wait` with `expires` is a one-shot: it waits for the first message, and returns with what there is then.
        request: dict[str, int | bool] = {"batch": batch, "max_bytes": self._limits.max_bytes, "no_wait": True}
        if wait_seconds >= _SHORTEST_WAIT_SECONDS:
            request["expires"] = round(wait_seconds * _NANOSECONDS)
        if wait_seconds >= 2 * _HEARTBEAT_SECONDS:
            request["idle_heartbeat"] = round(_HEARTBEAT_SECONDS * _NANOSECONDS)
        return request


class _ConsumerGone(Exception):
    """The consumer is not there (any more), or its leader moved; nothing was taken from it."""


class _Poll:
    """What the broker has said so far to one pull request."""

    def __init__(self, name: str, batch: int, ended: asyncio.Future[None]) -> None:
        self.name = name
        self.ended = ended
        self.deliveries: list[Delivery] = []
        self._batch = batch
        self._sent: int | None = None
        """How many messages the broker says it sent; known when it says that it is done."""
        self._heard = _now()
        self._failure: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether the broker has said that it sends no more."""
        return self._sent is not None

    async def receive(self, message: Msg) -> None:
        self._heard = _now()
        headers: Mapping[str, str] = message.headers or {}
        status = headers.get(_STATUS)
        if status is None or message.reply:
            self._take(message, headers)
        elif status != "100":
            self._sent = self._batch - int(headers.get(_PENDING, self._batch - len(self.deliveries)))
            self._failure = self._read(status, headers.get(_DESCRIPTION, ""))
        # In a cluster the end is often said before the last messages come: those wait until a second node has noted
        # that they are delivered, and "batch completed" does not.
        if self._sent is not None and len(self.deliveries) >= self._sent:
            _finish(self.ended)

    async def wait(self, seconds: float, *, heartbeats: bool) -> None:
        """Return when the poll has ended, or note that the broker has forgotten it or is not there."""
        deadline = _now() + seconds
        while not self.ended.done():
            silent_until = self._heard + 2 * _HEARTBEAT_SECONDS + _GRACE_SECONDS if heartbeats else deadline
            if self._sent is not None:
                silent_until = self._heard + _STRAGGLER_SECONDS
            left = min(deadline, silent_until) - _now()
            if left <= 0:
                if self._sent is None:
                    self._failure = ServiceUnavailable("The message broker did not answer.")
                return
            await asyncio.wait({self.ended}, timeout=left)

    def result(self) -> list[Delivery]:
        """Return what came. A failure counts only if nothing did: else the next poll meets it again."""
        if self._failure is not None and not self.deliveries:
            raise self._failure
        return self.deliveries

    def _take(self, message: Msg, headers: Mapping[str, str]) -> None:
        tokens = message.reply.split(".")
        if len(tokens) != _ACK_TOKENS or tokens[3] != self.name:
            # Only the broker knows the inbox; whatever this is, it can't be acknowledged.
            _log.error("a delivery that is not of the consumer's")
            return
        self.deliveries.append(
            Delivery(message.subject, headers, message.data, ack=".".join(tokens[4:]), delivered=int(tokens[4]))
        )

    def _read(self, status: str, description: str) -> Exception | None:
        text = description.lower()
        if status in {"404", "408"} or "batch completed" in text:
            return None
        if "exceeds maxbytes" in text:
            # The normal end of a full answer. With nothing in it, a message is in the stream that fits none.
            return None if self._sent else InternalError("A message in the stream is too large to be delivered.")
        if "maxwaiting" in text:
            return Overloaded("The group has too many polls open at once.")
        if status in {"409", "503"}:  # deleted, leadership change, server shutdown, no such consumer
            return _ConsumerGone()
        return InternalError(f"The message broker refused the poll (status {status}).")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        _log.warning("fetching failed: %s", type(error).__name__)
        raise ServiceUnavailable("The message broker did not answer.") from None


def _durable_name(consumer: str, filter_subject: str) -> str:
    owner, _, group = consumer.partition("-")
    return f"{WorkspaceId.parse(owner)}-{_digest(group, filter_subject)}"


def _digest(*parts: str) -> str:
    encoded = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return b32encode(hashlib.sha256(encoded).digest()[:20]).decode().lower()


def _nak(token: str) -> bytes:
    # Only the count is the caller's word, and only its own group's message rests shorter or longer for it.
    delivered = token.partition(".")[0]
    seconds = nak_delay(int(delivered) if delivered.isdecimal() else 1).total_seconds()
    return b"-NAK " + json.dumps({"delay": round(seconds * _NANOSECONDS)}).encode()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
