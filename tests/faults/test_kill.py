"""kill -9, under load, at random moments: of each service, of the broker and of the database.

Every call ends in an answer or in an error that says to try again; the process is back, and everything works again by
itself; nothing that was acknowledged is missing; and the log verifies offline.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

import pytest
from tests.faults.load import settled
from tests.faults.working import working
from tests.faults.world import House

from wardmesh.subjects import SERVICES

VICTIMS: Final = (*SERVICES, "nats", "postgres")
BACK_SECONDS: Final = 30.0
"""From a kill until the process is ready: two cores that start Python, and carry the load meanwhile."""
WORKS_SECONDS: Final = 30.0
"""From there until a call of every kind has succeeded and every reader has read."""


@dataclass(frozen=True)
class Kill:
    """One step of a round: whom, how long after everything worked, and whether the next one dies at once too."""

    victim: str
    pause_seconds: float
    with_next: bool


def plan(seed: int) -> list[Kill]:
    """Return a round: every victim once, in an order and at moments that the seed decides."""
    rng = random.Random(seed)
    victims = rng.sample(VICTIMS, len(VICTIMS))
    return [Kill(victim, rng.uniform(0.0, 0.5), rng.random() < 0.15 and victim != victims[-1]) for victim in victims]


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_what_was_acknowledged_survives_kill_nine(house: House, seed: int) -> None:
    mesh = house.mesh
    async with working(house, seed) as load:
        down: list[tuple[str, int]] = []
        for kill in plan(seed):
            await asyncio.sleep(kill.pause_seconds)
            down.append((kill.victim, mesh.processes[kill.victim]))
            mesh.kill(kill.victim)
            load.note(f"killed {kill.victim}")
            if kill.with_next:
                continue
            for victim, pid in down:
                await mesh.wait_ready(victim, BACK_SECONDS)
                assert mesh.processes[victim] != pid
                load.note(f"{victim} is back")
            down.clear()
            await load.all_kinds_succeed(WORKS_SECONDS)
            load.note("everything works")
        problems = await settled(load)
    assert not problems, "\n".join([*problems, load.report()])
