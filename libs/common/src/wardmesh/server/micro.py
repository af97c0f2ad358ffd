"""The answers that make a service visible to `nats micro ls`, `info`, `ping` and `stats` (NATS ADR-32).

Ours and not nats-py's `nats.micro`, for three reasons: it runs one handler at a time per endpoint and counts errors
and time only of what the handler itself awaits, so a service that starts a task a request would show neither; one
subscription for all of a service's operations lets an unknown one be answered instead of going unheard; and it
answers to whatever reply subject it is given.

Source: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic_core import to_json

PREFIX: Final = "$SRV"
TYPE_PREFIX: Final = "io.nats.micro.v1."
QUEUE_GROUP: Final = "q"
DEGRADED: Final = "degraded."
"""Begins the metadata that say what of a process must be looked at."""


@dataclass(slots=True)
class EndpointStats:
    """What happened at one operation since the process began."""

    name: str
    subject: str
    requests: int = 0
    errors: int = 0
    processing_nanoseconds: int = 0
    last_error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "subject": self.subject,
            "queue_group": QUEUE_GROUP,
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.processing_nanoseconds,
            "average_processing_time": self.processing_nanoseconds // max(1, self.requests),
        }


@dataclass
class MicroService:
    """Answers for one process of one service."""

    name: str
    instance: str
    version: str
    description: str
    endpoints: Iterable[EndpointStats]
    metadata: Callable[[], Mapping[str, str]] = dict
    """What else there is to know of this process; ADR-32 has a place for it in every answer."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _subscriptions: list[Subscription] = field(default_factory=list, repr=False)

    async def start(self, client: Client) -> None:
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            for subject in (
                f"{PREFIX}.{verb}",
                f"{PREFIX}.{verb}.{self.name}",
                f"{PREFIX}.{verb}.{self.name}.{self.instance}",
            ):
                self._subscriptions.append(await client.subscribe(subject, cb=_answering(answer)))

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "type": TYPE_PREFIX + kind,
            "name": self.name,
            "id": self.instance,
            "version": self.version,
            "metadata": self.metadata(),
        }

    def _ping(self) -> dict[str, Any]:
        return self._head("ping_response")

    def _info(self) -> dict[str, Any]:
        return self._head("info_response") | {
            "description": self.description,
            "endpoints": [
                {"name": item.name, "subject": item.subject, "queue_group": QUEUE_GROUP, "metadata": {}}
                for item in self.endpoints
            ],
        }

    def _stats(self) -> dict[str, Any]:
        return self._head("stats_response") | {
            "started": self.started.isoformat().replace("+00:00", "Z"),
            "endpoints": [item.as_dict() for item in self.endpoints],
        }


def _answering(answer: Callable[[], dict[str, Any]]) -> Callable[[Msg], Awaitable[None]]:
    async def respond(message: Msg) -> None:
        # Only operators may ask (no client can publish to $SRV), and only into an inbox.
        if message.reply.startswith("_INBOX."):
            await message.respond(to_json(answer()))

    return respond
