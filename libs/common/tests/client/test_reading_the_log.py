"""Reading the log: a tail that misses nothing, searches past empty pages, leaves to the end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

import wardmesh
from wardmesh.contracts import audit
from wardmesh.errors import (
    InvalidRequest,
)
from wardmesh.ids import AgentId, EventId, OrgId

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def entry(index: int) -> audit.Entry:
    event = audit.AuditEvent(
        id=EventId.new(),
        occurred_at=NOW,
        category="tool_call",
        action="tool.call",
        outcome="success",
        actor=AgentId.nil(),
    )
    return audit.Entry(index=index, scope=OrgId.nil(), source="auth", event=event, received_at=NOW)


async def test_a_tail_misses_and_repeats_nothing_through_disconnections(broker, services, connect) -> None:
    log = [entry(index) for index in range(5)]

    def tail(request):
        start = request.body["start"]
        if start is None:
            return audit.Entries(entries=(), next_start=len(log))
        if len(log) < 40:
            log.append(entry(len(log)))
        # Two entries from before the place, as a service in disorder might: they are not handed out again.
        return audit.Entries(entries=tuple(log[max(0, start - 2) : start + 3]), next_start=min(start + 3, len(log)))

    services.on("audit.tail", tail)
    seen = []
    async with connect() as mesh:
        async for found in mesh.audit.tail(category=wardmesh.Category.TOOL_CALL):
            seen.append(found.index)
            if len(seen) in (5, 15):
                broker.kill()
                await asyncio.sleep(0.1)
                broker.start()
            if len(seen) == 30:
                break
    assert seen == list(range(5, 35))


async def test_a_tail_goes_on_from_a_saved_position(services, connect) -> None:
    log = [entry(index) for index in range(9)]
    saved: dict[str, int] = {"siem": 2}

    def tail(request):
        start = request.body["start"]
        return audit.Entries(entries=tuple(log[start : start + 2]), next_start=min(start + 2, len(log)))

    def save(request):
        saved[request.body["name"]] = request.body["next_start"]
        return audit.Position(name=request.body["name"], next_start=request.body["next_start"], saved_at=NOW)

    def positions(_request):
        found = [audit.Position(name=name, next_start=place, saved_at=NOW) for name, place in saved.items()]
        return audit.Positions(positions=tuple(found))

    services.on("audit.tail", tail)
    services.on("audit.save_position", save)
    services.on("audit.list_positions", positions)
    async with connect() as mesh:

        async def read(count: int, error: Exception | None = None) -> list[int]:
            seen: list[int] = []
            async with mesh.audit.tail(resume="siem") as entries:
                async for found in entries:
                    seen.append(found.index)
                    if len(seen) == count:
                        if error is not None:
                            raise error
                        break
            return seen

        assert await read(3) == [2, 3, 4]
        assert saved == {"siem": 5}
        with pytest.raises(RuntimeError):
            await read(2, RuntimeError("while it worked on the second"))
        assert saved == {"siem": 6}, "what was not done with is not counted as read"
        assert await read(1) == [6]
        beyond = mesh.audit.tail(resume="siem", start=8)
        assert (await anext(beyond)).index == 8
        with pytest.raises(InvalidRequest):
            mesh.audit.tail(resume="Not A Name")


async def test_a_search_goes_on_past_pages_that_have_nothing(mesh, services) -> None:
    def query(request):
        before = request.body["before"] or 40
        if before <= 10:
            return audit.Entries(entries=(entry(9),), next_start=40)
        found = (entry(before - 1),) if before == 30 else ()
        return audit.Entries(entries=found, next_start=40, next_before=before - 10)

    services.on("audit.query", query)
    assert [found.index async for found in mesh.audit.search()] == [29, 9]
    assert [found.index async for found in mesh.audit.search(limit=1)] == [29]


async def test_leaves_are_read_to_the_end_and_no_further(mesh, services) -> None:
    leaves = [bytes([n % 256, n // 256]) for n in range(600)]

    def read(request):
        start = request.body["start"]
        page = tuple(leaves[start : start + min(request.body["limit"], 100)])  # a page may be shorter than asked for
        return audit.Leaves(leaves=page, hashes=page)

    services.on("audit.leaves", read)
    assert [leaf async for leaf in mesh.audit.leaves()] == leaves
    assert [leaf async for leaf in mesh.audit.leaves(start=10, end=300)] == leaves[10:300]
