"""A message between workspaces that agreed on it: delivered. The very same with one word changed: refused."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from wardmesh import Mesh
from wardmesh.contracts import bridge
from wardmesh.ids import AgreementId, MessageId
from wardmesh_cli.demo.stage import Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, NotShown, must, refused

TYPE: Final = "report.ready"
BODY: Final = {"report": "october", "pages": 12}
RECEIVE_SECONDS: Final = 10.0


async def play(stage: Stage, tenants: Tenants) -> None:
    tour = stage.tour
    with tour.chapter("Between workspaces, by agreement"):
        async with (
            stage.visit(tenants.admin_key, tenants.north) as north,
            stage.visit(tenants.admin_key, tenants.south) as south,
        ):
            await tour.step("without an agreement nothing crosses", no_agreement(north, tenants))
            await tour.step("north proposes, south accepts", agreed(north, south, tenants))
            await tour.step("a signed message", delivered(north, south, tenants))
            await tour.step("the same message, one word changed", tampered(north, south))


async def no_agreement(north: Mesh, tenants: Tenants) -> Evidence[None]:
    error = await refused(north.bridge.send(tenants.south, TYPE, BODY), "conflict")
    return Evidence(f"{error.code} ({error.status})", None)


async def agreed(north: Mesh, south: Mesh, tenants: Tenants) -> Evidence[AgreementId]:
    proposed = await north.bridge.propose(target=tenants.south)
    must(proposed.state is bridge.AgreementState.PROPOSED, f"it is {proposed.state}")
    accepted = await south.bridge.accept(agreement=proposed.id)
    must(accepted.state is bridge.AgreementState.ACCEPTED, f"it is {accepted.state}")
    return Evidence(f"{accepted.state}", accepted.id, (str(accepted.id),))


async def delivered(north: Mesh, south: Mesh, tenants: Tenants) -> Evidence[None]:
    subscription = south.bridge.receive(group="demo", source=tenants.north)

    async def first() -> tuple[MessageId, Any]:
        async with subscription:
            async for message in subscription:
                async with message:
                    return message.id, message.data
        raise NotShown("the subscription ended")

    receiving = asyncio.create_task(first())
    try:
        sent = await north.bridge.send(tenants.south, TYPE, BODY)
        async with asyncio.timeout(RECEIVE_SECONDS):
            received, data = await receiving
    except TimeoutError:
        raise NotShown(f"south received nothing within {RECEIVE_SECONDS:g} s") from None
    finally:
        receiving.cancel()
    must((received, data) == (sent, BODY), "south received another message")
    return Evidence("delivered to south, verified by the service and again by the receiver", None, (f"{TYPE}  {sent}",))


async def tampered(north: Mesh, south: Mesh) -> Evidence[None]:
    """Take the message as it was signed, and send it once as it is and once with one word changed."""
    copies = (await south.bridge.fetch(group="copies", batch=1, wait_seconds=RECEIVE_SECONDS / 2)).messages
    must(len(copies) == 1, "there is no copy of the message to be had")
    genuine = copies[0].message
    await north.bridge.send_signed(messages=(genuine,))  # a retry: acknowledged, and delivered once
    changed = genuine.model_copy(update={"body": genuine.body.replace(b"october", b"january")})
    must(changed.body != genuine.body, "nothing was changed")
    error = await refused(north.bridge.send_signed(messages=(changed,)), "invalid_signature")
    return Evidence(f"{error.code} ({error.status})", None, (error.detail,))
