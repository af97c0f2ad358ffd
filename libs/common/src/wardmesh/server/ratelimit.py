"""How much one principal may ask of one process: a token bucket each.

A local limit protects the process. What a plan allows a tenant across all processes is the auth service's business.
What always holds: the number of buckets is bounded, and dropping one never grants more than a full bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wardmesh.errors import RateLimited

MAX_BUCKETS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` calls at once, `per_second` in the long run."""

    per_second: float
    burst: int


class RateLimiter:
    """Buckets by key. Not thread-safe: one event loop."""

    def __init__(self, rate: Rate, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._max_buckets = max_buckets
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, now: float) -> None:
        """Take one from the bucket of `key`; raise `RateLimited` if it is empty. `now` is monotonic seconds."""
        # Taken out and put back, so that the dictionary's order is that of last use and its first is the idlest.
        left, since = self._buckets.pop(key, (float(self._rate.burst), now))
        if len(self._buckets) >= self._max_buckets:
            del self._buckets[next(iter(self._buckets))]
        left = min(float(self._rate.burst), left + (now - since) * self._rate.per_second)
        if left < 1:
            self._buckets[key] = (left, now)
            raise RateLimited(retry_after_seconds=round((1 - left) / self._rate.per_second, 3))
        self._buckets[key] = (left - 1, now)
