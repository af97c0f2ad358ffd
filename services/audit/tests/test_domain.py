"""Leaves and envelopes: one spelling, nothing taken from the body that the subject says, nothing unspeakable let in."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import NOW, candidates, envelope, event

from wardmesh.contracts.audit import (
    MAX_AHEAD,
    MAX_LATENESS,
    SEALING_MARGIN,
    AuditEvent,
    Filter,
    NewAuditEvent,
    is_too_deep,
)
from wardmesh.contracts.operation import Category
from wardmesh.crypto.merkle import leaf_hash
from wardmesh.errors import InvalidRequest
from wardmesh.ids import AgentId, EventId, OrgId, RequestId, UserId, WorkspaceId
from wardmesh.subjects import AuditSubject
from wardmesh_audit import domain
from wardmesh_audit.domain import Stored, decode_envelope, decode_leaf
from wardmesh_audit.errors import LogDamaged, MalformedEnvelope
from wardmesh_audit.searching import matches

SCOPE = WorkspaceId.parse("ws_01h455vb4pex5vsknk084sn02q")
SUBJECT = AuditSubject(SCOPE, "secrets").format()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
events = st.builds(
    event,
    targets=st.lists(st.text(min_size=1, max_size=40), max_size=4).map(tuple),
    reason=st.none() | st.text(min_size=1, max_size=40),
    details=st.dictionaries(st.text(), json_values, max_size=4).filter(lambda details: not is_too_deep(details)),
    category=st.sampled_from(Category),
)


@given(happened=events)
def test_a_leaf_says_what_happened_in_one_spelling(happened: AuditEvent) -> None:
    (candidate,) = decode_envelope(SUBJECT, envelope(happened), NOW, random=os.urandom).candidates
    entry = decode_leaf(Stored(7, candidate.leaf))
    assert (entry.index, entry.scope, entry.source, entry.received_at) == (7, SCOPE, "secrets", NOW)
    assert entry.event == happened
    assert candidate.leaf_hash == leaf_hash(candidate.leaf)
    assert b"\n" not in candidate.leaf  # or it would be no line of an export
    assert (
        domain.encode_leaf(SCOPE, "secrets", NOW.astimezone(timezone(timedelta(hours=5))), happened) == candidate.leaf
    )


def test_a_leaf_spells_every_field_as_the_event_itself_does() -> None:
    full = event(
        acting_for=AgentId.new(),
        reason="because",
        request_id=RequestId.new(),
        trace_id="0" * 32,
        source_address="",
        user_agent='a \u00e9 " agent',
        details={"b": [1, {"d": None, "c": 0.5}], "a": "said"},
        occurred_at=datetime(2026, 11, 22, 12, 0, 0, 120, tzinfo=timezone(timedelta(hours=5))),
    )
    assert set(full.model_fields_set) == set(AuditEvent.model_fields)
    spelled = json.dumps(full.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert f'{{"event":{spelled},"received_at":'.encode() in domain.encode_leaf(SCOPE, "secrets", NOW, full)


def test_the_spelling_does_not_change() -> None:
    at = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    happened = event(id="evt_01h455vb4pex5vsknk084sn02q", actor="agt_01h455vb4pex5vsknk084sn02q", occurred_at=at)
    scope = WorkspaceId.parse("ws_01h455vb4pex5vsknk084sn02q")
    assert domain.encode_leaf(scope, "secrets", at, happened).decode() == (
        '{"event":{"action":"secret.get","actor":"agt_01h455vb4pex5vsknk084sn02q","category":"secret_access",'
        '"id":"evt_01h455vb4pex5vsknk084sn02q","occurred_at":"2026-11-22T12:00:00Z","outcome":"success",'
        '"targets":["openai/api-key"]},"received_at":"2026-11-22T12:00:00.000000+00:00",'
        '"scope":"ws_01h455vb4pex5vsknk084sn02q","source":"secrets","version":1}'
    )


def test_of_two_events_with_one_id_the_first_counts() -> None:
    first = event()
    again, between = event(id=first.id, action="secret.put"), event()
    assert [each.event for each in candidates(SCOPE, first, between, again)] == [first, between]


@pytest.mark.parametrize(
    "subject",
    ["audit.*.secrets", "audit.>", "audit.ws_1.secrets", "audit.secrets", "audit..x",
     "audit.usr_01h455vb4pex5vsknk084sn02q.secrets",
     f"audit.{SCOPE}.secrets.more", f"audit.{SCOPE}.*", f"rpc.{SCOPE}.secrets"],
)  # fmt: skip
def test_a_forged_subject_is_nobodys(subject: str) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decode_envelope(subject, envelope(event()), NOW, random=os.urandom)
    assert caught.value.reason == "forged_subject"
    assert domain.log_of(caught.value) == OrgId.nil()


def spoilt(**changes: object) -> bytes:
    document = json.loads(envelope(event()))
    document["events"][0] |= changes
    return json.dumps(document).encode()


def nested(levels: int) -> dict[str, object]:
    """Return details with that many containers in each other."""
    inner: object = 1
    for level in range(levels):
        inner = [inner] if level % 2 else {"x": inner}
    return {"x": inner}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed_envelope"),
        (b"{", "malformed_envelope"),
        (b"\xff\xfe", "malformed_envelope"),
        (b"[" * 100_000, "malformed_envelope"),
        (b'{"version":2,"events":[]}', "unknown_version"),
        (b'{"version":1,"events":[]}', "malformed_envelope"),
        (spoilt(actor="*"), "malformed_envelope"),
        (spoilt(scope=str(WorkspaceId.new())), "malformed_envelope"),
        (spoilt(category="gossip"), "unknown_category"),
        (spoilt(category="gossip", actor="*"), "malformed_envelope"),
        (spoilt(occurred_at="9999-12-31T23:59:59Z"), "clock_far_off"),
        (spoilt(occurred_at="0001-01-01T00:00:00Z"), "clock_far_off"),
        (spoilt(details=nested(9)), "details_too_deep"),
        (spoilt(details={"x": "\ud800"}), "malformed_envelope"),
        (spoilt(details={"x": float("nan")}), "unspeakable_event"),
        (spoilt(details={"x": float("inf")}), "unspeakable_event"),
        (spoilt(details={"x": "y" * 70_000}), "event_too_large"),
    ],
)
def test_what_cannot_be_sealed_is_refused_whole(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decode_envelope(SUBJECT, data, NOW, random=os.urandom)
    assert caught.value.reason == reason
    assert domain.log_of(caught.value) == SCOPE


@pytest.mark.parametrize(
    "late",
    [timedelta(0), -MAX_AHEAD - SEALING_MARGIN, MAX_LATENESS + SEALING_MARGIN],
)
def test_what_the_door_let_in_is_not_dead_for_a_clock_that_differs(late: timedelta) -> None:
    happened = event(occurred_at=NOW - late)
    assert decode_envelope(SUBJECT, envelope(happened), NOW, random=os.urandom).candidates
    assert is_too_deep(nested(8)) is False


def test_the_door_says_which_event_has_a_clock_far_off() -> None:
    fine = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call")
    domain.check_times([fine.model_copy(update={"occurred_at": NOW + off}) for off in (MAX_AHEAD, -MAX_LATENESS)], NOW)
    odd = fine.model_copy(update={"occurred_at": NOW + 2 * MAX_AHEAD})
    with pytest.raises(InvalidRequest) as caught:
        domain.check_times((fine, odd), NOW)
    (violation,) = caught.value.violations
    assert violation.pointer == "/events/1/occurred_at"
    assert "future" in violation.message


@given(data=st.binary(max_size=200) | st.text().map(str.encode))
def test_rubbish_is_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        decode_envelope(SUBJECT, data, NOW, random=os.urandom)


def test_what_is_told_of_a_rejected_message_is_told_once() -> None:
    problem = MalformedEnvelope("malformed_envelope", SCOPE)
    first = domain.rejection(problem, SUBJECT, b"{", NOW, 7)
    assert domain.rejection(problem, SUBJECT, b"{", NOW, 7) == first
    assert domain.rejection(problem, SUBJECT, b"{", NOW, 8).id != first.id
    assert domain.rejection(problem, SUBJECT, b"}", NOW, 7).id != first.id
    assert "{" not in json.dumps(first.details["sha256"])
    assert decode_envelope(AuditSubject(SCOPE, "audit").format(), envelope(first), NOW, random=os.urandom).candidates


def test_a_stored_leaf_that_says_nothing_is_damage() -> None:
    with pytest.raises(LogDamaged, match="Entry 3"):
        decode_leaf(Stored(3, b'{"version":1}'))


def test_who_acted_is_what_the_mesh_knows() -> None:
    actor, behind, request = AgentId.new(), UserId.new(), RequestId.new()
    chosen = EventId.new()
    new = NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", id=chosen, details={"tool": "search"})
    complete = domain.complete(new, actor=actor, acting_for=behind, request_id=request, trace_id="0" * 32, now=NOW)
    assert (complete.id, complete.actor, complete.acting_for, complete.request_id) == (chosen, actor, behind, request)
    assert complete.occurred_at == NOW
    assert complete.details == {"tool": "search"}


def test_what_an_emitter_may_send_always_fits_a_leaf() -> None:
    worst = NewAuditEvent(
        category=Category.TOOL_CALL,
        action="a" * 60 + "." + "b" * 60,
        targets=("\x02" * 256,) * 16,
        reason="\x01" * 256,
        details={"x": "\x02" * 1360},
    )
    whole = domain.complete(
        worst, actor=AgentId.new(), acting_for=UserId.new(), request_id=RequestId.new(), trace_id="0" * 32, now=NOW
    )
    assert candidates(SCOPE, whole)


def test_details_are_limited_before_they_are_sent() -> None:
    with pytest.raises(ValueError, match="details are at most"):
        NewAuditEvent(category=Category.TOOL_CALL, action="tool.call", details={"x": "y" * 8192})


def test_a_filter_is_an_and() -> None:
    entry = decode_leaf(Stored(0, candidates(SCOPE, event(targets=("a", "b")))[0].leaf))
    assert matches(Filter(), entry)
    assert matches(Filter(target="b", action="secret.get"), entry)
    assert not matches(Filter(target="b", action="secret.put"), entry)
