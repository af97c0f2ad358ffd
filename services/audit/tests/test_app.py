"""The whole service in this process: tokens, gates, sealing, tail, export, on real servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from joserfc import jws
from joserfc.jwk import OKPKey
from nats.aio.client import Client
from pydantic import SecretStr

from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.contracts import audit as contracts
from wardmesh.contracts.audit import (
    AskReceipt,
    Checkpoint,
    ConsistencyProof,
    Emit,
    Entries,
    Filter,
    Leaves,
    NewAuditEvent,
    Outcome,
    Prove,
    ProveGrowth,
    Query,
    ReadLeaves,
    Receipt,
    Tail,
)
from wardmesh.contracts.operation import AnyContract, Category, Empty, Level, Message
from wardmesh.crypto.checkpoint import open_checkpoint
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.crypto.tlog import verify_inclusion
from wardmesh.errors import CODE_HEADER, NotSealed, PermissionDenied, from_problem
from wardmesh.headers import AUTHORIZATION
from wardmesh.ids import EventId, OrgId, TokenId, UserId, WorkspaceId
from wardmesh.server.runtime import running
from wardmesh.server.settings import read_seed
from wardmesh_audit import app
from wardmesh_audit.settings import Settings
from wardmesh_cli.embedded.mesh import EmbeddedMesh

AnswerT = TypeVar("AnswerT", bound=Message)
KEY = OKPKey.generate_key("Ed25519", private=True)


@dataclass
class User:
    """Somebody who asks through the gateway's connection, with a token of their own."""

    client: Client
    token: str
    scope: WorkspaceId
    principal: UserId

    async def ask(self, contract: AnyContract, request: Message, answer: type[AnswerT]) -> AnswerT:
        inbox = f"_INBOX.{self.principal}.gateway.{TokenId.new()}"
        replies = await self.client.subscribe(inbox, max_msgs=1)
        await self.client.publish(
            contract.subject(self.scope, self.principal),
            request.model_dump_json(exclude_defaults=True).encode(),
            reply=inbox,
            headers={AUTHORIZATION: f"Bearer {self.token}"},
        )
        reply = await replies.next_msg(timeout=30)
        if reply.headers and CODE_HEADER in reply.headers:
            raise from_problem(reply.data)
        assert reply.data, reply.headers  # the broker's own word: nobody answers
        return answer.model_validate_json(reply.data)

    # What an export reads.
    async def checkpoint(self) -> Checkpoint:
        return await self.ask(contracts.CHECKPOINT, Empty(), Checkpoint)

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        return await self.ask(contracts.LEAVES, ReadLeaves(start=start, limit=limit), Leaves)


def token(level: Level, workspace: WorkspaceId, user: UserId) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "wardmesh", "aud": "wardmesh", "sub": user, "org": OrgId.new(), "ws": workspace, "level": level.label,
        "iat": now, "exp": now + 300, "jti": TokenId.new(), "sid": "key",
    }  # fmt: skip
    header = {"alg": "Ed25519", "kid": "test"}
    return jws.serialize_compact(header, json.dumps(claims).encode(), KEY, algorithms=["Ed25519"])


@asynccontextmanager
async def connected(servers: EmbeddedMesh) -> AsyncIterator[Client]:
    """The connection that speaks for callers, with a key that the mesh believes."""
    identities = servers.layout.identities
    auth = await nats.connect(
        servers.nats_url, nkeys_seed_str=read_seed(identities.seed_file("auth")), inbox_prefix="_INBOX.auth"
    )
    keys = await auth.jetstream().key_value("jwks")
    await keys.put("test", json.dumps(KEY.as_dict(private=False)).encode())
    client = await nats.connect(servers.nats_url, nkeys_seed_str=read_seed(identities.seed_file("gateway")))
    yield client
    await client.close()
    await auth.close()


@pytest.fixture(scope="module")
async def gateway(servers: EmbeddedMesh) -> AsyncIterator[Client]:
    """The service, answering; and the connection that speaks for its callers."""
    identities = servers.layout.identities
    settings = Settings(
        nats_url=servers.nats_url,
        nats_seed_file=identities.seed_file("audit"),
        database_url=SecretStr(servers.database_url("wardmesh_audit")),
        audit_log_key_file=identities.log_signing_key_file,
        audit_subject_keys_dir=servers.layout.subject_keys,
        key_file=identities.kek_file("audit"),
    )
    async with connected(servers) as client:
        async with running("audit", settings, app.build) as runtime:
            assert await runtime.health.missing() == {}
            yield client
        assert runtime.failure is None


def somebody(gateway: Client, level: Level, scope: WorkspaceId | None = None) -> User:
    workspace, user = scope or WorkspaceId.new(), UserId.new()
    return User(gateway, token(level, workspace, user), workspace, user)


