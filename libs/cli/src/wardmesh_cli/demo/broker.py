"""The agent, without our client, tries to be somebody else. The broker refuses, in its own words."""

from __future__ import annotations

import asyncio
import json

from nats.aio.msg import Msg

from wardmesh.ids import RequestId
from wardmesh.subjects import refusal_inbox, reply_inbox
from wardmesh_cli.demo.stage import Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, must
from wardmesh_cli.demo.wire import Bare, bare, refused_connect

SILENCE_SECONDS = 0.3
"""How long an inbox is watched into which nothing may fall: a round trip takes about one millisecond."""


async def play(stage: Stage, tenants: Tenants) -> None:
    tour, agent = stage.tour, tenants.agent
    with tour.chapter("The subject is the identity: a bare NATS client with the agent's key"):
        async with bare(stage.url, agent.api_key, tls=stage.tls) as connection:
            await tour.step("a forged principal is refused by the broker", forged_principal(connection, tenants))
            await tour.step("a forged workspace is refused by the broker", forged_workspace(connection, tenants))
            await tour.step("a foreign inbox is refused by the broker", foreign_inbox(connection, tenants))
            await tour.step("every tenant's requests are refused by the broker", everybody(connection))
            await tour.step("JetStream is refused by the broker", jetstream(connection))
        await tour.step("a scope of * is refused at the door", star(stage, tenants))
        await tour.step("an answer lands in no inbox but the caller's own", foreign_reply(stage, tenants))


async def forged_principal(connection: Bare, tenants: Tenants) -> Evidence[None]:
    words = await connection.refused_publish(f"rpc.secrets.get.{tenants.north}.{tenants.admin.principal}")
    return Evidence("as the administrator", None, (words,))


async def forged_workspace(connection: Bare, tenants: Tenants) -> Evidence[None]:
    words = await connection.refused_publish(f"rpc.secrets.get.{tenants.south}.{connection.principal}")
    return Evidence("in south", None, (words,))


async def foreign_inbox(connection: Bare, tenants: Tenants) -> Evidence[None]:
    words = await connection.refused_subscribe(f"{reply_inbox(tenants.admin.principal)}.>")
    return Evidence("the administrator's answers", None, (words,))


async def everybody(connection: Bare) -> Evidence[None]:
    words = await connection.refused_subscribe("rpc.*.*.*.*")
    return Evidence("nobody listens in", None, (words,))


async def jetstream(connection: Bare) -> Evidence[None]:
    words = await connection.refused_publish("$JS.API.STREAM.INFO.AUDIT", reply=connection.client.new_inbox())
    return Evidence("no client reaches a stream", None, (words,))


async def star(stage: Stage, tenants: Tenants) -> Evidence[None]:
    words = await refused_connect(stage.url, tenants.agent.api_key, user="*", tls=stage.tls)
    return Evidence("the callout grants parsed ids only", None, (words,))


async def foreign_reply(stage: Stage, tenants: Tenants) -> Evidence[None]:
    """Send a permitted request that names the administrator's inbox for the answer."""
    landed: list[Msg] = []
    refusals: list[Msg] = []
    admin = tenants.admin
    async with (
        bare(stage.url, tenants.admin_key, tls=stage.tls) as victim,
        bare(stage.url, tenants.agent.api_key, tls=stage.tls) as attacker,
    ):
        await victim.hear(f"{reply_inbox(admin.principal)}.>", landed)
        await attacker.hear(refusal_inbox(attacker.principal), refusals)
        await attacker.client.publish(
            f"rpc.auth.who_am_i.{tenants.north}.{attacker.principal}",
            b"{}",
            reply=f"{reply_inbox(admin.principal)}.{RequestId.new()}",
        )
        await attacker.client.flush()
        await asyncio.sleep(SILENCE_SECONDS)
    must(not landed, "an answer landed in the administrator's inbox")
    must(len(refusals) == 1, "the caller was not told")
    code = json.loads(refusals[0].data)["code"]
    must(code == "reply_subject_refused", f"the caller was told {code}")
    return Evidence("nothing landed there; the caller is told in its own", None, (code,))
