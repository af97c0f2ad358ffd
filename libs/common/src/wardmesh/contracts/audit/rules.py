"""What the operations of the log share: who may read it, how reading is recorded, how much a page has."""

from __future__ import annotations

from typing import Final

from wardmesh.contracts.operation import AuditRule, Category, Durability, Level, Permission

MAX_LEAVES: Final = 256
"""Leaves of one page: one C2SP entry bundle."""
MAX_PAGE_BYTES: Final = 512 * 1024
"""Leaves' bytes of one page: base64 makes a third more of them, and a message has 1 MiB at the most."""

READ: Final = Permission("audit.read", Level.OPERATOR)


def reading(action: str) -> AuditRule:
    """Return the rule of an operation that only reads: recorded soon after."""
    return AuditRule(Category.ADMINISTRATION, action, Durability.QUEUED)
