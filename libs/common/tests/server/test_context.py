"""What a call leaves in the log, as the log will read it."""

from __future__ import annotations

from wardmesh.contracts import secrets
from wardmesh.contracts.audit import AuditEnvelope, Outcome
from wardmesh.ids import RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.publishing import encode


async def test_a_field_that_was_left_empty_is_no_target() -> None:
    call = Call(
        secrets.LIST,
        scope=WorkspaceId.new(),
        principal=UserId.new(),
        request_id=RequestId.new(),
        ends_at=0.0,
        trace_id=None,
        outbox=None,
    )
    call.name_targets(secrets.ListSecrets())
    event = encode(call.audit_event(Outcome.SUCCESS, None))
    assert AuditEnvelope.model_validate_json(b'{"events":[' + event + b"]}").events[0].targets == ()
