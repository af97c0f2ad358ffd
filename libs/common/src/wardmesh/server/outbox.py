"""The outbox: a message and the change that it tells of commit together, or neither does.

    async with database.transaction(tenant) as connection:
        ...                                                    # the change
        await outbox.put(connection, subject, payload, message_id=event.id)

A `Relay` reads what was committed, hands it to the broker, waits until the broker has it on disk, and only then
deletes it, in the transaction that took it.

What always holds:
- At least once. A relay that dies after the broker has a batch and before the delete is committed leaves the rows;
  the next one publishes them again under the same `Nats-Msg-Id`. Consumers deduplicate on the event's id.
- Order, per organization: messages of transactions of which one began after the other had committed are published in
  that order, however many relays run, as long as `PublishMany` keeps the order of its list. Transactions that overlap
  have no order between them, and neither have organizations. After a failure the batch is published again from its
  start, so a consumer may see 1 2 1 2 3.
- A relay's waits are bounded: a broker that does not answer costs one transaction of a few seconds at a time.

On failure: publishing is tried again for ever, with a growing, jittered pause; nothing is given up. `put` refuses what
no broker would take (subject, headers, size), so one tenant's message cannot stop everybody's.

Woken by commits of its own process; what another process left behind is found by polling. Not by NOTIFY: each such
commit takes one lock for the whole database cluster, which serializes all of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from wardmesh.ids import EventId
from wardmesh.server.database import Connection, Database
from wardmesh.server.messages import OutboundMessage
from wardmesh.subjects import SERVICES

MAX_PAYLOAD_BYTES: Final = 960 * 1024  # NATS takes 1 MiB with the headers
MAX_HEADER_BYTES: Final = 32 * 1024
MAX_SUBJECT_CHARACTERS: Final = 512

_SUBJECT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_HEADER_NAME = re.compile(r"(?!nats-)[a-z0-9-]+", re.IGNORECASE)  # `Nats-…` are instructions to the broker
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_log = logging.getLogger(__name__)


class PublishMany(Protocol):
    """The broker's side of a relay."""

    def __call__(self, messages: Sequence[OutboundMessage], /) -> Awaitable[None]:
        """Publish in this order.

        MUST NOT return before every message is durable at the broker, and MUST raise if one is not or may not be.
        Messages that were published before it raised are published again, with the same id.
        """


