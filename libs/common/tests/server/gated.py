"""One service behind the gates, on a real broker, and one caller who wrote a client of its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.contracts import secrets
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Level
from wardmesh.errors import TokenExpired
from wardmesh.ids import AgentId, OrgId, RequestId, Scope, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.operations import Operations
from wardmesh.server.origin import Origin
from wardmesh.server.tokens import Caller

ORG, WORKSPACE, AGENT = OrgId.new(), WorkspaceId.new(), AgentId.new()
CALLER = Caller(
    principal=AGENT, scope=WORKSPACE, organization=ORG, workspace=WORKSPACE, level=Level.MEMBER,
    permissions=frozenset({"secret.list"}), acting_for=None, holder_key=None, token_id="tok_1", credential_id="key_1",
    issued_at=0, expires_at=2**40,
)  # fmt: skip
SECRET = "correct-horse-battery-staple"


class FakeAuthenticator:
    """Knows one token. Can be made to fail."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def authenticate(self, token: str) -> Caller:
        if self.failure is not None:
            raise self.failure
        if token != "good":
            raise TokenExpired
        return CALLER

    def origin(self, statement: str, principal: object, request_id: object) -> Origin | None:
        return Origin(address="192.0.2.7", user_agent="curl/8") if statement == f"{principal} {request_id}" else None


class FakeRecorder:
    """Keeps what is recorded. Can be made to fail."""

    def __init__(self) -> None:
        self.events: list[tuple[Scope, AuditEvent]] = []
        self.failure: Exception | None = None

    async def emit(self, scope: Scope, records: list[bytes], *, trace_parent: str | None = None) -> None:
        if self.failure is not None:
            raise self.failure
        self.events.extend((scope, AuditEvent.model_validate_json(record)) for record in records)

    async def enqueue(self, scope: Scope, record: bytes, *, trace_parent: str | None = None) -> None:
        await self.emit(scope, [record])


class Mesh:
    """One service and one caller."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.authenticator, self.recorder = FakeAuthenticator(), FakeRecorder()
        self.handler: Callable[[Call, secrets.ListSecrets], Awaitable[secrets.Secrets]] = self._empty
        self.seen: list[Call] = []
        self.operations = Operations("secrets", self.authenticator, self.recorder, max_in_flight=4)

    async def _empty(self, _call: Call, _request: secrets.ListSecrets) -> secrets.Secrets:
        return secrets.Secrets(secrets=())

    async def start(self, contract: Any = secrets.LIST) -> None:
        async def handle(call: Call, request: secrets.ListSecrets) -> secrets.Secrets:
            self.seen.append(call)
            return await self.handler(call, request)

        self.operations.bind(contract, handle)
        await self.operations.start(self.client)

    async def ask(
        self, body: bytes = b"{}", *, operation: str = "list", scope: object = WORKSPACE, principal: object = AGENT,
        reply: str | None = None, listen: str | None = None, **headers: str,
    ) -> Msg:  # fmt: skip
        """Ask as a caller that wrote its own client."""
        reply = f"_INBOX.{principal}.x.1" if reply is None else reply
        subscription = await self.client.subscribe(listen or reply)
        sent = {"Authorization": "Bearer good", "Request-Id": str(RequestId.new())} | {
            name.replace("_", "-"): value for name, value in headers.items() if value
        }
        if headers.get("Authorization") == "":
            del sent["Authorization"]
        try:
            await self.client.publish(f"rpc.secrets.{operation}.{scope}.{principal}", body, reply=reply, headers=sent)
            return await subscription.next_msg(timeout=5)
        finally:
            await subscription.unsubscribe()

    def outcomes(self) -> list[tuple[Outcome, str | None]]:
        return [(event.outcome, event.reason) for _, event in self.recorder.events]


def code(message: Msg) -> str | None:
    problem = json.loads(message.data)
    if "code" not in problem:
        return None
    assert message.headers is not None
    assert message.headers["Nats-Service-Error-Code"] == str(problem["status"])
    assert message.headers["Nats-Service-Error"] == problem["code"]
    assert problem["type"] == f"urn:wardmesh:error:{problem['code']}"
    assert problem["detail"]
    return str(problem["code"])
