"""A service's process, from start to end: everything that the five have in common is put together here.

    start    logging → broker → database → keys and revocations → outbox relay → the service's own → operations
    stop     operations stop taking, finish what is in hand → the service's own → relay and audit drain → connections

What always holds: a request is answered only between `ready` and the end of what is in hand. If a part dies that
the service cannot do without (the broker's connection closed for good, a background task), the process ends with a
non-zero status, for its supervisor to start it anew.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

from joserfc.jwk import OKPKey

from wardmesh import header_parser
from wardmesh.contracts import of_service
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent
from wardmesh.errors import WardmeshError
from wardmesh.headers import TRACE_PARENT
from wardmesh.ids import EventId, Scope
from wardmesh.server import telemetry
from wardmesh.server.authenticator import TokenAuthenticator
from wardmesh.server.database import Connection, Database
from wardmesh.server.health import Health
from wardmesh.server.http import serving
from wardmesh.server.messaging import Messaging
from wardmesh.server.micro import DEGRADED, MicroService
from wardmesh.server.mirror import Mirror
from wardmesh.server.operations import Operations
from wardmesh.server.outbox import Outbox, Relay
from wardmesh.server.publishing import AuditPublisher
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.server.settings import ServiceSettings, read_seed
from wardmesh.server.tokens import import_key
from wardmesh.subjects import AuditSubject

VERSION: Final = "0.1.0"
COLLECT_AFTER: Final = 20_000
"""Objects more than there were, instead of 700: a batch of events is larger, and not a circle is among them."""
_log = logging.getLogger(__name__)
SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class OutboxAudit:
    """Writes audit events into a service's outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def put_audit(self, connection: Connection, scope: Scope, event: AuditEvent) -> None:
        """Write `event` to the outbox, in the connection's transaction."""
        trace_parent = telemetry.trace_parent()
        await self._outbox.put(
            connection,
            AuditSubject(scope, self._outbox.service).format(),
            AuditEnvelope(events=(event,)).model_dump_json(exclude_defaults=True).encode(),
            {} if trace_parent is None else {TRACE_PARENT: trace_parent},
            message_id=EventId(event.id),
        )


