"""SIGTERM, under load: a service that is asked to stop answers what it has in hand, and nobody notices its absence.

Clients ask again for as long as their deadline allows, and every deadline here is meant to be longer than a restart; on
a machine that is too busy for that, a call may find nobody in time. But what a service had in hand when it was asked to
stop is answered, and what cannot be sent twice never ends in doubt: doubt would mean that a request was taken and not
answered. Other people's HTTP clients find the door closed and come again.
"""

from __future__ import annotations

from typing import Final

import pytest
from tests.faults.conftest import ReportedMesh
from tests.faults.load import Ended, settled, working
from tests.faults.world import House

from wardmesh.subjects import SERVICES

PATIENT: Final = (20.0,)
WITH_DOORS: Final = ("auth", "webhooks")
"""The two with most to end: requests, HTTP doors, connections that are let in, long polls."""
NOT_REPEATABLE: Final = "secrets.put"
SENDING_SECONDS: Final = 0.1
"""What began just before may still have been on its way: the system may accept what the service never sees."""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_service_that_is_stopped_answers_what_it_has_in_hand(
    breakable: ReportedMesh, house: House, at_length: bool
) -> None:
    forced = len(breakable.reports)
    async with working(house, seed=0, deadlines=PATIENT) as load:
        stopped: list[float] = []
        for service in SERVICES if at_length else WITH_DOORS:
            stopped.append(load.seconds)
            load.note(f"stopping {service}")
            await breakable.restart(service)
            load.note(f"{service} is back")
            await load.all_kinds_succeed(30)
        problems = await settled(load)
    problems += [report for report in breakable.reports[forced:] if "did not stop" in report]
    problems += [str(ended) for ended in load.calls if ended.code != "ok" and _was_in_hand(ended, stopped)]
    problems += [str(ended) for ended in load.calls if ended.kind == NOT_REPEATABLE and ended.executed]
    assert not problems, "\n".join([*problems, load.report()])


def _was_in_hand(ended: Ended, stopped: list[float]) -> bool:
    return any(ended.began < moment - SENDING_SECONDS and ended.ended > moment for moment in stopped)
