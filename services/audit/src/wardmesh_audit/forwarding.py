"""Sends logs on to where their scopes want them: batch by batch, in order, each at least once.

    lease → read what a tail would → send → move the cursor, and hold the lease → … → give it back

What always holds:
- The cursor moves when the endpoint has taken the batch, and never before. Whatever dies in between, the batch is sent
  again; nothing is passed over.
- Any number of replicas run. A lease is held by one at a time; who is too slow loses it, and then moves nothing.
- Work is bounded: `TURNS` forwarders at a time in one process, a page of entries in memory for each, a time for each
  batch, and a turn ends after `TURN_SECONDS` so that the others get theirs.

On failure: the forwarder waits, twice as long after each failure in a row up to five minutes, and goes on where it was,
for as long as that takes. The log says when one begins to fail and when it is well again, not at each attempt. Trouble
of our own, the database's for instance, is nobody's failure: the lease runs out, and somebody else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opentelemetry import metrics

from wardmesh.contracts.audit import AuditEvent, Outcome, parse_address
from wardmesh.contracts.fields import MAX_PAGE
from wardmesh.contracts.operation import Category
from wardmesh.crypto.errors import Undecryptable
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId, ServiceId
from wardmesh_audit.batches import TOLD_AFTER, Batch, pause_seconds
from wardmesh_audit.behalf import the_log
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.forward_vault import ForwardVault
from wardmesh_audit.ports_forwarding import (
    BatchTooLarge,
    Endpoint,
    Following,
    ForwardingStore,
    Leased,
    NotDelivered,
    Sender,
    StoredForwarder,
    Target,
)

FAILING: Final = "audit_forwarder.failing"
WELL: Final = "audit_forwarder.well"
TURNS: Final = 8
"""Forwarders that one process is at. Each waits for somebody else's server and little else."""
TURN_SECONDS: Final = 20.0
POLL_SECONDS: Final = 1.0
"""How late an entry may be told of; one look at the cursors of all scopes each time."""

