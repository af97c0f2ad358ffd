"""An event of Stripe's, signed with Stripe's own library: accepted by HTTP, received by the agent. Forged: 400."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, cast

import httpx2
import stripe

from wardmesh.contracts.webhooks import Scheme
from wardmesh_cli.demo.stage import Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, NotShown, must

SOURCE: Final = "stripe"
TYPE: Final = "invoice.paid"
RECEIVE_SECONDS: Final = 10.0

# The library's own, without type hints.
_sign = cast("Callable[[str, str], str]", stripe.WebhookSignature.generate_signature_header)


async def play(stage: Stage, tenants: Tenants) -> None:
    tour = stage.tour
    signing_secret = f"whsec_{secrets.token_hex(16)}"
    body = stripe_event()
    with tour.chapter("Other people's events: Stripe"):
        path = await tour.step("the administrator opens the door for Stripe", opened(stage, tenants, signing_secret))
        await tour.step(
            "an event that Stripe's own library signed", accepted(stage, tenants, path, body, signing_secret)
        )
        await tour.step("the same event once more", again(stage, path, body, signing_secret))
        await tour.step("a forged signature", forged(stage, path, body))
        await tour.step("a changed amount under the genuine signature", changed(stage, path, body, signing_secret))


def stripe_event() -> str:
    """Return an event as Stripe sends it."""
    return json.dumps(
        {
            "id": f"evt_{secrets.token_hex(12)}",
            "object": "event",
            "api_version": "2026-10-29.clover",
            "created": int(time.time()),
            "type": TYPE,
            "data": {"object": {"id": f"in_{secrets.token_hex(12)}", "object": "invoice", "amount_paid": 4200}},
        }
    )


async def opened(stage: Stage, tenants: Tenants, signing_secret: str) -> Evidence[str]:
    async with stage.visit(tenants.admin_key, tenants.north) as mesh:
        source = await mesh.webhooks.create_source(name=SOURCE, scheme=Scheme.STRIPE, signing_secret=signing_secret)
    return Evidence("POST " + source.path, source.path)


async def accepted(stage: Stage, tenants: Tenants, path: str, body: str, signing_secret: str) -> Evidence[None]:
    """Post the event, and wait for it as a subscriber."""
    async with stage.visit(tenants.agent.api_key, tenants.north) as mesh:
        subscription = mesh.events.subscribe(f"{SOURCE}.invoice.*", group="demo")

        async def first() -> dict[str, Any]:
            async with subscription:
                async for event in subscription:
                    async with event:
                        must(f"{event.source}.{event.type}" == f"{SOURCE}.{TYPE}", f"it is called {event.type}")
                        return {"id": event.id, "data": event.data}
            raise NotShown("the subscription ended")

        receiving = asyncio.create_task(first())
        began = time.monotonic()
        status, answer = await post(stage, path, body, _sign(body, signing_secret))
        answered = time.monotonic() - began
        must(status == 202, f"the door answered {status}: {answer}")
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                received = await receiving
        except TimeoutError:
            raise NotShown(f"no subscriber received it within {RECEIVE_SECONDS:g} s") from None
        finally:
            receiving.cancel()
    must(received["data"]["data"]["object"]["amount_paid"] == 4200, "the event's data was changed")
    return Evidence(
        f"202 after {answered * 1000:.0f} ms, on disk by then; received by the agent's subscription",
        None,
        (f"{SOURCE}.{TYPE}  {received['id']}",),
    )


async def again(stage: Stage, path: str, body: str, signing_secret: str) -> Evidence[None]:
    status, answer = await post(stage, path, body, _sign(body, signing_secret))
    must(status == 200 and answer.get("status") == "duplicate", f"the door answered {status}: {answer}")
    return Evidence("200, a duplicate: nothing changed", None)


async def forged(stage: Stage, path: str, body: str) -> Evidence[None]:
    status, answer = await post(stage, path, body, _sign(body, "whsec_somebody_elses"))
    return _refused(status, answer)


async def changed(stage: Stage, path: str, body: str, signing_secret: str) -> Evidence[None]:
    signature = _sign(body, signing_secret)
    status, answer = await post(stage, path, body.replace("4200", "9900"), signature)
    return _refused(status, answer)


def _refused(status: int, answer: dict[str, Any]) -> Evidence[None]:
    must(status == 400, f"the door answered {status}: {answer}")
    return Evidence(f"{status} {answer['code']}", None, (str(answer["detail"]),))


async def post(stage: Stage, path: str, body: str, signature: str) -> tuple[int, dict[str, Any]]:
    """Post as Stripe does."""
    headers = {"content-type": "application/json", "stripe-signature": signature}
    async with httpx2.AsyncClient(trust_env=False, timeout=10.0) as client:
        answer = await client.post(f"{stage.ingest_url}{path}", content=body, headers=headers)
    return answer.status_code, json.loads(answer.content)
