"""Passwords: argon2id, in a bounded pool of threads.

What always holds: at most `threads` hashes are computed at once, so that logins can neither take all memory nor starve
the event loop. Checking the password of a user that does not exist computes a hash all the same, of the same cost, so
that the time of an answer does not tell who has an account.

On failure: `Overloaded` when too many wait, before anything was computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from wardmesh.errors import Overloaded

_T = TypeVar("_T")

MAX_WAITING: Final = 64
"""Hashes that wait for a thread: with the default cost, about two seconds of work a thread."""


@dataclass(frozen=True, slots=True)
class Cost:
    """RFC 9106, section 4, the second recommended option, with one lane: the pool is the parallelism."""

    time: int = 3
    memory_kib: int = 64 * 1024
    lanes: int = 1


class Passwords(Protocol):
    """Hashes and checks passwords."""

    async def hash(self, password: str) -> str:
        """Return what to store."""

    async def check(self, stored: str | None, password: str) -> bool:
        """Tell whether `password` is the one. MUST cost the same when there is no stored hash."""


class Argon2Passwords:
    """Implements `Passwords`; `close` it when done."""

    def __init__(self, *, threads: int, cost: Cost | None = None) -> None:
        cost = cost or Cost()
        self._argon2 = Argon2(time_cost=cost.time, memory_cost=cost.memory_kib, parallelism=cost.lanes, type=Type.ID)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._waiting = 0
        # Nobody's password: what is checked when there is nothing to check.
        self._nobody = self._argon2.hash("nobody")

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._argon2.hash(password))

    async def check(self, stored: str | None, password: str) -> bool:
        matches = await self._run(lambda: self._matches(stored or self._nobody, password))
        return matches and stored is not None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._argon2.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many passwords are being checked at the moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1
