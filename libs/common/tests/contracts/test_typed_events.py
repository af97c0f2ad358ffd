"""Typed events: there and back without loss, and every operation's own entry fits its category's model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import wardmesh
from wardmesh.contracts import ALL, audit
from wardmesh.contracts.audit import AuditEvent, NewAuditEvent, NotTyped, Outcome, TypedEvent, typed
from wardmesh.contracts.audit.typed import TYPED
from wardmesh.contracts.operation import AnyContract, Category
from wardmesh.ids import AgentId, EventId, OrgId, RequestId, UserId, WorkspaceId
from wardmesh.server.context import Call

NOW = datetime.now(UTC)
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20).map(
    lambda s: f"w{s}w"
)
counts = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e9)
maybe = st.none()

SAMPLES: dict[type[TypedEvent], st.SearchStrategy[Any]] = {
    audit.Authentication: st.builds(
        audit.Authentication, action=st.just("session.create"), method=maybe | words, failure=maybe | words,
        scope=maybe | st.builds(WorkspaceId.new), connection=maybe | counts, reused=maybe | st.booleans(),
    ),
    audit.Authorization: st.builds(audit.Authorization, action=st.just("gateway.request"), operation=maybe | words),
    audit.Administration: st.builds(audit.Administration, action=st.just("key.create"), before=maybe | words),
    audit.SecretAccess: st.builds(
        audit.SecretAccess, action=st.just("secret.get"), path=words, version=maybe | counts,
        targets=st.lists(words, max_size=3).map(tuple),
    ),
    audit.BridgeExchange: st.builds(
        audit.BridgeExchange, action=st.just("message.send"), source=maybe | st.builds(WorkspaceId.new),
        messages=maybe | counts, dead_letter=maybe | st.builds(EventId.new),
    ),
    audit.WebhookReceipt: st.builds(
        audit.WebhookReceipt, action=st.just("webhook.receive"), provider=maybe | words, trigger=maybe | words,
        processed=maybe | st.booleans(),
    ),
    audit.ModelUsage: st.builds(
        audit.ModelUsage, model=words, input_tokens=counts, output_tokens=counts, source=words,
        cost_usd=st.decimals(0, 999, places=4).map(str),
    ),
    audit.ActionExecution: st.builds(
        audit.ActionExecution, type=words, duration_seconds=seconds, error=maybe | words,
        outcome=st.sampled_from(Outcome), reason=maybe | words,
    ),
    audit.ToolCall: st.builds(
        audit.ToolCall, tool=words, duration_seconds=maybe | seconds, more=st.dictionaries(words, counts, max_size=3)
    ),
    audit.DataSync: st.builds(audit.DataSync, source=words, items=counts, cycle=maybe | counts),
    audit.PrivilegedAccess: st.builds(
        audit.PrivilegedAccess, resource=words, reason=words, approved_by=maybe | st.builds(UserId.new),
        until=maybe | st.just(NOW + timedelta(hours=1)),
    ),
    audit.ConfigurationChange: st.builds(
        audit.ConfigurationChange, action=st.just("webhook_source.create"), setting=maybe | words, after=maybe | words
    ),
}  # fmt: skip


def logged(new: NewAuditEvent) -> AuditEvent:
    """Return the event as it is read back from the log."""
    whole = AuditEvent(
        **new.model_dump(exclude={"id", "occurred_at"}), id=EventId.new(), occurred_at=NOW, actor=AgentId.new()
    )
    return AuditEvent.model_validate_json(whole.model_dump_json(exclude_defaults=True))


def test_every_category_has_a_model_that_users_can_name() -> None:
    assert set(TYPED) == set(Category) == {model.category for model in SAMPLES}
    assert {model.__name__ for model in SAMPLES} <= set(wardmesh.__all__)


@pytest.mark.property
@pytest.mark.parametrize("model", SAMPLES, ids=lambda model: model.__name__)
def test_a_typed_event_comes_back_as_it_went(model: type[TypedEvent]) -> None:
    @given(SAMPLES[model])
    def holds(event: TypedEvent) -> None:
        new = audit.check_own_fields(event.audit_event())
        again = typed(logged(new))
        assert again.model_copy(update={"id": None, "occurred_at": None}) == event

    holds()


def test_what_a_model_does_not_name_is_kept() -> None:
    event = logged(NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", targets=("t", "u"), details={"n": 1}))
    read = typed(event)
    assert isinstance(read, audit.ToolCall)
    assert (read.tool, read.targets, read.more) == ("t", ("u",), {"n": 1})


def test_an_event_of_another_form_is_said_to_be_one() -> None:
    with pytest.raises(NotTyped, match="ModelUsage"):
        typed(logged(NewAuditEvent(category=Category.MODEL_USAGE, action="model.call", details={"note": "x"})))


@pytest.mark.parametrize(
    ("category", "details"),
    [
        (Category.MODEL_USAGE, {"input_tokens": "many"}),
        (Category.MODEL_USAGE, {"input_tokens": -1}),
        (Category.MODEL_USAGE, {"cost_usd": 0.5}),
        (Category.SECRET_ACCESS, {"version": {}}),
        (Category.DATA_SYNC, {"items": 1.5}),
    ],
)
def test_an_own_field_of_another_type_is_refused(category: Category, details: dict[str, Any]) -> None:
    new = NewAuditEvent(category=category, action="a.b", details=details)
    with pytest.raises(ValidationError, match=f"details.{next(iter(details))} is not what"):
        audit.Emit(events=(new,))


def test_money_has_no_binary_fractions() -> None:
    for wrong in ("1e3", "-1", "0,5", "", "NaN"):
        with pytest.raises(ValidationError):
            audit.ModelUsage(model="m", input_tokens=1, output_tokens=1, cost_usd=wrong, source="s")
    usage = audit.ModelUsage(model="m", input_tokens=1, output_tokens=1, cost_usd="0.1", source="s")
    assert Decimal(usage.cost_usd) * 3 == Decimal("0.3")


def test_another_version_of_the_schema_is_refused_by_name() -> None:
    new = {"category": "tool_call", "action": "tool.call"}
    with pytest.raises(ValidationError) as caught:
        audit.Emit.model_validate({"version": 2, "events": [new]})
    assert [error["loc"] for error in caught.value.errors()] == [("version",)]


@pytest.mark.parametrize("contract", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("outcome", Outcome)
def test_the_entry_of_every_operation_fits_its_model(contract: AnyContract, outcome: Outcome) -> None:
    """Also of one that was refused before anything about it was known."""
    call = Call(
        contract, scope=OrgId.new(), principal=UserId.new(), request_id=RequestId.new(), ends_at=0.0, trace_id=None,
        outbox=None,
    )  # fmt: skip
    assert type(typed(call.audit_event(outcome, None))) is TYPED[contract.audit.category]


@pytest.mark.parametrize("principal", [AgentId.new(), UserId.new()], ids=["agent", "user"])
def test_the_agent_of_an_event_acts_or_is_acted_for(principal: Any) -> None:
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
    event = logged(new).model_copy(update={"actor": UserId.new(), "acting_for": principal})
    assert event.agent_id == (principal if isinstance(principal, AgentId) else None)
    assert isinstance(logged(new).agent_id, AgentId)
