"""A service that is down: whoever asks for it is told so at once, and not by waiting."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final

import httpx2
import pytest
from tests.faults.conftest import ReportedMesh
from tests.faults.world import House, build_house
from tests.mesh.world import raw_caller

from wardmesh import contracts
from wardmesh.contracts.operation import AnyContract
from wardmesh.errors import CODE_HEADER, ServiceUnavailable
from wardmesh.subjects import SERVICES

AT_ONCE_SECONDS: Final = 1.0
"""Of a wait that would otherwise be ten seconds; most of it is for two busy cores."""

READS: Final[dict[str, AnyContract]] = {
    "auth": contracts.auth.WHO_AM_I,
    "secrets": contracts.secrets.LIST,
    "bridge": contracts.bridge.LIST,
    "audit": contracts.audit.CHECKPOINT,
    "webhooks": contracts.webhooks.LIST_SOURCES,
}


@pytest.fixture(scope="module")
async def house(breakable: ReportedMesh) -> House:
    """One for all: nothing is done in it."""
    return await build_house(breakable)


async def gone(house: House, service: str) -> None:
    """Kill a service, and wait until it is dead; it will be back in a second or more, and not before."""
    pid = house.mesh.processes[service]
    house.mesh.kill(service)
    while house.mesh.processes.get(service) == pid:
        await asyncio.sleep(0.005)
    assert service not in house.mesh.processes


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_down_is_said_to_be_down_at_once(house: House, service: str) -> None:
    worker, contract = house.here, READS[service]
    token = (await house.tenant.exchange(worker.api_key, worker.workspace))["token"]
    async with (
        raw_caller(
            house.mesh, scope=worker.workspace, principal=worker.principal, credential=worker.api_key, token=token
        ) as caller,
        house.tenant.connect(worker.api_key) as mesh,
        httpx2.AsyncClient(base_url=house.mesh.http_url, timeout=20) as http,
    ):
        await gone(house, service)
        began = time.monotonic()

        answer = await caller.ask(contract.subject(worker.workspace, worker.principal))
        assert answer.headers is not None
        assert answer.headers["Status"] == "503", "the broker's own word, for which nobody has to wait"
        assert CODE_HEADER not in answer.headers
        assert time.monotonic() - began < AT_ONCE_SECONDS

        if service != "auth":  # whose gateway is down with it
            url = f"/v1/{worker.workspace}/{service}/{contract.name}"
            response = await http.post(url, json={}, headers={"authorization": f"Bearer {token}"})
            assert (response.status_code, response.json()["code"]) == (503, "service_unavailable")
            assert time.monotonic() - began < 2 * AT_ONCE_SECONDS

        # The client asks again for as long as it may, and then says what it was, instead of that time was up.
        patience = timedelta(seconds=0.5)
        with pytest.raises(ServiceUnavailable):
            await mesh.within(patience).call(contract, contract.request(), deadline=patience)
    await house.mesh.wait_ready(service)
