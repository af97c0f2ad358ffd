"""How long an entry is kept. Pure.

An entry is kept to the first day of a month (UTC), which is its partition; `FOR_EVER` is none. What is decided when it
is sealed stands: `entries` takes no updates. So a policy that is set later, longer or shorter, is for later entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from wardmesh.audit_pruning import is_announcement
from wardmesh.contracts.audit import AuditEvent, floor_days

FOR_EVER: Final = date.max
"""What asyncpg makes of PostgreSQL's infinity."""
NEVER: Final = date.min
"""What it makes of minus infinity: how far a log is pruned that never was."""
DROPPED: Final = "retention.dropped"

Policy = Mapping[str, int]
"""Days by category; what is not in it is kept for ever."""


def kept_to(event: AuditEvent, source: str, received_at: datetime, policy: Policy, closed_to: date) -> date:
    """Return the day to which an entry is kept that is sealed where months up to `closed_to` are closed."""
    days = policy.get(event.category)
    if days is None or is_announcement(event, source):
        return FOR_EVER
    last = received_at.astimezone(UTC).date() + timedelta(days=max(days, floor_days(event.category)))
    return max(_month_after(last), _month_after(closed_to))


def _month_after(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)
