"""One NATS connection of a service, with what a service needs of it.

What always holds:
- Replies come to an inbox of the service's own (`_INBOX.{service}.…`).
- `publish` returns when the stream has every message on disk, and every wait in it is bounded: a publish whose
  expectation fails leaves nats-py's future pending for ever (nats.py#985).
- When the connection is closed for good, `closed` is set and the process ends: a service that can hear nothing is
  worse than one that a supervisor starts anew.

On failure: `ServiceUnavailable` where nothing came of it, `OutcomeUnknown` where something may have. Both may pass by
themselves; only who may do it twice sends again after the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from wardmesh import tls
from wardmesh.errors import OutcomeUnknown, ServiceUnavailable, WardmeshError
from wardmesh.server.broker import stream_of_bucket
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.streams import SIZES, Choices, declared, drift

PUBLISH_TIMEOUT_SECONDS: Final = 5.0
DRAIN_TIMEOUT_SECONDS: Final = 10
RECONNECT_WAIT_SECONDS: Final = 0.25
CANCEL_SECONDS: Final = 0.05
CLOSE_SECONDS: Final = 1.0
"""After a TLS handshake that failed, nats-py waits without end for a stream to close that nobody holds any more."""
EXPECT_SECONDS: Final = 60.0
"""How long a service waits for its streams; then it ends, and its supervisor tries again."""
EXPECT_WAIT_SECONDS: Final = 0.1
MAX_PENDING_BYTES: Final = 16 * 1024 * 1024
"""What may wait in memory while the broker is away; beyond it, publishing fails at once."""

_log = logging.getLogger(__name__)


class Messaging:
    """Connect with `connect`; end with `drain`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nats = Client()
        self.closed = asyncio.Event()
        self.drift: dict[str, list[str]] = {}
        """Streams that are not as declared: name → fields. Shown by `ready`, never overwritten in silence."""
        self._on_disconnect: list[Callable[[], None]] = []
        self._unconfirmed: set[asyncio.Future[Any]] = set()
        self._jetstream: JetStreamContext | None = None
        self._failed: Callable[[Exception], None] = _nothing

    @property
    def jetstream(self) -> JetStreamContext:
        if self._jetstream is None:
            self._jetstream = self.nats.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)
        return self._jetstream

    async def connect(self, servers: Sequence[str], *, seed: str, ca_file: Path | None = None) -> Self:
        """Connect as the nkey user of `seed`; wait for the broker as long as it takes.

        Raises `ServiceUnavailable` if something answers that can't be trusted: waiting would not help.
        """
        options = tls_options(servers, ca_file)
        while True:
            failures: asyncio.Queue[Exception] = asyncio.Queue()
            self._failed = failures.put_nowait if options else _nothing
            connecting = asyncio.ensure_future(self._connect(servers, seed, options))
            failing = asyncio.ensure_future(failures.get())
            try:
                await asyncio.wait((connecting, failing), return_when=asyncio.FIRST_COMPLETED)
                if connecting.done():
                    await connecting
                    return self
                error = failing.result()
                if tls.is_distrust(error):
                    raise ServiceUnavailable(tls.advice(error)) from error
            finally:
                self._failed = _nothing
                failing.cancel()
                while not connecting.done():  # nats-py swallows a cancellation now and then
                    connecting.cancel()
                    await asyncio.wait((connecting,), timeout=CANCEL_SECONDS)
            self.nats = Client()  # the other one waits without end, as above
            await asyncio.sleep(RECONNECT_WAIT_SECONDS)

    async def _connect(self, servers: Sequence[str], seed: str, options: dict[str, Any]) -> None:
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

    @property
    def is_connected(self) -> bool:
        return bool(self.nats.is_connected)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Run `callback` each time that the connection is lost."""
        self._on_disconnect.append(callback)

    async def drain(self) -> None:
        """Finish what has arrived, send what was published, and close."""
        if self.nats.is_closed:
            return
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS + 1):
                await self.nats.drain()
        except (nats.errors.Error, TimeoutError):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.nats.close()

    async def publish(self, messages: Sequence[OutboundMessage]) -> None:
        """Publish in order; return when every message is durable.

        Raises `ServiceUnavailable` if none of them is in a stream, `OutcomeUnknown` if one is or may be.
        """
        if not messages:
            return
        if not self.nats.is_connected:
            raise ServiceUnavailable("The message broker is not connected.")
        pending: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_SECONDS):
                for message in messages:
                    confirmed = await self.jetstream.publish_async(
                        message.subject, message.payload, headers=message.wire_headers() or None
                    )
                    pending.append(confirmed)
                    self._unconfirmed.add(confirmed)
                # All of them: whether another was refused too decides whether there is doubt.
                await asyncio.gather(*pending, return_exceptions=True)
                for confirmed in pending:
                    confirmed.result()
        except (nats.errors.Error, TimeoutError, OSError) as error:
            _log.warning("durable publish failed: %s", type(error).__name__)
            raise _unconfirmed(error, pending) from None
        finally:
            for future in pending:
                self._unconfirmed.discard(future)
                if not future.cancel() and not future.cancelled():
                    future.exception()  # looked at: asyncio would complain of those behind the first that failed

    async def expect_stream(self, name: str, *, replicas: int = 1) -> None:
        """Wait until a stream of `server.streams` is there, and report where it is not as declared.

        A stream with other settings is left as it is: changing one under load is an operator's decision. Raises
        `ServiceUnavailable` if it is not there in `EXPECT_SECONDS`.
        """
        declaration = declared(Choices(replicas=replicas))[name]
        try:
            async with asyncio.timeout(EXPECT_SECONDS):
                present = await self._wait_for_stream(name)
        except TimeoutError:
            raise ServiceUnavailable(
                f"Stream {name} is not there; declare it with `python -m wardmesh.server.provision`."
            ) from None
        differing = drift(declaration, present, besides=SIZES)
        if differing:
            self.drift[name] = differing
            _log.warning("stream %s is not as declared: %s", name, ", ".join(differing))

    async def expect_bucket(self, name: str, *, replicas: int = 1) -> None:
        """Wait until a key-value bucket is there; otherwise as `expect_stream`."""
        await self.expect_stream(stream_of_bucket(name), replicas=replicas)

    async def _wait_for_stream(self, name: str) -> StreamConfig:
        said = False
        while True:
            try:
                return (await self.jetstream.stream_info(name)).config
            except (nats.errors.Error, TimeoutError):
                # Not declared yet, or a cluster that has just started has no JetStream leader.
                if not said:
                    _log.info("waiting for stream %s", name)
                    said = True
                await asyncio.sleep(EXPECT_WAIT_SECONDS)

    async def _error(self, error: Exception) -> None:
        # The text may quote subjects, never payloads; the type says enough.
        _log.warning("broker connection: %s", type(error).__name__)
        if tls.is_distrust(error):
            _log.error("%s", tls.advice(error))
        self._failed(error)

    async def _disconnected(self) -> None:
        _log.warning("broker connection lost")
        for future in self._unconfirmed:
            if not future.done():  # its confirmation was on the connection that is gone, and nowhere else
                future.set_exception(nats.errors.ConnectionClosedError())
        for callback in self._on_disconnect:
            callback()

    async def _reconnected(self) -> None:
        _log.info("broker connection is back")

    async def _closed(self) -> None:
        self.closed.set()


def _nothing(_error: Exception) -> None:
    pass


def _unconfirmed(error: Exception, sent: Sequence[asyncio.Future[Any]]) -> WardmeshError:
    """Return what is to be said of a publish that ended in `error` after these messages had been handed over."""
    # That no stream takes it is known for sure. A stream's own refusal is not: nats-py lets its future pend for ever
    # (nats.py#985), so it is a time-out here.
    handing_over = isinstance(error, TimeoutError | OSError)  # one more may be on its way
    if handing_over or not all(_is_nobodys(future) for future in sent):
        return OutcomeUnknown("The message broker did not confirm the message; it may have it.")
    return ServiceUnavailable("The message broker has no stream for the message now.")


def _is_nobodys(sent: asyncio.Future[Any]) -> bool:
    return sent.done() and isinstance(sent.exception(), nats.js.errors.NoStreamResponseError)


def tls_options(servers: Sequence[str], ca_file: Path | None) -> dict[str, Any]:
    """Return what nats-py is told of TLS: it is required if an address says so, or an authority is named."""
    context = None if ca_file is None else tls.trusting(ca_file)
    return tls.connect_options(context, required=context is not None or tls.is_asked_for(servers))
