"""Clients at work, all kinds at once (`working`), who write down how every call ended.

A call may end in three ways: an answer, an error that says whether to try again, or a defect. Defects are: an error
that is not one of `wardmesh.errors`, one that says that trying again is of no use (nothing here is refused for cause),
and a call that goes on after its deadline. Bounded: each worker pauses between its calls and stops after `MAX_CALLS`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx2
from tests.faults import ledger as checks
from tests.faults.ledger import Ledger
from tests.faults.world import House

from wardmesh.errors import BY_CODE, WardmeshError

ResultT = TypeVar("ResultT")

DEADLINES: Final = (2.0, 5.0, 10.0)
"""Of the workers of one kind, in turn: one gives up during an outage, one outlives it."""
SLACK_SECONDS: Final = 1.5
"""What a call may take beyond its deadline on two busy cores, where everybody's clock is a little late."""
HTTP_SECONDS: Final = 20.0
"""For one HTTP request; the doors answer sooner, whatever happens behind them."""
TICK_SECONDS: Final = 0.05
PAUSE_SECONDS: Final = 0.04
MAX_CALLS: Final = 2_000
"""Of one worker."""

TOTALS: Final[defaultdict[str, Counter[str]]] = defaultdict(Counter)
"""Of the whole session, by kind of call: what calls ended in."""
ARRIVALS: Final[list[str]] = []
"""One line for each load of the session."""


class _HungError(Exception):
    """A call went on after its deadline."""


@dataclass(frozen=True)
class Ended:
    """A call that ended."""

    kind: str
    code: str
    began: float
    seconds: float
    executed: bool = False
    """Whether it may have been carried out although it failed."""

    @property
    def ended(self) -> float:
        return self.began + self.seconds

    def __str__(self) -> str:
        return f"{self.kind} begun at {self.began:.2f} s ended in {self.code} after {self.seconds:.2f} s"


