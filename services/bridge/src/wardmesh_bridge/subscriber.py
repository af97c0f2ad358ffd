"""Brings the messages of stream BRIDGE to the deliverer: a FastStream subscriber, so that AsyncAPI documents it.

    broker = verifying_broker(settings…, deliver=…, closed=…)
    pulled = await pulling.start(broker, lost=…)    …    await pulled.stop()

What always holds: nothing is acknowledged but by hand, after the commit. The consumer is durable and shared, so any
number of processes divide the work. What could not be decided rests for `RETRY_SECONDS` and comes again, for as long as
it takes: giving up would lose what was acknowledged to its sender. Start it with `pulling.start`, which gives back at
its end what is not begun; what is begun is finished.

When the connection is closed for good, nothing comes any more: `closed` must end the process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
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

from wardmesh.contracts.bridge import SignedMessage
from wardmesh.errors import UnavailableError
from wardmesh.server import pulling, telemetry
from wardmesh.server.messaging import RECONNECT_WAIT_SECONDS
from wardmesh.server.subscribing import nkey_security

CONSUMER: Final = "verifier"
MESSAGES_AT_ONCE: Final = 32
ACK_WAIT_SECONDS: Final = 30.0
"""Longer than a transaction may take; a process that died is noticed after it."""
MAX_ACK_PENDING: Final = 1024
RETRY_SECONDS: Final = 2.0
_INBOX: Final = "_INBOX.bridge"
_log = logging.getLogger(__name__)

Deliver = Callable[[str, bytes], Awaitable[None]]


class SentMessage:
    """One message as the stream delivered it; on the wire it is a `SignedMessage`, and that is what AsyncAPI says."""

    def __init__(self, raw: Msg) -> None:
        self.raw = raw

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(SignedMessage)


async def _as_sent(message: StreamMessage[Msg]) -> SentMessage:
    # Raw: FastStream's own decoding would parse a body that nobody has verified yet, and lose the subject.
    return SentMessage(message.raw_message)


async def receive(message: Msg, deliver: Deliver) -> None:
    """Deliver one message and acknowledge it, or have it come again."""
    with telemetry.consumer_span("bridge.deliver", message.headers):
        try:
            await deliver(message.subject, message.data)
        except UnavailableError as error:
            _log.warning("a bridge message could not be dealt with, it comes again: %s", error.code)
            await _settle(message, again=True)
        except Exception as error:  # noqa: BLE001 - one message must not stop the others, nor be lost
            _log.error("defect in the delivery of a bridge message: %s", type(error).__name__)
            await _settle(message, again=True)
        else:
            await _settle(message, again=False)


async def _settle(message: Msg, *, again: bool) -> None:
    try:
        await (message.nak(delay=RETRY_SECONDS) if again else message.ack())
    except nats.errors.Error as error:
        _log.warning("a bridge message comes again, its acknowledgement was lost: %s", type(error).__name__)


def verifying_broker(
    servers: Sequence[str],
    *,
    seed: str,
    deliver: Deliver,
    closed: Callable[[], None],
    ca_file: Path | None = None,
) -> NatsBroker:
    """Return the broker whose one subscriber verifies and delivers; it connects when it is started."""

    async def end() -> None:
        closed()

    broker = NatsBroker(
        list(servers),
        name="wardmesh-bridge-verifier",
        security=nkey_security(servers, seed, ca_file),
        inbox_prefix=_INBOX,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # it sleeps that long; a float does
        closed_cb=end,
        apply_types=False,  # types are for AsyncAPI; what arrives is judged by the deliverer
        logger=None,
        description="The bridge",
    )

    @broker.subscriber(
        "bridge.>",
        stream=JStream("BRIDGE", declare=False),
        durable=CONSUMER,
        config=ConsumerConfig(
            ack_policy=ConsumerAckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            max_deliver=-1,
            max_ack_pending=MAX_ACK_PENDING,
        ),
        pull_sub=PullSub(batch_size=MESSAGES_AT_ONCE, timeout=pulling.PULL_SECONDS),
        ack_policy=AckPolicy.MANUAL,
        inbox_prefix=f"{_INBOX}.".encode(),
        decoder=_as_sent,
        title="SentMessages",
        description="bridge.{source}.{target}.{type}: messages as they were sent",
    )
    async def verify_and_deliver(message: SentMessage) -> None:
        await receive(message.raw, deliver)

    broker.publisher(
        "inbox.{target}.{source}.{type}",
        schema=SignedMessage,
        title="VerifiedMessages",
        description="The same messages, verified, for their receivers",
    )
    return broker
