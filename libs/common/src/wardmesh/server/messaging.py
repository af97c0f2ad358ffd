"""One NATS connection of a service, with what a service needs of it.

What always holds:
- Replies come to an inbox of the service's own (`_INBOX.{service}.…`).
- `publish` returns when the stream has every message on disk, and every wait in it is bounded: a publish whose
  expectation fails leaves nats-py's future pending for ever (nats.py#985).
- When the connection is closed for good, `closed` is set and the process ends: a service that can hear nothing is
  worse than one that a supervisor starts anew.

On failure: `ServiceUnavailable`, retryable.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from wardmesh.errors import ServiceUnavailable
from wardmesh.server.messages import OutboundMessage

PUBLISH_TIMEOUT_SECONDS: Final = 5.0
DRAIN_TIMEOUT_SECONDS: Final = 10
RECONNECT_WAIT_SECONDS: Final = 0.25
DECLARE_ATTEMPTS: Final = 20
DECLARE_WAIT_SECONDS: Final = 0.5
MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""What may wait in memory while the broker is away; beyond it, publishing fails at once."""

_log = logging.getLogger(__name__)
_ResultT = TypeVar("_ResultT")


class Messaging:
    """Connect with `connect`; end with `drain`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nats = Client()
        self.closed = asyncio.Event()
        self.drift: dict[str, list[str]] = {}
        """Streams that are not as declared: name → fields. Shown by `ready`, never overwritten in silence."""
        self._on_disconnect: list[Callable[[], None]] = []
        self._jetstream: JetStreamContext | None = None

    @property
    def jetstream(self) -> JetStreamContext:
        if self._jetstream is None:
            self._jetstream = self.nats.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)
        return self._jetstream

    async def connect(self, servers: Sequence[str], *, seed: str, ca_file: Path | None = None) -> Self:
        """Connect as the nkey user of `seed`; wait for the broker as long as it takes."""
        options: dict[str, Any] = {}
        if ca_file is not None:
            options["tls"] = tls_context(ca_file)
        await self.nats.connect(
            list(servers),
            name=f"wardmesh-{self.name}",
            nkeys_seed_str=seed,
            inbox_prefix=f"_INBOX.{self.name}",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # it sleeps that long; a float does
            connect_timeout=5,
            drain_timeout=DRAIN_TIMEOUT_SECONDS,
            pending_size=MAX_PENDING_BYTES,
            error_cb=self._error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            **options,
        )
        return self

    @property
    def is_connected(self) -> bool:
        return bool(self.nats.is_connected)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Run `callback` each time that the connection is lost."""
        self._on_disconnect.append(callback)

    async def drain(self) -> None:
        """Finish what has arrived, send what was published, and close."""
        if not self.nats.is_closed:
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS + 1):
                    await self.nats.drain()
            except (nats.errors.Error, TimeoutError):
                await self.nats.close()

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        """Publish in order; return when every message is durable, raise if one may not be."""
        if not messages:
            return
        if not self.nats.is_connected:
            raise ServiceUnavailable("The message broker is not connected.")
        pending: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                pending.extend(
                    [
                        await self.jetstream.publish_async(
                            message.subject, message.payload, headers=message.wire_headers() or None
                        )
                        for message in messages
                    ]
                )
                await asyncio.gather(*pending)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            _log.warning("durable publish failed: %s", type(error).__name__)
            raise ServiceUnavailable("The message broker did not confirm the message.") from None
        finally:
            for future in pending:
                future.cancel()

    async def ensure_stream(self, config: StreamConfig, *, replicas: int = 1) -> None:
        """Declare a stream: create it if it is not there, and report where an existing one differs.

        A stream with other settings is left as it is: changing one under load is an operator's decision.
        """
        config = replace(config, num_replicas=replicas)
        info = await _patiently(lambda: self._create_or_read(config))
        present = info.as_dict()
        differing = [
            name
            for name, declared in config.as_dict().items()
            if name in _COMPARED
            and declared is not None
            and present.get(name) != declared
            # No window declared means the server's own.
            and (declared or name != "duplicate_window")
        ]
        if differing:
            self.drift[str(config.name)] = differing
            _log.warning("stream %s is not as declared: %s", config.name, ", ".join(differing))

    async def _create_or_read(self, config: StreamConfig) -> StreamConfig:
        try:
            return (await self.jetstream.stream_info(str(config.name))).config
        except nats.js.errors.NotFoundError:
            return (await self.jetstream.add_stream(config)).config

    async def _error(self, error: Exception) -> None:
        # The text may quote subjects, never payloads; the type says enough.
        _log.warning("broker connection: %s", type(error).__name__)

    async def _disconnected(self) -> None:
        _log.warning("broker connection lost")
        for callback in self._on_disconnect:
            callback()

    async def _reconnected(self) -> None:
        _log.info("broker connection is back")

    async def _closed(self) -> None:
        self.closed.set()


_COMPARED: Final = frozenset(
    {
        "subjects", "retention", "storage", "num_replicas", "max_age", "max_bytes", "max_msgs", "discard",
        "max_msg_size", "duplicate_window", "allow_direct", "deny_delete", "deny_purge",
    }
)  # fmt: skip


async def _patiently(attempt: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
    for left in range(DECLARE_ATTEMPTS, 0, -1):
        try:
            return await attempt()
        except (nats.errors.Error, TimeoutError):
            # A cluster that has just started has no JetStream leader yet.
            if left == 1:
                raise
            await asyncio.sleep(DECLARE_WAIT_SECONDS)
    raise AssertionError


def tls_context(ca_file: Path) -> ssl.SSLContext:
    """Return a client's TLS settings: 1.2 at least, the authority of `ca_file` and no other."""
    context = ssl.create_default_context(cafile=str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
