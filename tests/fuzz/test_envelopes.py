"""Anything in stream AUDIT: it becomes leaves that read back, or a dead letter with a reason, and nothing else."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.audit_openings import check_openings, opened
from wardmesh.contracts.audit import Opening, is_too_deep
from wardmesh.crypto.tiles import MAX_ENTRY_BYTES
from wardmesh.ids import AgentId, EventId, UserId, WorkspaceId
from wardmesh_audit import domain
from wardmesh_audit.domain import Stored, decode_envelope, decode_leaf
from wardmesh_audit.errors import MalformedEnvelope

NOW = datetime.now(UTC)
SUBJECT = f"audit.{WorkspaceId.new()}.secrets"
REASONS = {
    "malformed_envelope", "unknown_version", "unknown_category", "unspeakable_event", "event_too_large",
    "details_too_deep", "clock_far_off",
}  # fmt: skip

leaves = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["\x00", "\ud800", "a" * 70_000, "*", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", 10**400])
    | st.sampled_from([str(UserId.new()), str(UserId.nil()), "usr_", "usr_*"])
)  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
deep = st.integers(1, 300).map(lambda levels: json.loads("[" * levels + "]" * levels))
names = st.sampled_from([
    "id", "occurred_at", "category", "action", "outcome", "actor", "acting_for", "targets", "reason", "request_id",
    "trace_id", "source_address", "user_agent", "details", "version", "surplus",
])  # fmt: skip


def fine() -> dict[str, Any]:
    return {
        "id": str(EventId.new()), "occurred_at": NOW.isoformat(), "category": "tool_call", "action": "tool.call",
        "outcome": "success", "actor": str(AgentId.new()), "targets": ["search"], "details": {"n": 1},
    }  # fmt: skip


def judged(data: bytes) -> None:
    problem: MalformedEnvelope | None = None
    try:
        envelope = decode_envelope(SUBJECT, data, NOW, random=os.urandom)
    except MalformedEnvelope as error:
        problem = error
    if problem is not None:
        assert problem.reason in REASONS
        told = domain.rejection(problem, SUBJECT, data, NOW, 1)
        alone = json.dumps({"events": [told.model_dump(mode="json", exclude_defaults=True)]}).encode()
        assert decode_envelope(SUBJECT, alone, NOW, random=os.urandom).candidates, "what is told of it can be sealed"
        return
    for place, candidate in enumerate(envelope.candidates):
        assert len(candidate.leaf) <= MAX_ENTRY_BYTES
        assert b"\n" not in candidate.leaf
        openings = [Opening(path=said.path, salt=salt, value=said.value) for said, salt in candidate.committed]
        assert check_openings(candidate.leaf, openings) == 0
        assert opened(decode_leaf(Stored(place, candidate.leaf)), openings).event == candidate.event
        assert not is_too_deep(candidate.event.details)


@pytest.mark.property
@given(name=names, value=values | deep, inside=st.booleans())
def test_an_event_with_anything_in_one_field(name: str, value: Any, inside: bool) -> None:
    event = fine()
    if inside:
        event["details"] = {name: value}
    else:
        event[name] = value
    judged(json.dumps({"version": 1, "events": [fine(), event]}).encode())
    judged(json.dumps({"version": 1, "events": [event]}, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@pytest.mark.property
@given(document=values)
def test_an_envelope_of_any_form(document: Any) -> None:
    judged(json.dumps(document).encode())
    judged(json.dumps({"version": document, "events": [fine()]}).encode())
    judged(json.dumps({"events": document}).encode())


@pytest.mark.property
@given(data=st.data())
def test_an_envelope_with_any_byte_changed_cut_or_added(data: st.DataObject) -> None:
    content = bytearray(json.dumps({"version": 1, "events": [fine()]}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    judged(bytes(content))
