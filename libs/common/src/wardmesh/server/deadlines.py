"""Ends what has taken too long: one look at all that is in hand, some twenty times a second.

Cheaper than a timer for each request (`asyncio.timeout` costs as much as four of the gates), and exact enough: the
caller keeps its own, exact deadline, and `GRACE_SECONDS` later the work that nobody waits for is ended.

What always holds: work is cancelled only inside its own `until` block, and only after its time.
On failure: `DeadlineExceeded`, out of the block.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from wardmesh.errors import DeadlineExceeded

GRACE_SECONDS: Final = 0.05


class Deadlines:
    """The deadlines of one event loop's work. Construct, `start`, use `until`, `stop`."""

    def __init__(self) -> None:
        self._in_hand: set[_Until] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def until(self, ends_at: float) -> _Until:
        """A context manager: raise `DeadlineExceeded` if the block runs past `ends_at` on the loop's clock."""
        return _Until(self._loop, self._in_hand, ends_at)

    def _look(self) -> None:
        now = self._loop.time()
        for work in [work for work in self._in_hand if work.ends_at <= now]:
            work.end()
        self._timer = self._loop.call_later(GRACE_SECONDS, self._look)


class _Until:
    """One piece of work: the task that does it, and until when."""

    __slots__ = ("_in_hand", "_loop", "_task", "ended", "ends_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, in_hand: set[_Until], ends_at: float) -> None:
        self._loop = loop
        self._in_hand = in_hand
        self.ends_at = ends_at
        self.ended = False
        self._task: asyncio.Task[object] | None = None

    def end(self) -> None:
        """Cancel the block, once."""
        self._in_hand.discard(self)
        if self._task is not None:
            self.ended = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task(self._loop)
        self._in_hand.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._in_hand.discard(self)
        # As in asyncio.timeout: a cancellation of ours is undone; one of somebody else's goes on.
        if self.ended and self._task is not None and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise DeadlineExceeded from None
