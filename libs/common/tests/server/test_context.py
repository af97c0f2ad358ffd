"""What a call leaves in the log, as the log will read it."""

from __future__ import annotations

from wardmesh.contracts import secrets
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, Outcome
from wardmesh.ids import RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.publishing import encode


def make_call() -> Call:
    return Call(
        secrets.LIST,
        scope=WorkspaceId.new(),
        principal=UserId.new(),
        request_id=RequestId.new(),
        ends_at=0.0,
        trace_id=None,
        outbox=None,
    )


async def test_a_field_that_was_left_empty_is_no_target() -> None:
    call = make_call()
    call.name_targets(secrets.ListSecrets())
    event = encode(call.audit_event(Outcome.SUCCESS, None))
    assert AuditEnvelope.model_validate_json(b'{"events":[' + event + b"]}").events[0].targets == ()


async def test_an_event_can_be_copied_with_changes_and_stays_as_it_is() -> None:
    event = make_call().audit_event(Outcome.SUCCESS, None)
    copy = event.model_copy(update={"targets": ("another",), "request_id": None})
    assert copy.targets == ("another",)
    assert event.targets == ()
    assert copy == AuditEvent.model_validate(copy.model_dump())
    assert make_call().audit_event(Outcome.SUCCESS, None).model_fields_set == set(AuditEvent.model_fields)


async def test_an_event_is_one_like_any_other() -> None:
    """It is made without pydantic's constructor, and must be what that would have made."""
    call = make_call()
    call.note(targets=["openai/api-key"], version=3)
    event = call.audit_event(Outcome.REFUSED, "not_found")
    again = AuditEvent(**{name: getattr(event, name) for name in AuditEvent.model_fields})
    assert event == again
