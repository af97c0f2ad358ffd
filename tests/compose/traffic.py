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
class Kind:
    """What was acknowledged of one kind, and for how long nothing was."""

    acknowledged: set[str] = field(default_factory=set)
    longest_gap_seconds: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def add(self, one: str) -> None:
        now = time.monotonic()
        self.longest_gap_seconds = max(self.longest_gap_seconds, now - self._last)
        self._last = now
        self.acknowledged.add(one)


@dataclass
class Account:
    """What was acknowledged, what failed, and what arrived."""

    events: Kind = field(default_factory=Kind)
    audit_events: Kind = field(default_factory=Kind)
    secrets: Kind = field(default_factory=Kind)
    received: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def kinds(self) -> dict[str, Kind]:
        return {"events": self.events, "audit events": self.audit_events, "secrets": self.secrets}

    def forget_gaps(self) -> None:
        for kind in self.kinds.values():
            kind.longest_gap_seconds = 0.0

    def gaps(self) -> str:
        return ", ".join(f"{name} {kind.longest_gap_seconds:.1f} s" for name, kind in self.kinds.items())


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
            self._writers.append(asyncio.create_task(self._write(self._publish, self.account.events)))
            self._writers.append(asyncio.create_task(self._write(self._emit, self.account.audit_events)))
        self._writers.append(asyncio.create_task(self._write(self._store, self.account.secrets)))

    async def progress(self, seconds: float) -> None:
        """Wait until something more of each kind is acknowledged."""
        before = [(kind.acknowledged, len(kind.acknowledged)) for kind in self.account.kinds.values()]
        async with asyncio.timeout(seconds):
            while any(len(acknowledged) <= count for acknowledged, count in before):
                self._look_after()
                await asyncio.sleep(PAUSE_SECONDS)

    async def stop_writing(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._writers)

    async def missing_events(self) -> set[str]:
        """Return the acknowledged events that never arrived."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while self.account.events.acknowledged - self.account.received.keys():
                    self._look_after()
                    await asyncio.sleep(PAUSE_SECONDS)
        return self.account.events.acknowledged - self.account.received.keys()

    async def missing_entries(self) -> set[str]:
        """Return the acknowledged audit events that are not in the log."""
        found: set[str] = set()
        start = 0
        give_up = time.monotonic() + SETTLE_SECONDS
        while self.account.audit_events.acknowledged - found and time.monotonic() < give_up:
            page = await self._mesh.audit.tail_page(start=start, limit=PAGE, wait_seconds=1.0)
            found.update(entry.event.id for entry in page.entries)
            start = page.next_start
        return self.account.audit_events.acknowledged - found

    async def missing_secrets(self) -> set[str]:
        """Return the secrets whose storing was acknowledged and that are not there."""
        found: set[str] = set()
        after: str | None = None
        while True:
            page = (await self._mesh.secrets.list(prefix=PREFIX, after=after, limit=PAGE)).secrets
            found.update(secret.path for secret in page)
            if len(page) < PAGE:
                return self.account.secrets.acknowledged - found
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

    async def _write(self, write: Callable[[], Awaitable[str]], kind: Kind) -> None:
        while not self._stopping.is_set():
            try:
                kind.add(await write())
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
