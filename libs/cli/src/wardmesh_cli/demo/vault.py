"""A secret: refused without a grant, read with one, and ciphertext on every wire."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Final

from wardmesh.contracts import auth
from wardmesh.contracts.secrets import SealedSecret
from wardmesh.crypto import vault
from wardmesh.crypto.sealing import HolderKey
from wardmesh.headers import AUTHORIZATION, REQUEST_ID
from wardmesh.ids import RequestId
from wardmesh_cli.demo.stage import Stage, Tenants
from wardmesh_cli.demo.tour import Evidence, must, refused
from wardmesh_cli.demo.wire import bare

PATH: Final = "openai/api-key"
ANSWER_SECONDS: Final = 5.0
_SHOWN: Final = 40


async def play(stage: Stage, tenants: Tenants) -> None:
    tour = stage.tour
    value = f"sk-{secrets.token_hex(20)}"
    with tour.chapter("A secret, sealed to who may read it"):
        await tour.step("the administrator stores one", stored(stage, tenants, value))
        await tour.step("without a grant the agent is refused", not_granted(stage, tenants))
        await tour.step("the administrator grants it the path", granted(stage, tenants))
        await tour.step("with the grant the agent reads it", read(stage, tenants, value))
        await tour.step("on the wire it is ciphertext", on_the_wire(stage, tenants, value))


async def stored(stage: Stage, tenants: Tenants, value: str) -> Evidence[None]:
    async with stage.visit(tenants.admin_key, tenants.north) as mesh:
        version = await mesh.secrets.put(PATH, value)
    return Evidence(f"{version.path}, version {version.version}", None)


async def not_granted(stage: Stage, tenants: Tenants) -> Evidence[None]:
    async with stage.visit(tenants.agent.api_key, tenants.north) as mesh:
        error = await refused(mesh.secrets.get(PATH), "permission_denied")
        unknown = await refused(mesh.secrets.get("no/such/path"), "permission_denied")
    must(error.detail == unknown.detail, "the refusal tells whether there is a secret")
    return Evidence(f"{error.code} ({error.status}), in the same words as for a path that is not there", None)


async def granted(stage: Stage, tenants: Tenants) -> Evidence[None]:
    async with stage.visit(tenants.admin_key, tenants.north) as mesh:
        grant = await mesh.secrets.grant(pattern="openai/*", principal=tenants.agent.id)
    return Evidence(f"{grant.pattern} to the researcher", None)


async def read(stage: Stage, tenants: Tenants, value: str) -> Evidence[None]:
    async with stage.visit(tenants.agent.api_key, tenants.north) as mesh:
        must(await mesh.secrets.get(PATH) == value, "another value came back")
    return Evidence(f"{value[:6]}… is the value that was stored", None)


async def on_the_wire(stage: Stage, tenants: Tenants, value: str) -> Evidence[None]:
    """Ask without the client library, look at the very bytes of the answer, and open them with the holder's key."""
    agent, holder, request_id = tenants.agent, HolderKey.generate(), RequestId.new()
    token = await stage.door.call(
        auth.EXCHANGE_KEY, auth.ExchangeKey(api_key=agent.api_key, holder_key=holder.public_bytes)
    )
    async with bare(stage.url, agent.api_key, tls=stage.tls) as connection:
        answer = await connection.client.request(
            f"rpc.secrets.get.{tenants.north}.{agent.id}",
            json.dumps({"path": PATH}).encode(),
            timeout=ANSWER_SECONDS,
            headers={AUTHORIZATION: f"Bearer {token.token}", REQUEST_ID: request_id},
        )
    plain = value.encode()
    for form in (plain, base64.b64encode(plain), plain.hex().encode()):
        must(form not in answer.data, "the value is in the answer")
    found = SealedSecret.model_validate_json(answer.data)
    info = vault.get_info(
        workspace=tenants.north, principal=agent.id, path=found.path, version=found.version, request_id=request_id
    )
    must(holder.open(found.sealed, info) == plain, "what was sealed is another value")
    shown = base64.b64encode(found.sealed).decode()
    return Evidence(
        "the answer's bytes hold the value in no form, and open with the agent's key alone",
        None,
        (f"{len(answer.data)} bytes, sealed (HPKE): {shown[:_SHOWN]}…",),
    )
