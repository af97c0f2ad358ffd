"""What of an event identifies a person: found, taken away, and put back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.contracts.audit import (
    NOBODY,
    PERSONAL_DETAILS,
    AuditEvent,
    Opening,
    Outcome,
    conceal,
    personal_values,
    reveal,
)
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId, ServiceId, UserId

ADA, BOB = UserId.new(), UserId.new()
SALT = bytes(32)
ids = st.sampled_from([ADA, BOB, NOBODY, AgentId.new(), ServiceId.new(), ServiceId.nil()])
names = st.sampled_from(["email", "login", "a/b", "~1", "approved_by", "n", ""]) | st.text(max_size=4)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
details = st.dictionaries(names, ids.map(str) | texts | st.integers() | st.lists(texts, max_size=2), max_size=5)


def event(**changes: Any) -> AuditEvent:
    fields = {
        "id": EventId.new(), "occurred_at": datetime.now(UTC), "category": Category.ADMINISTRATION, "action": "a.b",
        "outcome": Outcome.SUCCESS, "actor": ADA,
    }  # fmt: skip
    return AuditEvent.model_validate(fields | changes)


@given(
    actor=ids,
    acting_for=st.none() | ids,
    targets=st.lists(ids.map(str) | texts.filter(bool), max_size=4),
    address=st.none() | texts,
    details=details,
)
def test_what_is_taken_away_is_what_is_put_back(
    actor: Any, acting_for: Any, targets: list[str], address: str | None, details: dict[str, Any]
) -> None:
    said = event(actor=actor, acting_for=acting_for, targets=targets, source_address=address, details=details)
    values = personal_values(said)
    bare = said.model_copy(update=conceal(said, values))

    assert len({value.path for value in values}) == len(values)
    text = bare.model_dump_json()
    assert ADA not in _ids_in(bare)
    assert BOB not in _ids_in(bare)
    assert AuditEvent.model_validate_json(text) == bare
    openings = [Opening(path=value.path, salt=SALT, value=value.value) for value in values]
    assert reveal(bare, openings) == said
    assert said.targets == tuple(targets), "an event is not changed"


def _ids_in(said: AuditEvent) -> set[str]:
    top = [value for value in said.details.values() if isinstance(value, str)]
    return {str(said.actor), str(said.acting_for), *said.targets, *top}


def test_where_people_are_is_theirs_and_nobody_elses() -> None:
    where = {"source_address": "192.0.2.1", "user_agent": "curl"}
    agent = AgentId.new()
    assert {each.path for each in personal_values(event(**where))} == {"/actor", "/source_address", "/user_agent"}
    assert {(each.path, each.subject) for each in personal_values(event(actor=agent, acting_for=ADA, **where))} == {
        ("/acting_for", ADA), ("/source_address", ADA), ("/user_agent", ADA)
    }  # fmt: skip
    for somebody in (agent, ServiceId.new(), NOBODY):
        assert personal_values(event(actor=somebody, **where)) == []


def test_details_that_name_a_person_are_of_whom_the_event_is_about() -> None:
    said = dict.fromkeys(PERSONAL_DETAILS, "x") | {"note": "x", "deep": {"email": "x"}}
    paths = {f"/details/{name}" for name in PERSONAL_DETAILS}
    agent = AgentId.new()
    assert {each.path for each in personal_values(event(details=said))} == {"/actor", *paths}
    about_bob = personal_values(event(actor=agent, targets=("a", BOB), details=said))
    assert {(each.path, each.subject) for each in about_bob} == {("/targets/1", BOB), *((path, BOB) for path in paths)}
    assert personal_values(event(actor=agent, details=said)) == []


@pytest.mark.parametrize("path", ["/outcome", "/targets/3", "/targets/x", "/id", "//", "/detail/email"])
def test_nothing_else_can_be_put_back(path: str) -> None:
    with pytest.raises(ValueError, match="an opening of"):
        reveal(event(), [Opening(path=path, salt=SALT, value="x")])


@pytest.mark.parametrize("value", ["x", str(AgentId.new()), ""], ids=["no id", "an agent", "nothing"])
def test_an_actor_that_is_put_back_is_a_user(value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        reveal(event(actor=NOBODY), [Opening(path="/actor", salt=SALT, value=value)])
