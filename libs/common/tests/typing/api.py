"""The public API as a type checker sees it. Checked by `tests/client/test_typing.py`; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import assert_type

import wardmesh
from wardmesh.contracts import audit, auth, bridge, secrets, webhooks
from wardmesh.contracts.operation import Empty
from wardmesh.ids import AgreementId, EventId, MessageId, OrgId, UserId, WorkspaceId

assert_type(wardmesh.connect(), AbstractAsyncContextManager[wardmesh.Mesh])


async def calls(mesh: wardmesh.Mesh, workspace: WorkspaceId, user: UserId) -> None:
    assert_type(await mesh.auth.create_workspace(name="x"), auth.Workspace)
    assert_type(await mesh.auth.who_am_i(), auth.Identity)
    assert_type(await mesh.auth.set_level(principal=user, level="member"), auth.PrincipalInfo)
    assert_type(await mesh.secrets.get("a"), str)
    assert_type(await mesh.secrets.get_bytes("a", version=2), bytes)
    assert_type(await mesh.secrets.put("a", b"1"), secrets.SecretVersion)
    assert_type(await mesh.secrets.get_sealed(path="a"), secrets.SealedSecret)
    assert_type(await mesh.secrets.grant(pattern="a/*", principal=user), secrets.Grant)
    assert_type(await mesh.bridge.propose(target=workspace), bridge.Agreement)
    assert_type(await mesh.bridge.accept(agreement=AgreementId.new()), bridge.Agreement)
    assert_type(await mesh.bridge.send(workspace, "a.b", {}), MessageId)
    assert_type(await mesh.webhooks.list_sources(), webhooks.Sources)
    assert_type(await mesh.events.publish("a.b", {}), str)
    assert_type(await mesh.audit.checkpoint(), audit.Checkpoint)
    usage = wardmesh.ModelUsage(model="m", input_tokens=1, output_tokens=1, cost_usd="0", source="chat")
    assert_type(await mesh.audit.emit(usage), EventId)
    async for entry in mesh.audit.tail(resume="siem"):
        assert_type(entry, audit.Entry)
    assert_type(mesh.audit.search(limit=5), AsyncIterator[audit.Entry])
    assert_type(mesh.audit.leaves(), AsyncIterator[bytes])
    assert_type(mesh.within(timedelta(seconds=1)), wardmesh.Mesh)
    assert_type(await mesh.call(auth.WHO_AM_I, Empty()), auth.Identity)
    async for event in mesh.events.subscribe("a.>", group="g"):
        async with event as entered:
            assert_type(entered, wardmesh.ReceivedEvent)
    async for message in mesh.bridge.receive(group="g"):
        assert_type(message, wardmesh.ReceivedMessage)


async def mistakes(mesh: wardmesh.Mesh, organization: OrgId) -> None:
    await mesh.auth.create_workspace(nam="x")  # type: ignore[call-arg]  # no such argument
    await mesh.auth.create_workspace("x")  # type: ignore[call-arg]  # by name only
    await mesh.auth.create_workspace(name=1)  # type: ignore[arg-type]  # of another type
    await mesh.bridge.propose(target=organization)  # type: ignore[arg-type]  # an organization is no workspace
    await mesh.bridge.accept()  # type: ignore[call-arg]  # which one?
    await mesh.call(auth.WHO_AM_I, auth.CreateWorkspace(name="x"))  # type: ignore[misc]  # another's request
    await mesh.audit.emit("event")  # type: ignore[arg-type]  # not an event
