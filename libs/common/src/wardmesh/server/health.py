"""Whether a process is alive, and whether it is ready: `GET /live` and `GET /ready` on a port of its own.

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


@dataclass
class Health:
    """The parts that a service needs, by name."""

    checks: dict[str, Check] = field(default_factory=dict)

    def add(self, name: str, check: Check) -> None:
        self.checks[name] = check

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
        return JSONResponse({"status": "ready"})
