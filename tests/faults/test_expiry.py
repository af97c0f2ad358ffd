"""Access tokens and connections expire under load, and no call fails: each is renewed in time, and work goes on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import pytest
from tests.faults.conftest import TOKEN_SECONDS
from tests.faults.ledger import read_log
from tests.faults.load import settled
from tests.faults.working import working
from tests.faults.world import House

import wardmesh
from wardmesh.errors import TokenExpired

PATIENT_SECONDS: Final = 20.0
"""An expiry takes nobody's time, but a busy machine does; what it drops, a put does not get back by waiting."""
POLL_SECONDS: Final = TOKEN_SECONDS + 2.0
"""A long poll that begins while its token is good and is answered when it is not."""


@pytest.mark.slow
async def test_no_work_is_dropped_when_credentials_expire(house: House, at_length: bool) -> None:
    lifetimes = 5.2 if at_length else 1.2
    async with working(house, seed=0, deadlines=(PATIENT_SECONDS,)) as load:
        await asyncio.sleep(lifetimes * TOKEN_SECONDS)
        problems = await settled(load)
    problems += load.failed()
    async with house.tenant.connect(house.here.api_key) as mesh:
        log = await read_log(mesh)
    # Not one of them could work to the end with what it started with.
    connects = log.by_actor("connection.open")[house.here.principal]
    visitors = sum(ended.kind == "connect" for ended in load.calls)
    assert connects - visitors >= 2 * (1 + int(lifetimes)), "two clients, which connected again for each lifetime"
    assert not problems, "\n".join([*problems, load.report()])


async def test_what_was_asked_in_time_is_answered_after_the_credential_expired(house: House) -> None:
    worker = house.here
    token = (await house.tenant.exchange(worker.api_key, worker.workspace))["token"]
    # Nothing here can be renewed, so nothing but the connection that it was asked on can bring the answer.
    async with wardmesh.connect(house.mesh.nats_url, token=token) as mesh:
        fetched = await mesh.within(timedelta(seconds=2 * POLL_SECONDS)).webhooks.fetch(
            pattern="app.nothing.here", group="late", wait_seconds=POLL_SECONDS
        )
        assert fetched.events == ()
        with pytest.raises(TokenExpired):
            await mesh.auth.who_am_i()
