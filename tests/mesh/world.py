"""What the tests of a whole mesh start from: organizations, and callers that wrote their own client."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

import wardmesh
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.auth import CreatedKey, PrincipalInfo
from wardmesh.errors import CODE_HEADER
from wardmesh.ids import OrgId, Principal, RequestId, Scope, UserId, WorkspaceId, parse_principal
from wardmesh_cli.embedded.mesh import EmbeddedMesh


@dataclass(frozen=True)
class Tenant:
    """An organization with its owner, who logs in by password."""

    mesh: EmbeddedMesh
    organization: OrgId
    workspace: WorkspaceId
    owner: UserId
    email: str
    password: str

    async def post(self, path: str, body: dict[str, Any], token: str | None = None) -> httpx2.Response:
        """Ask the gateway."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=self.mesh.http_url, timeout=30) as http:
            return await http.post(path, json=body, headers=headers)

    async def log_in(
        self, *, email: str | None = None, password: str | None = None, scope: Scope | None = None
    ) -> dict[str, Any]:
        """Return a session (token, refresh_token, …), the owner's unless said otherwise."""
        body = {
            "organization": self.organization,
            "email": email or self.email,
            "password": password or self.password,
            "scope": scope,
        }
        answer = await self.post(f"/v1/{self.organization}/auth/log_in", body)
        assert answer.status_code == 200, answer.text
        session: dict[str, Any] = answer.json()
        return session

    async def connect_as_owner(self, scope: Scope | None = None) -> AbstractAsyncContextManager[Mesh]:
        session = await self.log_in(scope=scope or self.workspace)
        return wardmesh.connect(self.mesh.nats_url, token=session["token"])

    def connect(self, api_key: str, scope: Scope | None = None) -> AbstractAsyncContextManager[Mesh]:
        return wardmesh.connect(self.mesh.nats_url, api_key, scope=scope)

    async def exchange(self, api_key: str, scope: Scope) -> dict[str, Any]:
        """Return an access token for an API key."""
        answer = await self.post(f"/v1/{scope}/auth/exchange_key", {"api_key": api_key, "scope": scope})
        assert answer.status_code == 200, answer.text
        token: dict[str, Any] = answer.json()
        return token

    async def agent(self, *permissions: str, name: str = "agent") -> tuple[PrincipalInfo, CreatedKey]:
        """Make an agent of the workspace whose key reaches exactly `permissions`."""
        async with await self.connect_as_owner() as mesh:
            agent = await mesh.auth.create_agent(name=name)
            return agent, await mesh.auth.create_key(principal=agent.id, name=name, permissions=permissions)


async def sign_up(mesh: EmbeddedMesh, name: str) -> Tenant:
    email, password = f"{secrets.token_hex(6)}@example.com", secrets.token_urlsafe(18)
    async with httpx2.AsyncClient(base_url=mesh.http_url, timeout=30) as http:
        answer = await http.post(
            "/v1/-/auth/sign_up", json={"organization": name, "email": email, "password": password}
        )
    assert answer.status_code == 200, answer.text
    made = answer.json()
    return Tenant(
        mesh,
        OrgId.parse(made["organization"]),
        WorkspaceId.parse(made["workspace"]),
        UserId.parse(made["user"]),
        email,
        password,
    )


@dataclass
class RawCaller:
    """A client of an attacker's own making: whatever the broker lets it send, it can send."""

    client: Client
    principal: Principal
    scope: Scope
    token: str

    async def ask(
        self, subject: str, body: bytes = b"{}", *, reply: str | None = None, listen: str | None = None
    ) -> Msg:
        """Publish with our token and wait for what comes to `listen`, our own reply subject unless said otherwise."""
        reply = reply if reply is not None else self.client.new_inbox()
        subscription = await self.client.subscribe(listen or reply)
        headers = {"Authorization": f"Bearer {self.token}", "Request-Id": str(RequestId.new())}
        try:
            await self.client.publish(subject, body, reply=reply, headers=headers)
            return await subscription.next_msg(timeout=10)
        finally:
            await subscription.unsubscribe()


def code_of(answer: Msg) -> str:
    """Return the error code of an answer, or `ok`."""
    if answer.headers is None or CODE_HEADER not in answer.headers:
        return "ok"
    return str(json.loads(answer.data)["code"])


@asynccontextmanager
async def raw_caller(
    mesh: EmbeddedMesh, *, scope: Scope, principal: str, credential: str, token: str
) -> AsyncIterator[RawCaller]:
    """Connect with nats-py alone."""
    client = await nats.connect(
        mesh.nats_url, user=scope, password=credential, inbox_prefix=f"_INBOX.{principal}", allow_reconnect=False
    )
    try:
        yield RawCaller(client, parse_principal(principal), scope, token)
    finally:
        await client.close()