_meter = metrics.get_meter("wardmesh")
_forwarded = _meter.create_counter("wardmesh.audit.forwarded", unit="{entry}", description="Entries sent on and taken")
_refused = _meter.create_counter(
    "wardmesh.audit.not_forwarded", unit="{batch}", description="Batches that an endpoint did not take"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    batch: float = 10.0
    """An endpoint's time for one batch; a sender's bound is the same."""
    turn: float = TURN_SECONDS
    poll: float = POLL_SECONDS

    @property
    def lease(self) -> float:
        """Longer than a batch with all that is around it; a replica that dies is missed for as long."""
        return 2 * self.batch + 2.0


class Forwarding:
    """The background task of one process."""

    def __init__(
        self,
        store: ForwardingStore,
        log: Following,
        sender: Sender,
        vault: ForwardVault,
        clock: Callable[[], datetime],
        *,
        timing: Timing = Timing(),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._log = log
        self._sender = sender
        self._vault = vault
        self._clock = clock
        self._timing = timing
        self._jitter = jitter
        self._turns: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Forward, for ever; after `stop`, wait to be cancelled."""
        while True:
            if not self._stopping:
                await self.begin_turns()
            await asyncio.sleep(self._timing.poll)

    async def stop(self) -> None:
        """Begin nothing more, and finish the batches in hand, within the time of one."""
        self._stopping = True
        if self._turns:
            _, late = await asyncio.wait(self._turns, timeout=self._timing.batch + 1.0)
            for turn in late:
                turn.cancel()
            if late:
                await asyncio.wait(late)

    async def begin_turns(self) -> None:
        """Begin a turn for each forwarder that waits for one, as far as there is room."""
        room = TURNS - len(self._turns)
        if room <= 0:
            return
        try:
            leased = await self._store.lease(room, self._timing.lease)
        except WardmeshError as error:
            _log.warning("forwarding is put off: %s", error.code)
            return
        except Exception:  # noqa: BLE001 - a defect here must not end the service
            _log.exception("a defect while looking for what is to be forwarded")
            return
        for each in leased:
            turn = asyncio.create_task(self._turn(each), name=f"forward-{each.forwarder.scope}")
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)

    async def turns_end(self) -> None:
        """Wait until nothing is in hand."""
        while self._turns:
            await asyncio.wait(self._turns)

    async def _turn(self, leased: Leased) -> None:
        forwarder = leased.forwarder
        try:
            await self._forward(leased)
        except NotDelivered as error:
            await self._failed(leased, error)
        except LogDamaged as error:
            _log.critical("the log of %s is not forwarded: %s", forwarder.scope, error.detail)
            await self._failed(leased, NotDelivered("log_damaged"))
        except WardmeshError as error:
            _log.warning("forwarding of a log is put off: %s", error.code)
        except Exception:  # noqa: BLE001 - a defect here must not end the service
            _log.exception("a defect while forwarding")

    async def _forward(self, leased: Leased) -> None:
        """Send all there is, or as much as fits a turn; give the lease back unless it is lost."""
        forwarder = leased.forwarder
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._timing.turn
        place, limit, delivered_before = forwarder.next_start, MAX_PAGE, False
        tenant = the_log(forwarder.scope)
        async with _Lazily(self._sender, lambda: target_of(forwarder, self._vault)) as endpoint:
            while not self._stopping and loop.time() < ends_at:
                page = await self._log.following(tenant, forwarder.filter, start=place, limit=limit)
                if page.next_start <= place:
                    break
                if page.entries:
                    batch = Batch(forwarder.scope, forwarder.name, page.entries)
                    try:
                        await (await endpoint.opened()).send(batch)
                    except BatchTooLarge:
                        if len(page.entries) == 1:
                            raise
                        limit = len(page.entries) // 2
                        continue
                    except NotDelivered as error:
                        if not delivered_before:
                            raise
                        # What was taken before in this turn counts: this is the first failure in a row.
                        raise _FirstFailure(error) from error
                    _forwarded.add(len(page.entries))
                    delivered_before = True
                place = page.next_start
                if not await self._store.advance(
                    leased,
                    place,
                    delivered=bool(page.entries),
                    seconds=self._timing.lease,
                    well=self._event(forwarder, WELL, Outcome.SUCCESS, None),
                ):
                    return
        await self._store.release(leased)

    async def _failed(self, leased: Leased, error: NotDelivered) -> None:
        _refused.add(1)
        forwarder = leased.forwarder
        failures = 1 if isinstance(error, _FirstFailure) else forwarder.failures + 1
        try:
            await self._store.failed(
                leased,
                error.error,
                pause_seconds=pause_seconds(failures, error.retry_after_seconds, self._jitter()),
                told_after=TOLD_AFTER,
                event=self._event(forwarder, FAILING, Outcome.FAILED, error.error),
            )
        except WardmeshError as trouble:
            _log.warning("a failure to forward could not be noted: %s", trouble.code)

    def _event(self, forwarder: StoredForwarder, action: str, outcome: Outcome, reason: str | None) -> AuditEvent:
        return AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.ADMINISTRATION,
            action=action,
            outcome=outcome,
            actor=ServiceId.nil(),
            targets=(forwarder.name,),
            reason=reason,
        )


class _FirstFailure(NotDelivered):
    """A failure after a success in the same turn."""

    def __init__(self, error: NotDelivered) -> None:
        super().__init__(error.error, retry_after_seconds=error.retry_after_seconds)


class _Lazily:
    """A connection that is made when there is something to send: most looks find nothing that matches."""

    def __init__(self, sender: Sender, target: Callable[[], Target]) -> None:
        self._sender = sender
        self._target = target
        self._stack = contextlib.AsyncExitStack()
        self._endpoint: Endpoint | None = None

    async def __aenter__(self) -> _Lazily:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def opened(self) -> Endpoint:
        if self._endpoint is None:
            self._endpoint = await self._stack.enter_async_context(self._sender.open(self._target()))
        return self._endpoint


def target_of(forwarder: StoredForwarder, vault: ForwardVault) -> Target:
    """Return where a forwarder sends to; raise `NotDelivered` if what it hides does not open."""
    place = parse_address(forwarder.address)
    try:
        hidden = vault.open(
            forwarder.scope, forwarder.name, forwarder.address, forwarder.secret_header, forwarder.sealed
        )
    except Undecryptable:
        raise NotDelivered("secret_unusable") from None
    return Target(
        scheme=place.scheme,
        host=place.host,
        port=place.port,
        path=hidden.path,
        header=forwarder.secret_header,
        secret=hidden.secret,
        format=forwarder.format,
        client=hidden.client,
        attempt=forwarder.failures,
    )
