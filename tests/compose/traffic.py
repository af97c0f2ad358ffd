"""Events, audit events and secrets that are written while things break, and the account of what was acknowledged.

What always holds: an id is counted as acknowledged only when the client's call has returned; a call that ended in an
error promises nothing, and counts as nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from wardmesh import Category, Mesh, NewAuditEvent
from wardmesh.errors import WardmeshError
from wardmesh.ids import EventId

WRITERS: Final = 4
"""Of each kind. Each has one call in flight and pauses between calls: a load that two cores carry with room."""
PAUSE_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 120.0
"""What a reader took and never acknowledged comes again after the consumer's half minute."""
PAGE: Final = 500
PREFIX: Final = "compose/"


@dataclass
class Account:
    """What was acknowledged, what was refused or lost, and what arrived."""

    published: set[str] = field(default_factory=set)
    emitted: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    """Paths of secrets."""
    received: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    last_acknowledged: float = field(default_factory=time.monotonic)
    longest_gap_seconds: float = 0.0

    def acknowledged(self) -> None:
        now = time.monotonic()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self.last_acknowledged)
        self.last_acknowledged = now


class Traffic:
    """Writers and a reader, in one workspace. Made by `flowing`."""

    def __init__(self, mesh: Mesh) -> None:
        self.account = Account()
        self._mesh = mesh
        self._stopping = asyncio.Event()
        self._writers: list[asyncio.Task[None]] = []
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._reader = asyncio.create_task(self._read())
        for _ in range(WRITERS):
            self._writers.append(asyncio.create_task(self._write(self._publish, self.account.published)))
            self._writers.append(asyncio.create_task(self._write(self._emit, self.account.emitted)))
        self._writers.append(asyncio.create_task(self._write(self._store, self.account.stored)))

    async def progress(self, seconds: float) -> None:
        """Wait until something more of each kind is acknowledged."""
        account = self.account
        before = [(kind, len(kind)) for kind in (account.published, account.emitted, account.stored)]
        async with asyncio.timeout(seconds):
            while any(len(kind) <= count for kind, count in before):
                self._look_after()
                await asyncio.sleep(PAUSE_SECONDS)

    async def stop_writing(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._writers)

    async def missing_events(self) -> set[str]:
        """Return the acknowledged events that never arrived."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while self.account.published - self.account.received.keys():
                    self._look_after()
                    await asyncio.sleep(PAUSE_SECONDS)
        return self.account.published - self.account.received.keys()

    async def missing_entries(self) -> set[str]:
        """Return the acknowledged audit events that are not in the log."""
        found: set[str] = set()
        start = 0
        give_up = time.monotonic() + SETTLE_SECONDS
        while self.account.emitted - found and time.monotonic() < give_up:
            page = await self._mesh.audit.tail_page(start=start, limit=PAGE, wait_seconds=1.0)
            found.update(entry.event.id for entry in page.entries)
            start = page.next_start
        return self.account.emitted - found

    async def missing_secrets(self) -> set[str]:
        """Return the secrets whose storing was acknowledged and that are not there."""
        found: set[str] = set()
        after: str | None = None
        while True:
            page = (await self._mesh.secrets.list(prefix=PREFIX, after=after, limit=PAGE)).secrets
            found.update(secret.path for secret in page)
            if len(page) < PAGE:
                return self.account.stored - found
            after = page[-1].path

    async def close(self) -> None:
        tasks = [*self._writers, *([] if self._reader is None else [self._reader])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look_after(self) -> None:
        """Raise what ended a task that should not have ended."""
        for task in (*self._writers, self._reader):
            if task is not None and task.done():
                task.result()

    async def _write(self, write: Callable[[], Awaitable[str]], acknowledged: set[str]) -> None:
        while not self._stopping.is_set():
            try:
                acknowledged.add(await write())
                self.account.acknowledged()
            except WardmeshError as error:
                self.account.failures[error.code] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _publish(self) -> str:
        return await self._mesh.events.publish("tick.made", {"what": "an event of a test"}, id=EventId.new())

    async def _emit(self) -> str:
        return await self._mesh.audit.emit(NewAuditEvent(category=Category.ACTION_EXECUTION, action="tick.done"))

    async def _store(self) -> str:
        return (await self._mesh.secrets.put(f"{PREFIX}{secrets.token_hex(8)}", secrets.token_bytes(32))).path

    async def _read(self) -> None:
        async with self._mesh.events.subscribe("app.tick.made", group="compose") as events:
            async for event in events:
                async with event:
                    self.account.received[event.id] += 1


@asynccontextmanager
async def flowing(mesh: Mesh) -> AsyncIterator[Traffic]:
    """Traffic while the block runs."""
    traffic = Traffic(mesh)
    traffic.start()
    try:
        yield traffic
    finally:
        await traffic.close()