@dataclass
class Load:
    """The calls of one test."""

    house: House
    seed: int
    deadlines: tuple[float, ...] = DEADLINES
    ledger: Ledger = field(default_factory=Ledger)
    calls: list[Ended] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)
    stalled: float = 0.0
    """Seconds for which this very process did not get to run: nobody's fault that is tested here."""
    began: float = field(default_factory=time.monotonic)
    _failing: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    stopping: bool = False
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.began

    def note(self, what: str) -> None:
        """Add a line to what is shown if the test fails; before it, what failed since the last one."""
        for (kind, code), seconds in sorted(self._failing.items()):
            self.timeline.append(f"{'':12}{len(seconds)} × {kind}: {code}, after {max(seconds):.1f} s at the most")
        self._failing.clear()
        self.timeline.append(f"{time.monotonic() - self.began:7.2f} s   {what}")

    def defect(self, what: str) -> None:
        self.defects.append(what)
        self.note(f"DEFECT {what}")

    async def call(self, kind: str, seconds: float, work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
        """Make one call that has to end within `seconds`; return its answer, or None if there was none."""
        began = time.monotonic()
        code, executed, result = "ok", False, None
        try:
            result = await self._ended_within(seconds + SLACK_SECONDS, work)
        except WardmeshError as error:
            code, executed = error.code, error.executed
            if not error.retryable:
                self.defect(f"{kind}: {error!r}, which says that trying again is of no use")
        except _HungError:
            code = "hung"
            self.defect(f"{kind}: hung past its deadline of {seconds} s")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            code = type(error).__name__
            self.defect(f"{kind}: {error!r}")
        self._ended(Ended(kind, code, began - self.began, time.monotonic() - began, executed))
        return result

    async def _ended_within(self, seconds: float, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        began, stalled = time.monotonic(), self.stalled
        call = asyncio.ensure_future(work)
        try:
            while not call.done():
                left = seconds + (self.stalled - stalled) - (time.monotonic() - began)
                if left <= 0:
                    raise _HungError
                await asyncio.wait((call,), timeout=left)
            return call.result()
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    def _ended(self, ended: Ended) -> None:
        self.calls.append(ended)
        TOTALS[ended.kind][ended.code] += 1
        if ended.code != "ok":
            self._failing[ended.kind, ended.code].append(ended.seconds)

    async def post(self, kind: str, http: httpx2.AsyncClient, url: str, **request: Any) -> httpx2.Response | None:
        """Post once; return the response if it is a success."""
        began = time.monotonic()
        response, code, executed = None, "ok", False
        try:
            async with asyncio.timeout(HTTP_SECONDS):
                response = await http.post(url, **request)
        except TimeoutError:
            code = "TimeoutError"
            self.defect(f"{kind}: no HTTP answer within {HTTP_SECONDS} s")
        except httpx2.ConnectError:
            code = "connection_refused"
        except httpx2.TransportError as error:
            code, executed = f"connection_cut ({type(error).__name__})", True
        if response is not None and not response.is_success:
            code, executed = self._problem_of(kind, response)
            response = None
        self._ended(Ended(kind, code, began - self.began, time.monotonic() - began, executed))
        return response

    def _problem_of(self, kind: str, response: httpx2.Response) -> tuple[str, bool]:
        try:
            error = BY_CODE[response.json()["code"]]
        except (ValueError, KeyError):
            self.defect(f"{kind}: HTTP {response.status_code} without a problem document: {response.text[:200]}")
            return f"http_{response.status_code}", True
        if not error.retryable:
            self.defect(f"{kind}: HTTP {response.status_code} {error.code}, which is of no use to try again")
        return error.code, error.executed

    @property
    def kinds(self) -> set[str]:
        return {ended.kind for ended in self.calls}

    async def all_kinds_succeed(self, seconds: float) -> None:
        """Wait until a call of every kind, begun from now on, has been answered, and every reader has read."""
        since = time.monotonic() - self.began
        arrivals = self._arrivals()
        kinds = frozenset(KINDS)
        waiting: set[str] = set(kinds)
        give_up = time.monotonic() + seconds
        while waiting or any(now <= before for now, before in zip(self._arrivals(), arrivals, strict=True)):
            if time.monotonic() > give_up:
                stuck = [
                    name
                    for name, now, before in zip(_READERS, self._arrivals(), arrivals, strict=True)
                    if now <= before
                ]
                self.defect(f"{seconds} s later, these do not work again: {sorted(waiting)} {stuck}")
                return
            await asyncio.sleep(0.05)
            recent = (ended for ended in reversed(self.calls) if ended.began >= since)
            waiting = set(kinds - {ended.kind for ended in recent if ended.code == "ok"})

    def _arrivals(self) -> tuple[int, ...]:
        ledger = self.ledger
        return (len(ledger.events_received), len(ledger.messages_received), len(ledger.tailed))

    async def stop(self) -> None:
        """Let every worker finish the call that it is at."""
        self.stopping = True
        await asyncio.gather(*self.workers)

    def failed(self) -> list[str]:
        """Return the calls that were not answered."""
        return [str(ended) for ended in self.calls if ended.code != "ok"]

    def report(self) -> str:
        """Say what happened, and how to have it happen again."""
        self.note("now")
        latest = "\n".join(self.timeline)
        return f"seed {self.seed}; to try again: pytest tests/faults --seed={self.seed}\n{latest}"

    # What follows is started by `working.working`.

    async def watch_the_clock(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            self.stalled += max(0.0, time.monotonic() - before - 2 * TICK_SECONDS)

    async def work(
        self, number: int, step: Callable[[random.Random, float], Awaitable[object]], pause: float = PAUSE_SECONDS
    ) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        seconds = self.deadlines[number % len(self.deadlines)]
        for _ in range(MAX_CALLS):
            if self.stopping:
                return
            await step(rng, seconds)
            await asyncio.sleep(rng.uniform(0, 2 * pause))

    async def read(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a reader has no deadline, and no reason to end
            self.defect(f"{name} ended: {error!r}")


KINDS: Final = (
    "secrets.put", "secrets.get", "events.publish", "audit.emit", "bridge.send", "auth.who_am_i",
    "connect", "POST /hooks", "POST /v1",
)  # fmt: skip
_READERS: Final = ("events.subscribe", "bridge.receive", "audit.tail")


async def settled(load: Load) -> list[str]:
    """Stop the workers, wait for what is on its way, and return all that is wrong."""
    await load.stop()
    waited, last = await load.ledger.settle()
    arrived = f"everything that was promised had arrived {waited:.1f} s after the last call{last}"
    load.note(arrived)
    ARRIVALS.append(f"seed {load.seed}: {len(load.calls)} calls in {load.seconds - waited:.0f} s, {arrived}")
    problems = [*load.defects, *load.ledger.problems()]
    house = load.house
    async with (
        house.tenant.connect(house.here.api_key) as here,
        house.tenant.connect(house.there.api_key) as there,
    ):
        problems += await checks.check_secrets(load.ledger, here)
        problems += await checks.check_backlog(load.ledger, here)
        versions = {path: count async for path, count in checks.versions_of(here, "load/")}
        problems += await checks.check_log(here, checks.check_here(load.ledger, versions))
        problems += await checks.check_log(there, checks.check_there(load.ledger))
    return problems
