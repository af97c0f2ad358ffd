"""The alarm of a log that would fork: raised where signing is refused, quiet again once a head of that log is signed.

A witness that contradicts us (`wardmesh_audit.cosigning`) raises it likewise; that is its word, so signing goes on, and
it is over when that witness cosigns.

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
from typing import Final, TypeVar

from opentelemetry import metrics

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId, OrgId, Scope, ServiceId
from wardmesh_audit.ports import Emitter

ACTION: Final = "audit.signing_refused"
DISPUTED: Final = "audit.witness_disputes"
EMIT_SECONDS: Final = 2.0
"""How long the entry may take; whoever asked for a checkpoint waits meanwhile."""
MAX_SCOPES: Final = 1000
"""Remembered by name. A restored database concerns every log at once; beyond these the metric still counts."""

_meter = metrics.get_meter("wardmesh")
_refused = _meter.create_counter(
    "wardmesh.audit.signing_refused", unit="{refusal}", description="Heads that were not signed: it would fork a log"
)
_disputes = _meter.create_counter(
    "wardmesh.audit.disputed", unit="{answer}", description="Answers of witnesses that know another log than ours"
)
_log = logging.getLogger(__name__)
KeyT = TypeVar("KeyT")


class ForkAlarm:
    """The ports `Alarm` and `WitnessAlarm`."""

    def __init__(self, emitter: Emitter, clock: Callable[[], datetime]) -> None:
        self._emitter = emitter
        self._clock = clock
        self._told: dict[Scope, bool] = {}
        """The logs that are refused, and whether the mesh's own log has it."""
        self._disputed: dict[tuple[Scope, str], bool] = {}
        """The same of logs that a witness contradicts, by witness."""

    def degraded(self) -> str | None:
        """Return in a few words what is wrong, or None."""
        said = []
        if self._told:
            said.append(f"of {len(self._told)} logs the head is not signed: they do not extend what was signed before")
        if self._disputed:
            logs = len({scope for scope, _ in self._disputed})
            said.append(f"of {logs} logs a witness knows more, or another tree, than was ever signed")
        return "; ".join(said) or None

    async def refused(self, scope: Scope) -> None:
        _refused.add(1)
        said = f"the log of {scope} does not extend what was signed before; nothing is signed"
        await self._once(self._told, scope, said, ACTION, (scope,))

    def signed(self, scope: Scope) -> None:
        self._told.pop(scope, None)

    async def disputed(self, scope: Scope, witness: str) -> None:
        _disputes.add(1)
        said = f"the witness {witness} knows another log of {scope} than was ever signed"
        await self._once(self._disputed, (scope, witness), said, DISPUTED, (scope, witness))

    def agreed(self, scope: Scope, witness: str) -> None:
        self._disputed.pop((scope, witness), None)

    async def _once(self, told: dict[KeyT, bool], key: KeyT, said: str, action: str, targets: tuple[str, ...]) -> None:
        """Say what is wrong, each time until the mesh's own log has it."""
        if told.get(key, False) or (key not in told and len(told) >= MAX_SCOPES):
            return
        _log.critical("%s", said)
        told[key] = False
        if await self._tell(action, targets) and key in told:
            told[key] = True

    async def _tell(self, action: str, targets: tuple[str, ...]) -> bool:
        """Write an entry into the mesh's own log; tell whether it is there."""
        event = AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.ADMINISTRATION,
            action=action,
            outcome=Outcome.FAILED,
            actor=ServiceId.nil(),
            targets=targets,
            reason="log_would_fork",
        )
        try:
            async with asyncio.timeout(EMIT_SECONDS):
                await self._emitter.emit(OrgId.nil(), [event])
        except (WardmeshError, TimeoutError):
            _log.error("the mesh's own log could not be told of the alarm")
            return False
        return True
