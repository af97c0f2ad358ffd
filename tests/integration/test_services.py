"""Each service does its main job, through the client and the doors."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time

import httpx2
import pytest

import wardmesh
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_rows import Format
from wardmesh.audit_selection import export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.contracts.audit import Entry, Filter
from wardmesh.contracts.webhooks import Scheme
from wardmesh.errors import Conflict, CredentialRefused, PermissionDenied
from wardmesh.ids import WorkspaceId
from wardmesh.testing import RunningMesh

SECONDS = 30


async def test_auth_knows_an_agent_until_its_key_is_revoked(mesh: RunningMesh, workspace: WorkspaceId) -> None:
    key = await mesh.agent(workspace, permissions=["identity.read"])
    async with mesh.connect(scope=workspace) as owner:
        async with mesh.connect(key) as agent:
            identity = await agent.auth.who_am_i()
            assert (identity.principal, identity.permissions) == (agent.principal, ("identity.read",))
            (known,) = (await owner.auth.list_keys(principal=agent.principal)).keys
            assert (await owner.auth.revoke_key(key=known.id)).connections_closed == 1
        with pytest.raises(CredentialRefused):
            async with mesh.connect(key):
                pass


async def test_secrets_gives_a_value_to_who_was_granted_it(mesh: RunningMesh, workspace: WorkspaceId) -> None:
    key = await mesh.agent(workspace, permissions=["secret.read"])
    async with mesh.connect(scope=workspace) as owner, mesh.connect(key) as agent:
        await owner.secrets.put("openai/api-key", "sk-1")
        with pytest.raises(PermissionDenied):
            await agent.secrets.get("openai/api-key")
        await owner.secrets.grant(pattern="openai/*", principal=agent.principal)
        assert await agent.secrets.get("openai/api-key") == "sk-1"


async def test_webhooks_delivers_what_was_published_and_what_was_posted(
    mesh: RunningMesh, workspace: WorkspaceId
) -> None:
    async with mesh.connect(scope=workspace) as owner:
        source = await owner.webhooks.create_source(name="forge", scheme=Scheme.GITHUB, signing_secret="s" * 32)
        body = json.dumps({"zen": "Keep it logically awesome."}).encode()
        headers = {
            "content-type": "application/json",
            "x-github-event": "ping",
            "x-github-delivery": "d-1",
            "x-hub-signature-256": f"sha256={hmac.new(b's' * 32, body, hashlib.sha256).hexdigest()}",
        }
        async with httpx2.AsyncClient(base_url=mesh.ingest_url, timeout=SECONDS) as door:
            assert (await door.post(source.path, content=body, headers=headers)).status_code == 202
            forged = headers | {"x-hub-signature-256": f"sha256={'0' * 64}"}
            assert (await door.post(source.path, content=body, headers=forged)).status_code == 400
        await owner.events.publish("order.shipped", {"order": 7})
        async with asyncio.timeout(SECONDS), owner.events.subscribe(">", group="test") as events:
            received = {}
            async for event in events:
                async with event:
                    received[f"{event.source}.{event.type}"] = event.data
                if len(received) == 2:
                    break
    assert received == {"forge.ping": json.loads(body), "app.order.shipped": {"order": 7}}


async def test_bridge_carries_a_message_once_both_sides_agreed(mesh: RunningMesh, workspace: WorkspaceId) -> None:
    other = await mesh.workspace()
    async with mesh.connect(scope=workspace) as here, mesh.connect(scope=other) as there:
        with pytest.raises(Conflict):
            await here.bridge.send(other, "report.ready", {"pages": 12})
        proposed = await here.bridge.propose(target=other)
        await there.bridge.accept(agreement=proposed.id)
        sent = await here.bridge.send(other, "report.ready", {"pages": 12})
        async with asyncio.timeout(SECONDS), there.bridge.receive(group="test") as messages:
            async for message in messages:
                async with message:
                    assert (message.id, message.source, message.data) == (sent, workspace, {"pages": 12})
                break


async def test_audit_keeps_what_was_emitted_in_a_log_that_verifies(
    mesh: RunningMesh, workspace: WorkspaceId, tmp_path_factory: pytest.TempPathFactory
) -> None:
    usage = wardmesh.ModelUsage(model="small-1", input_tokens=812, output_tokens=97, cost_usd="0.0061", source="chat")
    async with mesh.connect(scope=workspace) as owner:
        emitted = await owner.audit.emit(usage)
        entry = await sealed(owner, emitted)
        assert entry.event.actor == owner.principal
        folder = tmp_path_factory.mktemp("log") / "export"
        await export_log(owner.audit, folder)
        parts = {kind: folder.with_name(kind.value) for kind in Format}
        for kind, part in parts.items():
            await export_selection(owner.audit, part, kind, Filter(action=entry.event.action))
    report = verify_export(folder)
    assert report.is_sound
    assert report.entries_checked > entry.index
    for part in parts.values():
        partial = verify_selection(part, report.verifier_key)
        assert (partial.is_sound, partial.entries_checked) == (True, 1), partial


async def test_an_organization_is_not_reached_from_another(mesh: RunningMesh, workspace: WorkspaceId) -> None:
    rival = await mesh.sign_up()
    with pytest.raises(CredentialRefused):
        async with mesh.connect(rival.api_key, scope=workspace):
            pass


@pytest.mark.parametrize("process", ["secrets", "nats", "postgres"])
async def test_a_call_outlives_what_it_needs(mesh: RunningMesh, workspace: WorkspaceId, process: str) -> None:
    async with mesh.connect(scope=workspace) as owner:
        await owner.secrets.put("openai/api-key", "sk-1")
        mesh.kill(process)
        give_up = time.monotonic() + SECONDS
        while True:
            try:
                assert await owner.secrets.get("openai/api-key") == "sk-1"
                break
            except wardmesh.WardmeshError as error:
                if not error.retryable or time.monotonic() > give_up:
                    raise
        await mesh.wait_ready(process)


async def sealed(mesh: wardmesh.Mesh, event: str) -> Entry:
    """Return the log's entry of an event, when it is there."""
    async with asyncio.timeout(SECONDS):
        start = 0
        while True:
            page = await mesh.audit.tail_page(filter=Filter(), start=start, wait_seconds=1.0)
            for entry in page.entries:
                if entry.event.id == event:
                    return entry
            start = page.next_start
