"""What can go wrong with the database, as errors that a caller may be told of.

    ServiceUnavailable
    └── DatabaseUnavailable     it cannot be reached, or the connection broke; nothing was committed
    OutcomeUnknown
    └── CommitUnknown           it broke while COMMIT was under way: it may have been committed
    Overloaded
    └── DatabaseBusy            a lock, a deadlock, a time-out, no connection free; rolled back
    Conflict
    └── ConstraintConflict      a unique, foreign or exclusion key; has the constraint's name
    PermissionDenied
    └── DatabaseRefused         row-level security or a privilege said no
    InternalError
    └── DatabaseDefect          anything else: a defect of ours; has the SQLSTATE

What always holds: no value appears in a message. PostgreSQL and asyncpg quote values in theirs ("Key (email)=(…)
already exists", "invalid input for query argument $1: …"), so translated errors are raised `from None`; a chained
cause would be printed with every traceback.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from wardmesh.errors import (
    Conflict,
    InternalError,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    ServiceUnavailable,
    WardmeshError,
)

FROM_ASYNCPG: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
FROM_DRIVER: Final = (*FROM_ASYNCPG, OSError, TimeoutError)
"""Also what a connection attempt or a bounded wait ends in."""


class DatabaseUnavailable(ServiceUnavailable):
    """The database cannot be reached, or the connection broke; nothing was committed."""


class CommitUnknown(OutcomeUnknown):
    """The connection broke while COMMIT was under way: the transaction may have been committed."""


class DatabaseBusy(Overloaded):
    """The database could not do it now; the transaction was rolled back."""


class ConstraintConflict(Conflict):
    """A key exists already, or one that is referred to does not."""

    def __init__(self, constraint: str | None) -> None:
        super().__init__()
        self.constraint = constraint


class DatabaseRefused(PermissionDenied):
    """Row-level security or a privilege refused the statement."""


class DatabaseDefect(InternalError):
    """A statement that the database could not make sense of: a defect of ours."""

    def __init__(self, reason: str, *, sqlstate: str | None = None) -> None:
        super().__init__()
        self.reason = reason
        self.sqlstate = sqlstate
        self.add_note(f"{reason} (SQLSTATE {sqlstate})" if sqlstate else reason)


# Classes and codes: https://www.postgresql.org/docs/18/errcodes-appendix.html
_UNAVAILABLE_CLASSES: Final = frozenset({"08", "28", "3D", "58", "F0"})
_UNAVAILABLE: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})
_BUSY_CLASSES: Final = frozenset({"40", "53"})
_BUSY: Final = frozenset({"55P03", "57014"})  # lock_not_available, query_canceled
_CONFLICTS: Final = frozenset({"23505", "23503", "23P01"})  # unique, foreign key, exclusion
_REFUSED: Final = frozenset({"42501", "25006"})  # insufficient_privilege, read_only_sql_transaction


def translate(error: BaseException) -> WardmeshError:
    """Return what `error`, one of `FROM_DRIVER`, means to the caller; raise the answer `from None`."""
    if isinstance(error, asyncpg.PostgresError):
        return _by_sqlstate(error)
    if isinstance(error, TimeoutError):
        return DatabaseBusy("The database did not answer in time.")
    if isinstance(error, OSError):
        return DatabaseUnavailable("The database cannot be reached.")
    if isinstance(error, asyncpg.DataError):  # the driver's own: a parameter of the wrong type
        return DatabaseDefect("a parameter does not fit its type")
    if isinstance(error, asyncpg.InternalClientError):  # what its protocol says when the server dies in mid-sentence
        return DatabaseUnavailable("The connection to the database broke.")
    if isinstance(error, asyncpg.InterfaceError) and "closed" in str(error):
        return DatabaseUnavailable("The connection to the database is closed.")
    return DatabaseDefect(type(error).__name__)


def _by_sqlstate(error: asyncpg.PostgresError) -> WardmeshError:
    sqlstate = error.sqlstate or ""
    if sqlstate[:2] in _UNAVAILABLE_CLASSES or sqlstate in _UNAVAILABLE:
        return DatabaseUnavailable("The database is not available.")
    if sqlstate[:2] in _BUSY_CLASSES or sqlstate in _BUSY:
        return DatabaseBusy("The database is busy.")
    if sqlstate in _CONFLICTS:
        return ConstraintConflict(getattr(error, "constraint_name", None))
    if sqlstate in _REFUSED:
        return DatabaseRefused()
    return DatabaseDefect(type(error).__name__, sqlstate=sqlstate or None)
