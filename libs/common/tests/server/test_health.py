"""What a process says of itself: ready, degraded, or what is missing."""

from __future__ import annotations

import httpx2

from wardmesh.server.health import Health


async def ask(health: Health) -> httpx2.Response:
    transport = httpx2.ASGITransport(app=health.application())
    async with httpx2.AsyncClient(transport=transport, base_url="http://health") as http:
        return await http.get("/ready")


async def missing() -> str:
    return "not connected"


async def test_what_must_be_looked_at_is_named_and_stops_nothing() -> None:
    health = Health()
    said: list[str | None] = [None]
    health.warn("log", lambda: said[0])
    assert (await ask(health)).json() == {"status": "ready"}
    said[0] = "it would fork"
    degraded = await ask(health)
    assert degraded.status_code == 200
    assert degraded.json() == {"status": "degraded", "degraded": {"log": "it would fork"}}
    health.add("broker", missing)
    broken = await ask(health)
    assert (broken.status_code, broken.json()["missing"]) == (503, {"broker": "not connected"})
