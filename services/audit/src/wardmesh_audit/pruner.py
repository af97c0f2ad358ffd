"""Pruning: what becomes of entries whose time is over.

    close the month → compare every entry with the tree → announce it in the scope's own log → hide → drop the partition

What always holds:
- Nothing ends before the log itself says so: entries are hidden only when their announcement is sealed.
- What is not what the tree says does not end: it is evidence.
- A hold stops it before the entries are hidden; afterwards there is nothing left to hold.
- Any number may run. Each step is committed by itself and harmless if repeated, so a crash anywhere, or two at once,
  cost a step that is taken again. The store holds the order of the steps, the clock and the holds.

On failure: nothing is raised; what could not be done is tried again in the next round, `PERIOD_SECONDS` later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import date, datetime
from typing import Final

from opentelemetry import metrics

from wardmesh.audit_pruning import ACTION, Ending
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId, Scope, ServiceId
from wardmesh_audit.errors import LogDamaged
from wardmesh_audit.keeping import DROPPED
from wardmesh_audit.ports import PruningStore

PERIOD_SECONDS: Final = 600.0
"""Entries end by the month; this is how late they may be."""
SOON_SECONDS: Final = 2.0
"""After a round that got further: an announcement is sealed within a moment."""
SCOPES: Final = 256
"""Of one round."""
CHUNK: Final = 20_000
"""Entries that are compared at once: tens of megabytes are hashed in the database, a megabyte of hashes travels."""

_meter = metrics.get_meter("wardmesh")
_pruned = _meter.create_counter("wardmesh.audit.pruned", unit="{entry}", description="Entries announced to end")
_damaged = _meter.create_counter(
    "wardmesh.audit.unprunable", unit="{scope}", description="Logs that are not pruned because they are damaged"
)
_log = logging.getLogger(__name__)


class Pruner:
    """Prunes in rounds."""

    def __init__(self, store: PruningStore, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Prune, for ever."""
        while True:
            moved = await self.round()
            await asyncio.sleep(SOON_SECONDS if moved else PERIOD_SECONDS)

    async def round(self) -> bool:
        """Take every scope a step further, and drop what is left of nobody; tell whether anything moved."""
        moved = False
        try:
            for scope, kept_to in await self._store.prunable(self._clock(), SCOPES):
                moved |= await self._step(scope, kept_to)
            while (dropped := await self._store.drop(self._clock(), self._event(DROPPED))) is not None:
                _log.info("dropped the entries that were kept to %s", dropped)
                moved = True
        except WardmeshError as error:
            _log.warning("pruning is put off: %s", error.code)
        except Exception:  # noqa: BLE001 - a defect here must not end the service
            _log.exception("a defect while pruning")
        return moved

    async def _step(self, scope: Scope, kept_to: date) -> bool:
        try:
            announced = await self._store.is_announced(scope, kept_to)
            if announced is None:
                announced = await self._announce(scope, kept_to)
            elif announced:
                await self._store.prune(scope, kept_to)
        except LogDamaged as error:
            _damaged.add(1)
            _log.critical("the log of %s is not pruned: %s", scope, error.detail)
            return False
        except WardmeshError as error:  # a hold that was placed at this moment; a lock
            _log.warning("pruning of a log is put off: %s", error.code)
            return False
        return announced

    async def _announce(self, scope: Scope, kept_to: date) -> bool:
        size = await self._store.close(scope, kept_to)
        if size is None:
            return False
        ending = Ending()
        for start in range(0, size, CHUNK):
            for entry in await self._store.ending(scope, kept_to, start=start, end=min(size, start + CHUNK)):
                if not entry.sound:
                    raise LogDamaged(f"Entry {entry.index} is not what was sealed.")
                ending.add(entry.index, entry.leaf_hash)
        if not ending.entries:
            raise LogDamaged(f"No leaf says that it is kept to {kept_to}, and entries do.")
        said = ending.announcement(kept_to)
        await self._store.announce(scope, said, self._event(ACTION, **said.model_dump(mode="json")))
        _pruned.add(ending.entries)
        return True

    def _event(self, action: str, **details: str | int) -> AuditEvent:
        return AuditEvent(
            id=EventId.new(),
            occurred_at=self._clock(),
            category=Category.ADMINISTRATION,
            action=action,
            outcome=Outcome.SUCCESS,
            actor=ServiceId.nil(),
            details=dict(details),
        )
