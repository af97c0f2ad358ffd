"""When a call is sent again, and after how long. Pure: the randomness is an argument.

What always holds: what may have been carried out is sent again only if doing it twice amounts to doing it once.
"""

from __future__ import annotations

from typing import Final

from wardmesh.errors import InternalError, WardmeshError

FIRST_DELAY_SECONDS: Final = 0.05
LONGEST_DELAY_SECONDS: Final = 2.0
"""A service is back within seconds; who waits longer than this between tries finds out late."""
MAX_DEFECTS: Final = 3
"""Internal errors in a row before a call gives up: a defect that did not go away will not."""


def delay(attempt: int, random: float, *, longest: float = LONGEST_DELAY_SECONDS) -> float:
    """Return the seconds before try number `attempt` + 1: exponential, with full jitter (`random` in 0…1).

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random * min(longest, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 30))


def may_repeat(error: WardmeshError, *, repeatable: bool, defects: int) -> bool:
    """Tell whether a call that ended in `error` is sent again; `repeatable` says that twice amounts to once."""
    if not error.retryable or (error.executed and not repeatable):
        return False
    return not (isinstance(error, InternalError) and defects >= MAX_DEFECTS)