async def test_from_emit_to_an_offline_proof(gateway: Client, tmp_path: Path) -> None:
    writer = somebody(gateway, Level.MEMBER)
    reader = somebody(gateway, Level.OPERATOR, writer.scope)
    tailing = asyncio.create_task(reader.ask(contracts.TAIL, Tail(start=0), Entries))
    await asyncio.sleep(0.1)
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", targets=("search",), details={"n": 1})
    emitted = await writer.ask(contracts.EMIT, Emit(events=(new,) * 3), contracts.Emitted)

    entries = (await tailing).entries
    assert tuple(entry.event.id for entry in entries) == emitted.ids
    assert {(entry.event.actor, entry.scope, entry.source) for entry in entries} == {
        (writer.principal, writer.scope, "audit")
    }

    found = await reader.ask(contracts.QUERY, Query(filter=Filter(actor=writer.principal, target="search")), Entries)
    assert [entry.index for entry in found.entries] == [2, 1, 0]

    checkpoint = await reader.checkpoint()
    root = open_checkpoint(checkpoint.note.encode(), checkpoint.verifier_key).root
    proof = await reader.ask(contracts.PROVE, Prove(index=1, size=checkpoint.size), contracts.InclusionProof)
    leaf = (await reader.leaves_page(start=1, limit=1)).leaves[0]
    verify_inclusion(1, checkpoint.size, leaf_hash(leaf), proof.hashes, root)

    await export_log(reader, tmp_path / "log")
    report = verify_export(tmp_path / "log", checkpoint.verifier_key)
    assert report.is_sound, str(report)
    assert report.size >= 3


async def test_an_emitter_holds_a_receipt_a_moment_after(gateway: Client) -> None:
    writer = somebody(gateway, Level.MEMBER)
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", targets=("search",))
    for number in range(3):  # the first is asked for in a log that nothing was ever sealed in
        (event_id,) = (await writer.ask(contracts.EMIT, Emit(events=(new,)), contracts.Emitted)).ids
        receipt = await writer.ask(contracts.RECEIPT, AskReceipt(event_id=event_id), Receipt)
        verified = verify_receipt(receipt.proof.encode(), receipt.verifier_key)
        assert verified.index == receipt.index == number
        assert json.loads(verified.entry)["event"]["id"] == event_id

    colleague = somebody(gateway, Level.MEMBER, writer.scope)
    with pytest.raises(NotSealed):
        await colleague.ask(contracts.RECEIPT, AskReceipt(event_id=event_id, wait_seconds=0), Receipt)
    reader = somebody(gateway, Level.OPERATOR, writer.scope)
    assert (await reader.ask(contracts.RECEIPT, AskReceipt(event_id=event_id), Receipt)).index == 2


async def test_who_kept_a_checkpoint_can_see_that_the_log_only_grew(gateway: Client) -> None:
    owner = somebody(gateway, Level.OWNER)
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
    kept: list[Checkpoint] = []
    for _ in range(2):
        (*_, last) = (await owner.ask(contracts.EMIT, Emit(events=(new,) * 5), contracts.Emitted)).ids
        await owner.ask(contracts.RECEIPT, AskReceipt(event_id=last), Receipt)
        kept.append(await owner.checkpoint())
    old, present = kept
    request = ProveGrowth(old_size=old.size, size=present.size)
    proof = await owner.ask(contracts.CONSISTENCY, request, ConsistencyProof)
    assert old.size < present.size
    verify_growth(old.note.encode(), present.note.encode(), proof.hashes, present.verifier_key)


async def test_a_long_log_is_exported_while_it_grows(gateway: Client, tmp_path: Path) -> None:
    owner = somebody(gateway, Level.OWNER)
    new = NewAuditEvent(category=Category.DATA_SYNC, action="data.sync")

    async def emit(times: int) -> None:
        for _ in range(times):
            await owner.ask(contracts.EMIT, Emit(events=(new,) * 256), contracts.Emitted)

    await emit(3)
    start, seen = 0, 0
    while seen < 768:
        page = await owner.ask(contracts.TAIL, Tail(start=start, limit=500, wait_seconds=5), Entries)
        assert [entry.index for entry in page.entries] == list(range(start, start + len(page.entries)))
        seen += len(page.entries)
        start = page.next_start
    _, exported = await asyncio.gather(emit(2), export_log(owner, tmp_path / "log"))
    assert exported.size >= 768
    report = verify_export(tmp_path / "log", exported.verifier_key)
    assert report.is_sound, str(report)


async def test_who_may_write_may_not_read_and_the_refusal_is_in_the_log(gateway: Client) -> None:
    member = somebody(gateway, Level.MEMBER)
    with pytest.raises(PermissionDenied):
        await member.ask(contracts.QUERY, Query(), Entries)
    with pytest.raises(PermissionDenied):
        await member.leaves_page(start=0, limit=1)
    operator = somebody(gateway, Level.OPERATOR, member.scope)
    found: tuple[contracts.Entry, ...] = ()
    async with asyncio.timeout(10):
        while len(found) < 2:
            query = Filter(actor=member.principal, outcome=Outcome.REFUSED)
            found = (await operator.ask(contracts.TAIL, Tail(filter=query, start=0, wait_seconds=5), Entries)).entries
    assert {entry.event.action for entry in found} == {"audit.query", "audit.export"}


async def test_an_event_emitted_again_is_in_the_log_once(gateway: Client) -> None:
    writer = somebody(gateway, Level.OPERATOR)
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", id=EventId.new())
    for _ in range(3):
        await writer.ask(contracts.EMIT, Emit(events=(new,)), contracts.Emitted)
    last = await writer.ask(contracts.EMIT, Emit(events=(new.model_copy(update={"id": None}),)), contracts.Emitted)
    ids: list[EventId] = []
    start = 0
    async with asyncio.timeout(10):
        while last.ids[0] not in ids:
            query = Filter(action="tool.call")
            page = await writer.ask(contracts.TAIL, Tail(filter=query, start=start, wait_seconds=5), Entries)
            ids += [entry.event.id for entry in page.entries]
            start = page.next_start
    assert ids == [new.id, last.ids[0]]
