"""Entries for other people's tools: every event that the log can hold is a valid OCSF event and a valid CloudEvent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from wardmesh.audit_ocsf import OCSF_VERSION, to_cloudevent, to_ocsf
from wardmesh.contracts.audit import AuditEvent, Entry, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, OrgId, RequestId, ServiceId, UserId, WorkspaceId

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)

details_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
known_names = st.sampled_from(["method", "duration_seconds", "input_tokens", "output_tokens", "source"])
entries = st.builds(
    lambda event, index: Entry(
        index=index, scope=WorkspaceId.new(), source="audit", event=event, received_at=NOW + timedelta(seconds=1)
    ),
    st.builds(
        AuditEvent,
        id=st.builds(EventId.new),
        occurred_at=st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001
        category=st.sampled_from(Category),
        action=st.sampled_from(["secret.get", "key.create", "session.refresh", "thing.frobnicate", "a.b.delete"]),
        outcome=st.sampled_from(Outcome),
        actor=st.sampled_from([AgentId.new(), UserId.new(), ServiceId.new(), UserId.nil()]),
        acting_for=st.none() | st.builds(UserId.new),
        targets=st.lists(st.text(min_size=1, max_size=20), max_size=3).map(tuple),
        reason=st.none() | st.text(min_size=1, max_size=20),
        request_id=st.none() | st.builds(RequestId.new),
        trace_id=st.none() | st.just("0" * 31 + "1"),
        source_address=st.none() | st.sampled_from(["192.0.2.7", "2001:db8::7", "unix", "fe80::1%eth0"]),
        user_agent=st.none() | st.just("curl/8"),
        details=st.dictionaries(known_names | st.text(max_size=8), details_values, max_size=4),
    ),
    st.integers(0, 2**40),
)


@cache
def schemas() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version=OCSF_VERSION))


@cache
def validator(class_uid: int, profiles: tuple[str, ...]) -> Draft202012Validator:
    name = schemas().lookup_class_name_from_uid(class_uid=class_uid)
    return Draft202012Validator(schemas().get_class_schema(class_name=name, profiles=list(profiles)))


def faults(event: Mapping[str, Any]) -> list[str]:
    checker = validator(event["class_uid"], tuple(event["metadata"]["profiles"]))
    return [f"{list(fault.absolute_path)}: {fault.message}" for fault in checker.iter_errors(event)]


def entry(category: Category, action: str, **more: Any) -> Entry:
    event = AuditEvent(
        id=EventId.new(), occurred_at=NOW, category=category, action=action, actor=AgentId.new(),
        **{"outcome": Outcome.SUCCESS, **more},
    )  # fmt: skip
    return Entry(index=7, scope=OrgId.new(), source="secrets", event=event, received_at=NOW)


@pytest.mark.property
@given(logged=entries)
def test_every_entry_is_a_valid_ocsf_event(logged: Entry) -> None:
    event = to_ocsf(logged)
    assert not faults(event)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert event["metadata"]["uid"] == logged.event.id
    assert event["unmapped"]["category"] == logged.event.category
    json.dumps(event, allow_nan=False)  # JSON has no other numbers


def test_the_schema_objects_to_what_is_wrong() -> None:
    event = to_ocsf(entry(Category.SECRET_ACCESS, "secret.get"))
    assert faults(event | {"surplus": 1})
    assert faults({name: value for name, value in event.items() if name != "src_endpoint"})


@pytest.mark.parametrize(
    ("category", "action", "class_uid", "activity"),
    [
        (Category.AUTHENTICATION, "session.create", 3002, 1),
        (Category.AUTHENTICATION, "session.refresh", 3002, 5),
        (Category.AUTHORIZATION, "gateway.request", 6003, 99),
        (Category.ADMINISTRATION, "key.revoke", 3004, 4),
        (Category.SECRET_ACCESS, "secret.get", 6005, 1),
        (Category.SECRET_ACCESS, "secret.list", 6005, 8),
        (Category.SECRET_ACCESS, "secret.put", 6005, 5),
        (Category.PRIVILEGED_ACCESS, "privilege.use", 3003, 1),
        (Category.CONFIGURATION, "webhook_source.create", 3004, 1),
        (Category.MODEL_USAGE, "model.use", 6003, 99),
    ],
)
def test_a_category_has_its_class(category: Category, action: str, class_uid: int, activity: int) -> None:
    event = to_ocsf(entry(category, action))
    assert (event["class_uid"], event["activity_id"]) == (class_uid, activity)


def test_a_refusal_is_a_denied_failure_with_its_reason() -> None:
    event = to_ocsf(entry(Category.SECRET_ACCESS, "secret.get", outcome=Outcome.REFUSED, reason="permission_denied"))
    assert (event["status_id"], event["action_id"], event["status_code"]) == (2, 2, "permission_denied")
    assert "security_control" in event["metadata"]["profiles"]


def test_a_models_use_says_which_model_and_how_many_tokens() -> None:
    details = {"input_tokens": 812, "output_tokens": 97, "source": "chat", "cost_usd": "0.0061"}
    event = to_ocsf(entry(Category.MODEL_USAGE, "model.use", targets=("acme/large-1",), details=details))
    assert event["ai_model"] == {"name": "acme/large-1", "ai_provider": "acme"}
    assert event["message_context"] == {"service": {"name": "chat"}, "prompt_tokens": 812, "completion_tokens": 97}
    assert event["unmapped"]["details"]["cost_usd"] == "0.0061"


def test_an_address_that_is_none_is_a_name() -> None:
    assert to_ocsf(entry(Category.BRIDGE, "message.send", source_address="192.0.2.7"))["src_endpoint"] == {
        "ip": "192.0.2.7"
    }
    assert to_ocsf(entry(Category.BRIDGE, "message.send", source_address="unix"))["src_endpoint"] == {"name": "unix"}


@pytest.mark.property
@given(logged=entries)
def test_every_entry_is_a_cloudevent(logged: Entry) -> None:
    document = to_cloudevent(logged)
    message = HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(document).encode())
    read = from_http_event(message)
    assert (read.get_id(), read.get_source()) == (logged.event.id, f"/{logged.scope}/audit")
    assert read.get_time() == logged.event.occurred_at
    assert read.get_extension("sequence") == str(logged.index)
    again = AuditEvent.model_validate_json(json.dumps(read.get_data()))
    assert (again.id, again.actor, again.targets) == (logged.event.id, logged.event.actor, logged.event.targets)
