"""SIGTERM, under load: a service that is asked to stop answers what it has in hand, and nobody notices its absence.

No call through the client fails: what the service had taken is answered before it goes, what comes after finds nobody
and is asked again until the service is back. That holds for as long as a call may wait, and no longer: a call whose
deadline is over before the service is back is told that nobody was there, which is the truth. So the calls here have
the longest deadline there is, and one is excused only if a service was away for about as long. What cannot be sent
twice is never in doubt: doubt would mean that a request was taken and not answered. Other people's HTTP clients find
the door closed and come again; what they had begun is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import pytest
from tests.faults.conftest import ReportedMesh
from tests.faults.load import Ended, settled
from tests.faults.working import working
from tests.faults.world import House

from wardmesh.client.retry import LONGEST_DELAY_SECONDS
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, Outcome
from wardmesh.contracts.operation import MAX_DEADLINE, Category
from wardmesh.ids import AgentId, EventId
from wardmesh.server.messages import OutboundMessage
from wardmesh.server.messaging import Messaging
from wardmesh.server.settings import read_seed
from wardmesh.subjects import SERVICES, AuditSubject

PATIENT_SECONDS: Final = MAX_DEADLINE.total_seconds()
WITH_DOORS: Final = ("auth", "webhooks")
"""The two with most to end: requests, HTTP doors, connections that are let in, long polls."""
SEALED_SECONDS: Final = 15.0
"""For all that waits when the service is back; half of what an acknowledgement may take before it is overdue."""
SENDING_SECONDS: Final = 0.1
"""What began just before may still have been on its way: the system may accept what the service never sees."""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_service_that_is_stopped_answers_what_it_has_in_hand_and_no_call_fails(
    breakable: ReportedMesh, house: House, at_length: bool
) -> None:
    forced = len(breakable.reports)
    async with working(house, seed=0, deadlines=(PATIENT_SECONDS,)) as load:
        away: list[tuple[float, float]] = []
        for service in SERVICES if at_length else WITH_DOORS:
            stopped = load.seconds
            load.note(f"stopping {service}")
            await breakable.restart(service)
            away.append((stopped, load.seconds))
            load.note(f"{service} is back")
            await load.all_kinds_succeed(30)
        problems = await settled(load)
    problems += [report for report in breakable.reports[forced:] if "did not stop" in report]
    failed = [ended for ended in load.calls if ended.code != "ok"]
    problems += [str(ended) for ended in failed if _is_by_http(ended) and _was_in_hand(ended, away)]
    problems += [str(ended) for ended in failed if not _is_by_http(ended) and not _found_nobody(ended, away)]
    assert not problems, "\n".join([*problems, load.report()])


async def test_what_a_sealer_had_taken_when_it_was_stopped_is_not_waited_for(
    breakable: ReportedMesh, house: House
) -> None:
    """SIGTERM while another service fills the stream: the next process seals all of it at once, not after 30 s."""
    async with connected("secrets", breakable) as secrets, connected("audit", breakable) as audit:
        going, published = True, 0
        subject = AuditSubject(house.here.workspace, "secrets").format()

        async def publish() -> None:
            nonlocal published
            while going:
                await secrets.publish([OutboundMessage(subject, _envelope()) for _ in range(5)])
                published += 5

        for _ in range(2):
            going = True
            publishing = [asyncio.create_task(publish()) for _ in range(4)]
            await asyncio.sleep(1)
            restarted = asyncio.create_task(breakable.restart("audit"))
            await asyncio.sleep(1)  # by now it is stopped, and was under load when it was told to
            going = False
            await asyncio.gather(*publishing)
            await restarted
            async with asyncio.timeout(SEALED_SECONDS):
                while (await audit.jetstream.stream_info("AUDIT")).state.messages:
                    await asyncio.sleep(0.1)
        assert published > 500


@asynccontextmanager
async def connected(service: str, mesh: ReportedMesh) -> AsyncIterator[Messaging]:
    """The broker as a service has it."""
    messaging = Messaging(service)
    await messaging.connect([mesh.nats_url], seed=read_seed(mesh.layout.identities.seed_file(service)))
    try:
        yield messaging
    finally:
        await messaging.drain()


def _envelope() -> bytes:
    event = AuditEvent(
        id=EventId.new(),
        occurred_at=datetime.now(UTC),
        category=Category.TOOL_CALL,
        action="tool.call",
        outcome=Outcome.SUCCESS,
        actor=AgentId.new(),
    )
    return AuditEnvelope(events=(event,)).model_dump_json(exclude_defaults=True).encode()


def _is_by_http(ended: Ended) -> bool:
    return ended.kind.startswith("POST ")


def _was_in_hand(ended: Ended, away: list[tuple[float, float]]) -> bool:
    return any(ended.began < stopped - SENDING_SECONDS and ended.ended > stopped for stopped, _ in away)


def _found_nobody(ended: Ended, away: list[tuple[float, float]]) -> bool:
    """Whether a call was told, truly, that nobody was there for as long as it could wait."""
    wait = PATIENT_SECONDS - 2 * LONGEST_DELAY_SECONDS  # the last try may be so much before the end
    return not ended.executed and any(
        back - stopped >= wait and ended.began < back and ended.ended > stopped for stopped, back in away
    )
