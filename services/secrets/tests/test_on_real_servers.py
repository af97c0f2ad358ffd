"""The whole vault on a real broker and a real database, asked through its gates."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from joserfc import jwt
from joserfc.jwk import OKPKey
from nats.aio.client import Client

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.operation import AnyContract, Empty, Level, Message
from wardmesh.contracts.secrets import GetSecret, GrantSecret, ListSecrets, PutSecret
from wardmesh.crypto.jwk import to_jwk
from wardmesh.crypto.sealing import seal_to
from wardmesh.crypto.vault import get_info, put_info
from wardmesh.errors import CODE_HEADER, AuditUnavailable, InvalidRequest, PermissionDenied, Undecryptable, from_problem
from wardmesh.headers import AUTHORIZATION, REQUEST_ID
from wardmesh.ids import RequestId, SessionId, TokenId
from wardmesh.server.runtime import running
from wardmesh.server.streams import Choices, declared
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_secrets.app import build
from wardmesh_secrets.settings import Settings

ISSUER_KEY = OKPKey.generate_key("Ed25519", auto_kid=True)
WAIT_SECONDS = 15.0
CANARY = b"sk-canary-77d1c2"


async def connect(mesh: EmbeddedMesh, user: str) -> Client:
    seed = mesh.layout.identities.seed_file(user).read_text().strip()
    return await nats.connect(mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{user}")


async def declare(mesh: EmbeddedMesh, *names: str) -> None:
    """Declare some of the mesh's streams only."""
    provisioner = await connect(mesh, "provisioner")
    for name in names:
        await provisioner.jetstream().add_stream(declared(Choices())[name])
    await provisioner.close()


@pytest.fixture(scope="module")
async def vault(servers: EmbeddedMesh) -> AsyncIterator[None]:
    """The service, and what the auth service would have made. There is no stream for audit events yet."""
    await declare(servers, "KV_jwks", "KV_revocations")
    auth = await connect(servers, "auth")
    jwks = await auth.jetstream().key_value("jwks")
    await jwks.put(ISSUER_KEY.kid, json.dumps(ISSUER_KEY.as_dict(private=False)).encode())
    await auth.close()
    identities = servers.layout.identities
    settings = Settings(
        nats_url=servers.nats_url,
        nats_seed_file=identities.seed_file("secrets"),
        database_url=servers.database_url("wardmesh_secrets"),
        key_file=identities.kek_file("secrets"),
    )
    async with running("secrets", settings, build) as runtime:
        async with asyncio.timeout(WAIT_SECONDS):
            await runtime.keys.ready.wait()
            await runtime.revocations.ready.wait()
        yield


class Door:
    """Asks as the gateway does: on behalf of a person, with a token that names them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(
        self, who: Any, contract: AnyContract, request: Message, request_id: RequestId | None = None
    ) -> tuple[Any, RequestId]:
        caller, request_id, now = who.caller, request_id or RequestId.new(), int(time.time())
        claims: dict[str, Any] = {
            "iss": "wardmesh",
            "aud": "wardmesh",
            "sub": str(caller.principal),
            "org": str(caller.organization),
            "ws": str(caller.workspace),
            "level": caller.level.label,
            "iat": now,
            "exp": now + 300,
            "jti": str(TokenId.new()),
            "sid": str(SessionId.new()),
        }
        if caller.holder_key is not None:
            claims["cnf"] = {"jwk": to_jwk("X25519", caller.holder_key)}
        if caller.level is Level.RESTRICTED:
            claims["scope"] = " ".join(sorted(caller.permissions))
        token = jwt.encode({"alg": "Ed25519", "kid": ISSUER_KEY.kid}, claims, ISSUER_KEY, algorithms=["Ed25519"])
        inbox = f"_INBOX.{caller.principal}.gateway.test.{RequestId.new()}"
        subscription = await self._client.subscribe(inbox, max_msgs=1)
        await self._client.publish(
            contract.subject(caller.scope, caller.principal),
            request.model_dump_json().encode(),
            reply=inbox,
            headers={AUTHORIZATION: f"Bearer {token}", REQUEST_ID: request_id},
        )
        answer = await subscription.next_msg(timeout=WAIT_SECONDS)
        assert CANARY not in answer.data
        if answer.headers and CODE_HEADER in answer.headers:
            raise from_problem(answer.data)
        return contract.response.model_validate_json(answer.data), request_id

    async def put(self, who: Any, path: str) -> None:
        key, _ = await self.call(who, contracts.SEALING_KEY, Empty())
        request_id = RequestId.new()
        info = put_info(
            workspace=who.caller.workspace,
            principal=who.caller.principal,
            path=path,
            key_id=key.key_id,
            request_id=request_id,
        )
        request = PutSecret(path=path, key_id=key.key_id, sealed=seal_to(key.public_key, CANARY, info))
        await self.call(who, contracts.PUT, request, request_id)
        with pytest.raises(Undecryptable):  # the same value under another request's id
            await self.call(who, contracts.PUT, request)

    async def get(self, who: Any, path: str) -> bytes:
        answer, request_id = await self.call(who, contracts.GET, GetSecret(path=path))
        info = get_info(
            workspace=who.caller.workspace,
            principal=who.caller.principal,
            path=path,
            version=answer.version,
            request_id=request_id,
        )
        opened: bytes = who.holder.open(answer.sealed, info)
        return opened


@pytest.fixture
async def door(servers: EmbeddedMesh, vault: None) -> AsyncIterator[Door]:
    client = await connect(servers, "gateway")
    yield Door(client)
    await client.close()


async def test_through_the_gates(servers: EmbeddedMesh, door: Door, admin: Any, person: Any) -> None:
    # As long as its audit event has nowhere to go, no plaintext leaves, sealed or not.
    await door.put(admin, "openai/api-key")
    with pytest.raises(AuditUnavailable):
        await door.get(admin, "openai/api-key")

    await declare(servers, "AUDIT")
    audit = await connect(servers, "audit")
    assert await door.get(admin, "openai/api-key") == CANARY

    agent = person(Level.RESTRICTED, like=admin, permissions=["secret.read", "secret.list"])
    with pytest.raises(PermissionDenied):
        await door.get(agent, "openai/api-key")
    grant = GrantSecret(pattern="openai/*", principal=agent.caller.principal)
    with pytest.raises(PermissionDenied):
        await door.call(agent, contracts.GRANT, grant)
    await door.call(admin, contracts.GRANT, grant)
    assert await door.get(agent, "openai/api-key") == CANARY
    with pytest.raises(InvalidRequest):
        await door.get(agent.but(holder_key=None), "openai/api-key")
    listed, _ = await door.call(agent, contracts.LIST, ListSecrets())
    assert [secret.path for secret in listed.secrets] == ["openai/api-key"]

    subscription = await audit.jetstream().pull_subscribe(
        f"audit.{admin.caller.workspace}.secrets", stream="AUDIT", inbox_prefix=b"_INBOX.audit."
    )
    found: set[tuple[str, str]] = set()
    expected = {
        ("secret.put", "success"),
        ("secret.get", "success"),
        ("secret.get", "refused"),
        ("secret.grant", "refused"),
    }
    async with asyncio.timeout(WAIT_SECONDS):
        while not expected <= found:
            for message in await subscription.fetch(1, timeout=WAIT_SECONDS):
                assert CANARY not in message.data
                found |= {
                    (event["action"], event.get("outcome", "success")) for event in json.loads(message.data)["events"]
                }
    await audit.close()
