"""The answering side of `request_reply`: prints an access token when it is ready, then answers until it is ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from typing import Final

import nats
import uvloop
from joserfc import jws
from joserfc.jwk import OKPKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from wardmesh.contracts import secrets
from wardmesh.contracts.operation import Durability
from wardmesh.ids import KeyId, OrgId, ServiceId, TokenId, WorkspaceId
from wardmesh.server.authenticator import TokenAuthenticator
from wardmesh.server.context import Call
from wardmesh.server.messaging import Messaging
from wardmesh.server.operations import Operations
from wardmesh.server.publishing import AuditPublisher
from wardmesh.server.ratelimit import Rate, RateLimiter
from wardmesh.server.tokens import ALGORITHM, AUDIENCE

ISSUER: Final = "wardmesh"
ANSWER: Final = secrets.Secrets(secrets=())


def issue(key: OKPKey) -> str:
    """Return a token like those of the auth service."""
    now = int(time.time())
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": ServiceId.new(), "org": OrgId.new(), "ws": WorkspaceId.new(),
        "level": "member", "iat": now, "exp": now + 600, "jti": TokenId.new(), "sid": KeyId.new(),
        "cnf": {"jwk": {"kty": "OKP", "crv": "X25519", "x": "A" * 43}},
    }  # fmt: skip
    header = {"alg": ALGORITHM, "kid": "bench", "typ": "JWT"}
    return jws.serialize_compact(header, json.dumps(claims).encode(), key, algorithms=[ALGORITHM])


async def answer_raw(client: Client) -> None:
    body = ANSWER.model_dump_json().encode()

    async def answer(message: Msg) -> None:
        await client.publish(message.reply, body)

    await client.subscribe("rpc.secrets.list.*.*", queue="q", cb=answer)


async def answer_through_gates(client: Client, key: OKPKey, durability: Durability) -> None:
    messaging = Messaging("secrets")
    messaging.nats = client
    await messaging.jetstream.add_stream(StreamConfig(name="AUDIT", subjects=["audit.>"]))
    audit = AuditPublisher(messaging, "secrets")
    audit.start()
    operations = Operations(
        "secrets",
        TokenAuthenticator({"bench": key}, {}, issuer=ISSUER, is_ready=lambda: True),
        audit,
        limiter=RateLimiter(Rate(per_second=1e9, burst=10**9)),
    )

    async def handler(_call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        return ANSWER

    rule = dataclasses.replace(secrets.LIST.audit, durability=durability)
    operations.bind(dataclasses.replace(secrets.LIST, audit=rule), handler)
    await operations.start(client)


async def main(url: str, kind: str) -> None:
    key = OKPKey.generate_key("Ed25519")
    client = await nats.connect(url)
    if kind in ("raw", "header"):
        await answer_raw(client)
    else:
        durability = Durability.BEFORE_ANSWER if kind == "durable" else Durability.QUEUED
        await answer_through_gates(client, key, durability)
    await client.flush()
    print(issue(key), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
