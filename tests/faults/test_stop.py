"""SIGTERM, under load: a service that is asked to stop answers what it has in hand, and nobody notices its absence.

Clients ask again for as long as their deadline allows, and every deadline here is longer than a restart. So not one
call may fail: a request that the service had taken and not answered would, if it can't be sent twice. Other people's
HTTP clients find the door closed and come again; what was accepted before is kept like everything else.
"""

from __future__ import annotations

from typing import Final

import pytest
from tests.faults.conftest import ReportedMesh
from tests.faults.load import settled, working
from tests.faults.world import House

from wardmesh.subjects import SERVICES

PATIENT: Final = (20.0,)
DOOR_CLOSED: Final = frozenset({"connection_refused", "service_unavailable"})


@pytest.mark.slow
async def test_a_service_that_is_stopped_answers_what_it_has_in_hand(breakable: ReportedMesh, house: House) -> None:
    forced = len(breakable.reports)
    async with working(house, seed=0, deadlines=PATIENT) as load:
        for service in SERVICES:
            load.note(f"stopping {service}")
            await breakable.restart(service)
            load.note(f"{service} is back")
            await load.all_kinds_succeed(30)
        problems = await settled(load)
    problems += [report for report in breakable.reports[forced:] if "did not stop" in report]
    problems += load.unanswered(but_for=DOOR_CLOSED)
    assert not problems, "\n".join([*problems, load.report()])
