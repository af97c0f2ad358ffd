"""Ids: what is one, and what must never pass for one."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from wardmesh.ids import AgentId, EventId, InvalidIdError, OrgId, UserId, WorkspaceId, parse_principal, parse_scope
from wardmesh.violations import violations_of

HOSTILE = [
    "*", ">", "ws_*", "ws_>", "ws_01h455vb4pex5vsknk084sn02q.*", "ws_01h455vb4pex5vsknk084sn02q ", "ws_", "ws",
    "WS_01h455vb4pex5vsknk084sn02q", "ws_01H455VB4PEX5VSKNK084SN02Q", "ws_81h455vb4pex5vsknk084sn02q",
    "ws_01h455vb4pex5vsknk084sn02", "ws_01h455vb4pex5vsknk084sn02qq", "ws-01h455vb4pex5vsknk084sn02q",
    "ws_01h455vb4pex5vsknk084sn02q\n", "ws_01h455vb4pex5vsknk084sn02\u0661", "_01h455vb4pex5vsknk084sn02q", "",
    "ws_ws_01h455vb4pex5vsknk084sn02q", "ws_01h455vb4pex5vsknk084sn0il",
]  # fmt: skip


@pytest.mark.parametrize("text", [*HOSTILE, None, 7, b"ws_01h455vb4pex5vsknk084sn02q", ["ws_"]])
def test_what_is_no_id_is_refused_wherever_an_id_belongs(text: object) -> None:
    for parse in (WorkspaceId.parse, parse_scope, parse_principal):
        with pytest.raises(InvalidIdError):
            parse(text)


@pytest.mark.parametrize("text", [*HOSTILE, None, 7, ["ws_"]])
def test_a_field_refuses_what_is_no_id_and_says_what_is_one_without_repeating_it(text: object) -> None:
    field = TypeAdapter(WorkspaceId)
    for validate, value in ((field.validate_python, text), (field.validate_json, json.dumps(text))):
        with pytest.raises(ValidationError) as caught:
            validate(value)
        (said,) = violations_of(caught.value)
        assert said.message == "expected an id like ws_01h455vb4pex5vsknk084sn02q"


def test_a_field_makes_an_id_of_a_text() -> None:
    for kind in (WorkspaceId, EventId):
        text = str(kind.new())
        for said in (TypeAdapter(kind).validate_python(text), TypeAdapter(kind).validate_json(f'"{text}"')):
            assert said == text
            assert type(said) is kind


def test_an_id_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidIdError, match="ws_"):
        WorkspaceId.parse(OrgId.new())
    with pytest.raises(InvalidIdError):
        parse_scope(UserId.new())
    with pytest.raises(InvalidIdError):
        parse_principal(WorkspaceId.new())


def test_the_error_shows_only_the_beginning_of_what_came() -> None:
    with pytest.raises(InvalidIdError) as caught:
        WorkspaceId.parse("a-password-that-somebody-put-here-by-mistake")
    assert "by-mistake" not in str(caught.value)


def test_later_ids_sort_later() -> None:
    ids = [AgentId.new() for _ in range(100)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 100


@pytest.mark.property
@given(st.uuids())
def test_an_id_carries_its_uuid(uuid: UUID) -> None:
    identifier = WorkspaceId.from_uuid(uuid)
    assert identifier.uuid == uuid
    assert WorkspaceId.parse(str(identifier)) == identifier


@pytest.mark.property
@given(st.text())
def test_no_text_with_a_subject_separator_is_an_id(text: str) -> None:
    for spoilt in (f"{text}.", f"{text}*", f"{text}>", f" {text}"):
        with pytest.raises(InvalidIdError):
            parse_scope(spoilt)
