"""Whether a process is alive, and whether it is ready: `GET /live` and `GET /ready` on a port of its own.

A part that works, and that people must look at all the same, makes the process degraded: it stays ready.

Alive means that the event loop turns. Ready means that every part that the service needs says so; the answer names
the parts that do not, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], Awaitable[str | None]]
"""Returns None if the part is ready, else a few words that say what is missing."""
Warn = Callable[[], str | None]
"""Returns None if all is well, else a few words that say what people must look at."""


@dataclass
class Health:
    """The parts that a service needs, by name."""

    checks: dict[str, Check] = field(default_factory=dict)
    warnings: dict[str, Warn] = field(default_factory=dict)

    def add(self, name: str, check: Check) -> None:
        self.checks[name] = check

    def warn(self, name: str, warning: Warn) -> None:
        self.warnings[name] = warning

    def degraded(self) -> dict[str, str]:
        """Return what works and must be looked at, and why."""
        found = {name: warning() for name, warning in self.warnings.items()}
        return {name: reason for name, reason in found.items() if reason is not None}

    async def missing(self) -> dict[str, str]:
        """Return what is not ready, and why."""
        found: dict[str, str] = {}
        for name, check in self.checks.items():
            reason = await check()
            if reason is not None:
                found[name] = reason
        return found

    def application(self) -> Starlette:
        return Starlette(routes=[Route("/live", self._live), Route("/ready", self._ready)])

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def _ready(self, _request: Request) -> Response:
        missing = await self.missing()
        if missing:
            return JSONResponse({"status": "not ready", "missing": missing}, status_code=503)
        degraded = self.degraded()
        return JSONResponse({"status": "degraded", "degraded": degraded} if degraded else {"status": "ready"})
