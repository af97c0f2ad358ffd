"""How long entries are kept: `retention`, `set_retention`, `prunings`, and legal holds.

How long an entry is kept is decided when it is sealed, by its category and the policy of that moment; what is set later
holds for what is sealed later. Entries end by the month: an entry is kept for its days, and up to the end of the month
in which they are over. Without a policy, and in what the log says of pruning itself, entries are kept for ever.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from wardmesh.contracts.audit.events import Reason
from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.fields import Limit, Time
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import EventId, PrincipalField

SECURITY: Final = frozenset(
    {
        Category.AUTHENTICATION,
        Category.AUTHORIZATION,
        Category.ADMINISTRATION,
        Category.SECRET_ACCESS,
        Category.PRIVILEGED_ACCESS,
        Category.CONFIGURATION,
        Category.BRIDGE,
    }
)
"""What an investigation of a breach begins with: who came in, what was refused, granted, changed, read and agreed."""
MIN_SECURITY_DAYS: Final = 90
MIN_DAYS: Final = 1
MAX_DAYS: Final = 3_653
"""Ten years. It bounds the number of partitions, of which there is one a month."""
MAX_HOLDS: Final = 100
"""In force in one scope at once; a matter has one."""


def floor_days(category: Category) -> int:
    """Return the fewest days that a policy may say."""
    return MIN_SECURITY_DAYS if category in SECURITY else MIN_DAYS


class CategoryRetention(Message):
    """How long entries of a category are kept; for ever where there are no `days`."""

    category: Category
    days: int | None
    floor_days: int


class Retention(Message):
    """The policy in force: every category. It holds for what is sealed from now on."""

    categories: tuple[CategoryRetention, ...]
    changed_by: PrincipalField | None = None
    changed_at: Time | None = None


class SetRetention(Message):
    """How long entries of `category` that are sealed from now on are kept; without `days`, for ever."""

    category: Category
    days: Annotated[int, Field(ge=MIN_DAYS, le=MAX_DAYS)] | None = None

    @model_validator(mode="after")
    def _not_below_the_floor(self) -> Self:
        if self.days is not None and self.days < floor_days(self.category):
            raise ValueError(f"entries about security are kept for {MIN_SECURITY_DAYS} days at least")
        return self


class PlaceHold(Message):
    """Stop pruning in this scope."""

    reason: Reason


class LiftHold(Message):
    """Let pruning go on, as far as this hold is concerned."""

    number: Annotated[int, Field(ge=1, lt=2**31)]
    reason: Reason


class Hold(Message):
    """A legal hold; in force until it is lifted."""

    number: int
    reason: str
    placed_by: PrincipalField
    placed_at: Time
    lifted_by: PrincipalField | None = None
    lifted_at: Time | None = None
    lifted_because: str | None = None


class ListHolds(Message):
    limit: Limit = 100


class Holds(Message):
    """Those in force first, then the latest."""

    holds: tuple[Hold, ...]


class ListPrunings(Message):
    limit: Limit = 100


class Pruning(Message):
    """Entries whose time is over: `entries` of those between two indexes, which were kept to the same day.

    The log's entry about event `event_id` says the same. `digest` is the SHA-256 of each one's index (eight bytes, big
    endian) and leaf hash, in order. Until `pruned`, they can still be read.
    """

    kept_to: date
    first: int
    last: int
    entries: int
    digest: bytes
    event_id: EventId
    announced_at: Time
    pruned: bool


class Prunings(Message):
    """Newest first."""

    prunings: tuple[Pruning, ...]


RETAIN: Final = Permission("audit.retain", Level.ADMIN)
HOLD: Final = Permission("audit.hold", Level.ADMIN)
LIFT: Final = Permission("audit.lift", Level.OWNER)
"""What a hold keeps may end once it is lifted, so lifting asks for more than placing."""

RETENTION = operation(
    "audit",
    "retention",
    Empty,
    Retention,
    summary="Show how long entries are kept",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.retention"),
    idempotent=True,
)
SET_RETENTION = operation(
    "audit",
    "set_retention",
    SetRetention,
    Retention,
    summary="Say how long entries are kept",
    access=RETAIN,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.CONFIGURATION, "retention.set", Durability.IN_TRANSACTION, ("category",)),
    idempotent=True,
)
PLACE_HOLD = operation(
    "audit",
    "place_hold",
    PlaceHold,
    Hold,
    summary="Place a legal hold",
    access=HOLD,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "hold.place", Durability.IN_TRANSACTION),
    idempotent=False,
)
LIFT_HOLD = operation(
    "audit",
    "lift_hold",
    LiftHold,
    Hold,
    summary="Lift a legal hold",
    access=LIFT,
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.ADMINISTRATION, "hold.lift", Durability.IN_TRANSACTION, ("number",)),
    idempotent=True,
)
HOLDS = operation(
    "audit",
    "holds",
    ListHolds,
    Holds,
    summary="List legal holds",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.holds"),
    idempotent=True,
)
PRUNINGS = operation(
    "audit",
    "prunings",
    ListPrunings,
    Prunings,
    summary="List what was pruned",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.prunings"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (RETENTION, SET_RETENTION, PLACE_HOLD, LIFT_HOLD, HOLDS, PRUNINGS)
