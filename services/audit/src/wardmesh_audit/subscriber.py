"""Brings the messages of stream AUDIT to the sealer: a FastStream subscriber, so that AsyncAPI documents it.

    broker = sealing_broker(settings…, seal=sealer.take, closed=…)
    pulled = await pulling.start(broker, lost=…)    …    await pulled.stop(sealer.finish)

What always holds: nothing is acknowledged but by hand, after the commit. The consumer is durable and shared, so any
number of processes divide the work; it has no limit of what is under way, because a scope that waits for repair must
not use up the places of all others. Start it with `pulling.start`, which hands batches on at once and loses none, also
not at its end.

When the connection is closed for good, FastStream's pull loop spins without ever waiting: `closed` must end the
process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import nats.errors
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.msg import Msg
from nats.js.api import AckPolicy as ConsumerAckPolicy
from nats.js.api import ConsumerConfig
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from wardmesh.contracts.audit import AuditEnvelope, SealedEntries
from wardmesh.server import pulling
from wardmesh.server.messaging import RECONNECT_WAIT_SECONDS
from wardmesh.server.subscribing import nkey_security

CONSUMER: Final = "sealer"
BATCH_MESSAGES: Final = 2_048
"""So many that a tenant's small ones share a transaction, whose cost is its own; `pulling` bounds their bytes."""
ACK_WAIT_SECONDS: Final = 30.0
"""Longer than a transaction may take; a sealer that died is noticed after it."""
INBOX: Final = "_INBOX.audit"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveredEnvelope:
    """One message as it was delivered; on the wire it is an `AuditEnvelope`, and that is what AsyncAPI says."""

    message: Msg

    @property
    def subject(self) -> str:
        return self.message.subject

    @property
    def data(self) -> bytes:
        return self.message.data

    @property
    def headers(self) -> Mapping[str, str]:
        return self.message.headers or {}

    @property
    def received_at(self) -> datetime:
        return self.message.metadata.timestamp.astimezone(UTC)

    @property
    def sequence(self) -> int:
        return self.message.metadata.sequence.stream

    async def acknowledge(self) -> None:
        try:
            await self.message.ack()
        except nats.errors.Error as error:
            _log.warning("an acknowledgement was lost, the message comes again: %s", type(error).__name__)

    async def retry(self, seconds: float) -> None:
        try:
            await self.message.nak(delay=seconds)
        except nats.errors.Error as error:
            _log.warning("a retry was not asked for, the message comes again anyway: %s", type(error).__name__)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(AuditEnvelope)


Seal = Callable[[Sequence[DeliveredEnvelope]], Awaitable[None]]


async def _as_delivered(message: StreamMessage[list[Msg]]) -> list[DeliveredEnvelope]:
    # Raw: FastStream's own decoding would parse bodies that nobody has judged yet, and lose the subjects.
    return [DeliveredEnvelope(raw) for raw in message.raw_message]


async def _ignore() -> None:
    pass


def sealing_broker(
    servers: Sequence[str],
    *,
    seed: str,
    seal: Seal,
    ca_file: Path | None = None,
    closed: Callable[[], Awaitable[None]] = _ignore,
) -> NatsBroker:
    """Return the broker whose one subscriber seals; it connects when it is started."""
    broker = NatsBroker(
        list(servers),
        name="wardmesh-audit-sealer",
        security=nkey_security(servers, seed, ca_file),
        inbox_prefix=INBOX,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # it sleeps that long; a float does
        closed_cb=closed,
        apply_types=False,  # types are for AsyncAPI; what arrives is judged by the domain, one message at a time
        logger=None,
        description="The audit log",
    )

    @broker.subscriber(
        "audit.>",
        stream=JStream("AUDIT", declare=False),
        durable=CONSUMER,
        config=ConsumerConfig(
            ack_policy=ConsumerAckPolicy.EXPLICIT, ack_wait=ACK_WAIT_SECONDS, max_deliver=-1, max_ack_pending=-1
        ),
        pull_sub=PullSub(batch_size=BATCH_MESSAGES, timeout=pulling.PULL_SECONDS, batch=True),
        ack_policy=AckPolicy.MANUAL,
        inbox_prefix=f"{INBOX}.".encode(),
        decoder=_as_delivered,
        title="AuditEnvelopes",
        description="audit.{scope}.{source}: audit events on their way into the log",
    )
    async def seal_envelopes(envelopes: list[DeliveredEnvelope]) -> None:
        await seal(envelopes)

    broker.publisher(
        "sealed.{scope}",
        schema=SealedEntries,
        title="SealedEntries",
        description="Entries that are in the log, with their places. At least once; the index tells what is new.",
    )
    return broker
