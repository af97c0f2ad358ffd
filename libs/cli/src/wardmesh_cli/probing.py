"""How a mesh is, asked without being anybody in it: services over the broker, streams at its monitoring page.

The `operator` user of the broker may ask services how they are (`$SRV.PING`, `$SRV.STATS`) and nothing else. The
monitoring page answers on its own machine only.

What always holds: a probe changes nothing, and every wait in it is bounded.

On failure: `ServiceUnavailable` if no broker answers, `CredentialRefused` if it does not know the operator.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardmesh.errors import CredentialRefused, ServiceUnavailable
from wardmesh.tls import connect_options

OPERATOR: Final = "operator"
CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 0.5
"""How long services get to answer; a healthy one needs a millisecond."""
MAX_ANSWERS: Final = 1000
_BUCKET = "KV_"
DEGRADED: Final = "degraded."
"""Begins the metadata that say what of a process must be looked at."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Endpoint(_Answer):
    name: str
    num_requests: int = 0
    num_errors: int = 0
    average_processing_time: int = 0


class ServiceStats(_Answer):
    """What one process of a service says of itself (ADR-32)."""

    name: str
    id: str
    version: str = ""
    started: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)
    endpoints: list[Endpoint] = Field(default_factory=list)

    @property
    def degraded(self) -> dict[str, str]:
        """What works and must be looked at, by the name of the part."""
        return {name.removeprefix(DEGRADED): what for name, what in self.metadata.items() if name.startswith(DEGRADED)}

    @property
    def requests(self) -> int:
        return sum(endpoint.num_requests for endpoint in self.endpoints)

    @property
    def errors(self) -> int:
        return sum(endpoint.num_errors for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far one reader of a stream is."""

    stream: str
    name: str
    waiting: int
    """Messages that it has not been given yet."""
    unacknowledged: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream, and whoever reads it."""

    name: str
    messages: int
    bytes: int
    replicas: int
    leader: str | None
    consumers: tuple[ConsumerState, ...]

    @property
    def is_bucket(self) -> bool:
        return self.name.startswith(_BUCKET)


ASKED_ONCE: Final[dict[str, Any]] = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
"""nats-py asks a broker that is down sixty times, two seconds apart, also where it is not to reconnect."""


async def connect_operator(url: str, seed: str, tls: ssl.SSLContext | None) -> Client:
    """Return a connection of the operator, whose nkey has that seed."""

    async def ignore(_error: Exception) -> None:
        pass  # a refusal is raised as well

    try:
        return await nats.connect(
            url.split(","),
            nkeys_seed_str=seed,
            inbox_prefix=f"_INBOX.{OPERATOR}",
            name="wardmesh-status",
            **connect_options(tls, required=tls is not None),
            **ASKED_ONCE,
            connect_timeout=round(CONNECT_SECONDS),
            error_cb=ignore,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if "authorization" in str(error).lower():
            raise CredentialRefused("The broker does not know this operator; its seed is of another mesh.") from error
        raise ServiceUnavailable(f"No broker answers at {url}: check the address, and that it is up.") from error


def version_of(connection: Client) -> str:
    """Return the version of the server at the other end."""
    version = connection.connected_server_version
    return f"{version.major}.{version.minor}.{version.patch}"


async def services(connection: Client, *, seconds: float = ANSWER_SECONDS) -> list[ServiceStats]:
    """Return every process that answers, by service and id."""
    found: list[ServiceStats] = []

    async def heard(message: Msg) -> None:
        try:
            found.append(ServiceStats.model_validate_json(message.data))
        except ValidationError:
            return  # not one of ours

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, cb=heard, pending_msgs_limit=MAX_ANSWERS)
    await connection.publish("$SRV.STATS", reply=inbox)
    await connection.flush()
    await asyncio.sleep(seconds)
    await subscription.unsubscribe()
    return sorted(found, key=lambda stats: (stats.name, stats.id))


async def streams(monitoring_url: str, transport: httpx2.AsyncBaseTransport | None = None) -> list[StreamState]:
    """Return all streams of the broker, in whichever account they are."""
    async with httpx2.AsyncClient(trust_env=False, timeout=CONNECT_SECONDS, transport=transport) as client:
        try:
            answer = await client.get(
                f"{monitoring_url}/jsz",
                params={"accounts": "true", "streams": "true", "consumers": "true", "config": "true"},
            )
            details: Sequence[dict[str, Any]] = json.loads(answer.content).get("account_details") or []
        except (httpx2.HTTPError, ValueError, AttributeError) as error:
            raise ServiceUnavailable(f"The broker's monitoring page does not answer at {monitoring_url}.") from error
    found = [_stream(stream) for account in details for stream in account.get("stream_detail") or []]
    return sorted(found, key=lambda stream: (stream.is_bucket, stream.name))


def _stream(detail: dict[str, Any]) -> StreamState:
    state, name = detail.get("state") or {}, str(detail.get("name"))
    return StreamState(
        name=name,
        messages=int(state.get("messages", 0)),
        bytes=int(state.get("bytes", 0)),
        replicas=int((detail.get("config") or {}).get("num_replicas", 1)),
        leader=(detail.get("cluster") or {}).get("leader"),
        consumers=tuple(
            ConsumerState(
                stream=name,
                name=str(consumer.get("name")),
                waiting=int(consumer.get("num_pending", 0)),
                unacknowledged=int(consumer.get("num_ack_pending", 0)),
            )
            for consumer in detail.get("consumer_detail") or []
            if (consumer.get("config") or {}).get("durable_name")  # the others are watchers, here today
        ),
    )