class Outbox:
    """The outbox of one service."""

    def __init__(self, service: str) -> None:
        if service not in SERVICES:
            raise ValueError(f"a service is one of {', '.join(SERVICES)}")
        self.service = service
        self.relay_role = f"wardmesh_{service}_relay"
        self._put = f"insert into {service}.outbox (id, subject, headers, payload) values ($1, $2, $3, $4)"  # noqa: S608
        self._wakers: list[Callable[[], object]] = []

    async def put(
        self,
        connection: Connection,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        message_id: EventId,
    ) -> None:
        """Add a message to the transaction; it belongs to the transaction's tenant."""
        headers = dict(headers or {})
        _check(subject, payload, headers)
        await connection.execute(self._put, EventId.parse(message_id), subject, headers, payload)
        connection.after_commit(self.wake)

    def wake(self) -> None:
        """Make this process's relays look now."""
        for waker in self._wakers:
            waker()

    def on_commit(self, waker: Callable[[], object]) -> None:
        """Call `waker` after each commit that added something."""
        self._wakers.append(waker)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay takes at once, and how long it waits."""

    batch_messages: int = 256
    batch_bytes: int = 4 * 1024 * 1024  # read into memory; one message is always taken
    poll_seconds: float = 2.0
    publish_seconds: float = 10.0  # within DatabaseLimits.transaction_seconds, or the batch is taken from us
    first_backoff_seconds: float = 0.1
    max_backoff_seconds: float = 10.0


class Relay:
    """Moves what was committed to the broker; any number may run, in any number of processes."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        publish_many: PublishMany,
        *,
        limits: RelayLimits | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._publish_many = publish_many
        self._limits = limits or RelayLimits()
        self._jitter = jitter
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        """How many attempts have failed in a row; a health check may look at it."""
        # The oldest messages, of those organizations that no other relay is at, which keeps each one's order. The
        # lock ends with the transaction. Rows that another relay deleted meanwhile are skipped by FOR UPDATE.
        table = f"{outbox.service}.outbox"
        self._take = f"""
            with oldest as materialized (
                select position, org_id, sum(octet_length(payload)) over (order by position) - octet_length(payload)
                           as bytes_before
                  from (select position, org_id, payload from {table} order by position limit $1) as first
            ), held as materialized (
                select org_id, pg_try_advisory_xact_lock(hashtextextended('{table}.' || org_id, 0)) as by_us
                  from (select distinct org_id from oldest) as tenants
            )
            select o.position, o.id, o.subject, o.headers, o.payload
              from {table} o join oldest on oldest.position = o.position join held on held.org_id = o.org_id
             where held.by_us and oldest.bytes_before < $2
             order by o.position for update of o skip locked
        """  # noqa: S608 - the service's name is one of five
        self._delete = f"delete from {table} where position = any ($1::bigint[])"  # noqa: S608
        self._oldest = f"select extract(epoch from now() - created_at)::float8 from {table} order by position limit 1"  # noqa: S608

    def start(self) -> None:
        """Begin relaying in a task of its own."""
        if self._task is None:
            self._outbox.on_commit(self._wake.set)
            self._task = asyncio.create_task(self.run(), name=f"relay-{self._outbox.service}")

    async def stop(self, *, drain_seconds: float = 5.0) -> None:
        """Publish what is there, for as long as that, and end; what is left waits for the next relay."""
        self._stopping = True
        self._wake.set()
        if self._task is None:
            return
        task, self._task = self._task, None
        with suppress(TimeoutError):
            await asyncio.wait_for(task, drain_seconds)

    async def run(self) -> None:
        """Relay until stopped and empty."""
        while True:
            self._wake.clear()  # before looking: a commit from here on wakes us again
            try:
                published = await self.publish_batch()
            except Exception as error:  # noqa: BLE001 - whatever the broker's client raises, the rows are still there
                self.failures += 1
                _log.warning("outbox relay failed, will try again: %s", type(error).__name__)
                await asyncio.sleep(self._backoff_seconds())
                continue
            self.failures = 0
            if published:
                continue
            if self._stopping:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._limits.poll_seconds)

    async def publish_batch(self) -> int:
        """Publish and delete one batch; return how many messages, 0 if there was none that is ours to take."""
        async with self._database.relay_transaction(self._outbox.relay_role) as connection:
            rows = await connection.fetch(self._take, self._limits.batch_messages, self._limits.batch_bytes)
            if not rows:
                return 0
            messages = [
                OutboundMessage(row["subject"], row["payload"], row["headers"], message_id=row["id"]) for row in rows
            ]
            async with asyncio.timeout(self._limits.publish_seconds):
                await self._publish_many(messages)
            await connection.execute(self._delete, [row["position"] for row in rows])
        return len(rows)

    async def oldest_seconds(self) -> float | None:
        """Return the age of the oldest message that waits, if one does: the relay's lag."""
        async with self._database.relay_transaction(self._outbox.relay_role) as connection:
            age: float | None = await connection.fetchval(self._oldest)
        return age

    def _backoff_seconds(self) -> float:
        limits = self._limits
        doubled = limits.first_backoff_seconds * 2.0 ** min(self.failures - 1, 16)
        return min(doubled, limits.max_backoff_seconds) * (0.5 + self._jitter() / 2)


def _check(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
    if len(subject) > MAX_SUBJECT_CHARACTERS or _SUBJECT.fullmatch(subject) is None:
        raise ValueError("not a subject that a message can be published to")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message is at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_BYTES:
        raise ValueError(f"the headers are at most {MAX_HEADER_BYTES} bytes")
    for name, value in headers.items():
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError("a header's name is letters, digits and hyphens, and not one of the broker's own (Nats-…)")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(f"header {name}: the value is printable ASCII")
