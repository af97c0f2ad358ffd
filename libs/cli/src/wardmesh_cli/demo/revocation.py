"""The agent's key is revoked while it is connected: how long until it is out, and does it stay out."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from wardmesh.contracts import auth
from wardmesh.contracts.operation import Empty
from wardmesh_cli.demo.stage import Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, NotShown, must, refused
from wardmesh_cli.demo.wire import bare, refused_connect

DROP_SECONDS: Final = 5.0


async def play(stage: Stage, tenants: Tenants) -> None:
    tour = stage.tour
    with tour.chapter("A key is revoked"):
        token = await tour.step("the agent holds an access token, good for minutes", still_good(stage, tenants))
        await tour.step("its live connection", dropped(stage, tenants))
        await tour.step("the same key once more", stays_out(stage, tenants))
        await tour.step("the access token that it still holds", token_revoked(stage, tenants, token))


async def still_good(stage: Stage, tenants: Tenants) -> Evidence[str]:
    token = await stage.door.call(auth.EXCHANGE_KEY, auth.ExchangeKey(api_key=tenants.agent.api_key))
    identity = await stage.door.call(auth.WHO_AM_I, Empty(), scope=tenants.north, token=token.token)
    must(identity.principal == tenants.agent.id, f"it is {identity.principal}'s")
    return Evidence(f"until {token.expires_at:%H:%M:%S}", token.token)


async def dropped(stage: Stage, tenants: Tenants) -> Evidence[None]:
    agent = tenants.agent
    async with (
        stage.visit(tenants.admin_key, tenants.north) as admin,
        bare(stage.url, agent.api_key, tls=stage.tls) as connection,
    ):
        began = time.monotonic()
        revoked = await admin.auth.revoke_key(key=agent.key_id)
        answered = time.monotonic()
        try:
            async with asyncio.timeout(DROP_SECONDS):
                await connection.ended.wait()
        except TimeoutError:
            raise NotShown(f"it was still connected {DROP_SECONDS:g} s after its key was revoked") from None
    must(revoked.connections_closed >= 1, "the answer counts no connection")
    took = (connection.ended_at - began) * 1000
    return Evidence(
        f"dropped after {took:.0f} ms; the request to revoke was answered after {(answered - began) * 1000:.0f} ms",
        None,
    )


async def stays_out(stage: Stage, tenants: Tenants) -> Evidence[None]:
    words = await refused_connect(stage.url, tenants.agent.api_key, tls=stage.tls)
    return Evidence("refused by the broker", None, (words,))


async def token_revoked(stage: Stage, tenants: Tenants, token: str) -> Evidence[None]:
    error = await refused(stage.door.call(auth.WHO_AM_I, Empty(), scope=tenants.north, token=token), "token_revoked")
    return Evidence(f"{error.code} ({error.status})", None)
