"""The alarm of a log that would fork: raised where signing is refused, quiet again once a head of that log is signed.

It says so where people look: the service's log (critical), a metric, `/ready` and `wardmesh status` (degraded, and
still serving: sealing goes on), and an entry in the mesh's own log, which is another log than the one in doubt.

What always holds: the refusal is answered whatever becomes of the alarm; a scope is told of once for as long as it
lasts, by each process; what is remembered is bounded.

On failure: an entry that cannot be written in time is a line in the service's log, and is tried at the next refusal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from opentelemetry import metrics

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId, OrgId, Scope, ServiceId
from wardmesh_audit.ports import Emitter

ACTION: Final = "audit.signing_refused"
EMIT_SECONDS: Final = 2.0
"""How long the entry may take; whoever asked for a checkpoint waits meanwhile."""
MAX_SCOPES: Final = 1000
"""Remembered by name. A restored database concerns every log at once; beyond these the metric still counts."""

_meter = metrics.get_meter("wardmesh")
_refused = _meter.create_counter(
    "wardmesh.audit.signing_refused", unit="{refusal}", description="Heads that were not signed: it would fork a log"
)
_log = logging.getLogger(__name__)


class ForkAlarm:
    """The port `Alarm`."""

    def __init__(self, emitter: Emitter, clock: Callable[[], datetime]) -> None:
        self._emitter = emitter
        self._clock = clock
        self._told: dict[Scope, bool] = {}
        """The logs that are refused, and whether the mesh's own log has it."""

    def degraded(self) -> str | None:
        """Return in a few words what is wrong, or None."""
        if not self._told:
            return None
        return f"of {len(self._told)} logs the head is not signed: they do not extend what was signed before"

    async def refused(self, scope: Scope) -> None:
        _refused.add(1)
        if self._told.get(scope, False):
            return
        if scope not in self._told and len(self._told) >= MAX_SCOPES:
            return
        _log.critical("the log of %s does not extend what was signed before; nothing is signed", scope)
        self._told[scope] = False
        event = AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.ADMINISTRATION,
            action=ACTION,
            outcome=Outcome.FAILED,
            actor=ServiceId.nil(),
            targets=(scope,),
            reason="log_would_fork",
        )
        try:
            async with asyncio.timeout(EMIT_SECONDS):
                await self._emitter.emit(OrgId.nil(), [event])
        except (WardmeshError, TimeoutError):
            _log.error("the mesh's own log could not be told that signing is refused")
            return
        if scope in self._told:
            self._told[scope] = True

    def signed(self, scope: Scope) -> None:
        self._told.pop(scope, None)