class Runtime:
    """What a service's `app.build` is given."""

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        self.service = service
        self.settings = settings
        self.instance = os.urandom(8).hex()
        self.health = Health()
        self.health.add("service", self._check_answering)
        self._answering = False
        self.messaging = Messaging(service)
        self.database = Database(settings.database(), application=f"wardmesh-{service}")
        self.outbox = Outbox(service)
        self.audit_outbox = OutboxAudit(self.outbox)
        self.audit = AuditPublisher(self.messaging, service)
        self.keys: Mirror[OKPKey] = Mirror(self.messaging, "jwks", _read_key)
        self.revocations: Mirror[float] = Mirror(self.messaging, "revocations", _read_time)
        self.authenticator = TokenAuthenticator(
            self.keys, self.revocations, issuer=settings.issuer, is_ready=self._knows_keys
        )
        self.operations = Operations(
            service,
            self.authenticator,
            self.audit,
            outbox=self.audit_outbox,
            limiter=RateLimiter(Rate(settings.calls_per_second, settings.calls_burst)),
            max_in_flight=settings.max_in_flight,
            max_long_polls=settings.max_long_polls,
        )
        self.ended = asyncio.Event()
        """Set when the process shall end."""
        self.failure: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._on_stop: list[Callable[[], None]] = []

    def background(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` until the service stops; if it ends before, the process does."""
        self._tasks.append(asyncio.create_task(self._supervised(name, work), name=name))

    def on_stop(self, end: Callable[[], None]) -> None:
        """Call `end` when stopping begins, before what is in hand is waited for: to end long polls."""
        self._on_stop.append(end)

    def fail(self, reason: str) -> None:
        """End the process: it cannot do its work."""
        _log.error("ending: %s", reason)
        self.failure = self.failure or reason
        self.ended.set()

    async def _supervised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the process cannot go on without this part
            self.fail(f"{name}: {type(error).__name__}")
        else:
            self.fail(f"{name} ended")

    def _knows_keys(self) -> bool:
        return self.keys.ready.is_set() and self.revocations.ready.is_set()

    async def _check_answering(self) -> str | None:
        return None if self._answering else "does not answer requests yet, or no more"

    async def _check_broker(self) -> str | None:
        if not self.messaging.is_connected:
            return "not connected"
        return "streams are not as declared: " + ", ".join(self.messaging.drift) if self.messaging.drift else None

    async def _check_keys(self) -> str | None:
        return None if self._knows_keys() else "signing keys and revocations are not known yet"

    async def _check_database(self) -> str | None:
        try:
            await self.database.ping()
        except WardmeshError as error:
            return error.code
        return None

    async def _end_with_broker(self) -> None:
        await self.messaging.closed.wait()

    @asynccontextmanager
    async def parts(self) -> AsyncIterator[None]:
        """Everything below the service itself, open while the block runs."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            if settings.health_port:
                await stack.enter_async_context(
                    serving(self.health.application(), settings.health_host, settings.health_port)
                )
            await self.messaging.connect(
                settings.nats_servers(), seed=read_seed(settings.nats_seed_file), ca_file=settings.nats_ca_file
            )
            stack.push_async_callback(self.messaging.drain)
            await stack.enter_async_context(self.database)
            self.audit.start()
            stack.push_async_callback(self.audit.stop)
            relay = Relay(self.database, self.outbox, self.messaging.publish)
            relay.start()
            stack.push_async_callback(relay.stop)
            stack.push_async_callback(self._cancel_tasks)
            self.background("broker connection", self._end_with_broker)
            self.background("signing keys", self.keys.run)
            self.background("revocations", self.revocations.run)
            self.health.add("broker", self._check_broker)
            self.health.add("database", self._check_database)
            self.health.add("keys", self._check_keys)
            yield

    def _metadata(self) -> dict[str, str]:
        return {f"{DEGRADED}{name}": reason for name, reason in self.health.degraded().items()}

    async def answering(self) -> AsyncExitStack:
        """Begin to answer; closing the stack ends it."""
        stack = AsyncExitStack()
        endpoints = self.operations.stats()
        description = f"wardmesh {self.service}"
        micro = MicroService(self.service, self.instance, VERSION, description, endpoints, self._metadata)
        await micro.start(self.messaging.nats)
        await self.operations.start(self.messaging.nats)
        stack.push_async_callback(self.operations.stop)
        self._answering = True
        stack.callback(self._no_more)
        return stack

    def _no_more(self) -> None:
        self._answering = False

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


Build = Callable[[Runtime, SettingsT], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def running(service: str, settings: SettingsT, build: Build[SettingsT]) -> AsyncIterator[Runtime]:
    """A service that answers while the block runs, in this process. For `main`, and for tests."""
    runtime = Runtime(service, settings)
    async with runtime.parts(), build(runtime, settings):
        unanswered = {contract.key for contract in of_service(service)} - runtime.operations.bound
        if unanswered:
            raise RuntimeError(f"{service} has no handler for {', '.join(sorted(unanswered))}")
        async with await runtime.answering():
            try:
                yield runtime
            finally:
                for end in runtime._on_stop:
                    end()


def main(service: str, settings_class: type[SettingsT], build: Build[SettingsT]) -> None:
    """Run a service until SIGTERM or SIGINT; exit with 70 if it could not go on, or could not begin."""
    if not header_parser.is_usable():
        sys.stderr.write(f"{header_parser.ADVICE}\n")
        sys.exit(70)
    settings = settings_class()
    telemetry.configure_logging(service, settings.log_level)
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        failure = runner.run(_run(service, settings, build))
    if failure is not None:
        sys.exit(70)  # EX_SOFTWARE


async def _run(service: str, settings: SettingsT, build: Build[SettingsT]) -> str | None:
    telemetry.configure_export(service, settings.otlp_endpoint)
    async with running(service, settings, build) as runtime:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runtime.ended.set)
        _leave_in_peace()
        _log.info("ready")
        await runtime.ended.wait()
        _log.info("stopping")
    return runtime.failure


def _leave_in_peace() -> None:
    """Have the collector look seldom, and no more at what was made once and stays: modules, models, statements."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def _event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _read_key(value: bytes) -> OKPKey:
    return import_key(json.loads(value))


def _read_time(value: bytes) -> float:
    return float(value)
