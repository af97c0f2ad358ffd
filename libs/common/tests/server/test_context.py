"""What a call leaves in the log, as the log will read it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.contracts import ALL, secrets
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, Outcome
from wardmesh.contracts.operation import AnyContract
from wardmesh.ids import RequestId, UserId, WorkspaceId
from wardmesh.server import context
from wardmesh.server.context import Call
from wardmesh.server.origin import Origin
from wardmesh.server.publishing import encode


def make_call(contract: AnyContract = secrets.LIST, trace_id: str | None = None) -> Call:
    return Call(
        contract,
        scope=WorkspaceId.new(),
        principal=UserId.new(),
        request_id=RequestId.new(),
        ends_at=0.0,
        trace_id=trace_id,
        outbox=None,
    )


async def test_a_field_that_was_left_empty_is_no_target() -> None:
    call = make_call()
    call.name_targets(secrets.ListSecrets())
    event = encode(call.audit_event(Outcome.SUCCESS, None))
    assert AuditEnvelope.model_validate_json(b'{"events":[' + event + b"]}").events[0].targets == ()


def test_a_record_is_what_the_model_would_have_written() -> None:
    bare, full = make_call(), make_call(trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
    full.note(targets=['a "path"', "é\u2028"], version=3, nested={"a": [None, True, 1.5, "\\"]})
    full.came_from(Origin(address="2001:db8::1", user_agent='agent "quoted"\t'))
    for call, reason in ((bare, None), (full, "not_found")):
        record = call.audit_record(Outcome.REFUSED, reason)
        event = AuditEvent.model_validate_json(record)
        assert json.loads(encode(event)) == json.loads(record)
        assert (event.category, event.action) == (call.contract.audit.category, call.contract.audit.action)
        assert (event.actor, event.request_id, event.reason) == (call.audit_actor, call.request_id, reason)
        assert abs(datetime.now(UTC) - event.occurred_at) < timedelta(minutes=1)
    assert event.targets == ('a "path"', "é\u2028")
    assert (event.source_address, event.user_agent) == ("2001:db8::1", 'agent "quoted"\t')
    assert event.details == {"version": 3, "nested": {"a": [None, True, 1.5, "\\"]}}


@pytest.mark.parametrize("contract", ALL.values(), ids=lambda contract: contract.key)
def test_the_words_of_every_contract_stand_in_a_record_as_they_are(contract: AnyContract) -> None:
    event = make_call(contract).audit_event(Outcome.SUCCESS, None)
    assert (event.category, event.action) == (contract.audit.category, contract.audit.action)


@given(st.floats(min_value=0, max_value=4e9))
@pytest.mark.property
def test_the_time_of_a_record_is_the_clocks(now: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.time, "time", lambda: now)
        said = make_call().audit_event(Outcome.SUCCESS, None).occurred_at
    assert abs(said.timestamp() - now) < 2e-6
