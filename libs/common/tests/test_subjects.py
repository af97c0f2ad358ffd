"""Subjects: parse and format are inverse, and nothing hostile gets into one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.ids import AgentId, OrgId, ServiceId, UserId, WorkspaceId
from wardmesh.subjects import (
    SERVICES,
    AuditSubject,
    BridgeSubject,
    DeadSubject,
    EventSubject,
    InboxSubject,
    InvalidSubjectError,
    RpcSubject,
    SealedSubject,
    is_reply_of,
    refusal_inbox,
    reply_inbox,
)

words = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,15}", fullmatch=True)
types = st.lists(words, min_size=1, max_size=8).map(".".join)
workspaces = st.uuids().map(WorkspaceId.from_uuid)
scopes = workspaces | st.uuids().map(OrgId.from_uuid)
principals = st.sampled_from([UserId, AgentId, ServiceId]).flatmap(lambda kind: st.uuids().map(kind.from_uuid))
subjects: st.SearchStrategy[Any] = st.one_of(
    st.builds(RpcSubject, st.sampled_from(SERVICES), words, scopes, principals),
    st.builds(EventSubject, workspaces, words, types),
    st.builds(AuditSubject, scopes, words),
    st.builds(SealedSubject, scopes),
    st.builds(DeadSubject, scopes),
    st.builds(BridgeSubject, workspaces, workspaces, types),
    st.builds(InboxSubject, workspaces, workspaces, types),
)
FORMS: tuple[Any, ...] = (
    RpcSubject,
    EventSubject,
    AuditSubject,
    SealedSubject,
    DeadSubject,
    BridgeSubject,
    InboxSubject,
)


@pytest.mark.property
@given(subjects)
def test_parse_is_the_inverse_of_format(subject: Any) -> None:
    text = subject.format()
    assert type(subject).parse(text) == subject
    assert not set(text) & set("*> \r\n\t")


@pytest.mark.property
@given(subjects, st.data())
def test_a_hostile_token_in_any_position_is_refused(subject: Any, data: st.DataObject) -> None:
    tokens = subject.format().split(".")
    position = data.draw(st.integers(0, len(tokens) - 1))
    tokens[position] = data.draw(st.sampled_from(["*", ">", "", " ", "ws_*", "é", "A", "$JS", "a b", "\r\n", "x" * 65]))
    with pytest.raises(InvalidSubjectError):
        type(subject).parse(".".join(tokens))


@pytest.mark.property
@given(st.text(max_size=200))
def test_no_text_breaks_a_parser(text: str) -> None:
    for form in FORMS:
        try:
            parsed = form.parse(text)
        except InvalidSubjectError:
            continue
        assert parsed.format() == text


@pytest.mark.parametrize("operation", ["*", "put.x", "", "PUT", ">"])
def test_a_subject_is_not_made_of_hostile_words(operation: str) -> None:
    with pytest.raises(InvalidSubjectError):
        RpcSubject("secrets", operation, WorkspaceId.new(), AgentId.new()).format()


def test_a_type_has_eight_words_at_the_most() -> None:
    with pytest.raises(InvalidSubjectError, match="8"):
        EventSubject(WorkspaceId.new(), "app", ".".join("abcdefghi")).format()


def test_a_reply_lies_inside_the_callers_inbox_and_nowhere_else() -> None:
    mine, other = AgentId.new(), AgentId.new()
    assert is_reply_of(mine, f"{reply_inbox(mine)}.abc.1")
    assert is_reply_of(mine, refusal_inbox(mine))
    for reply in (
        "", "_INBOX", reply_inbox(mine),
        f"{reply_inbox(mine)}.", f"{reply_inbox(other)}.abc", f"{reply_inbox(mine)}x.abc",
        f"audit.{WorkspaceId.new()}.auth",
        "$JS.API.STREAM.DELETE.AUDIT", f"{reply_inbox(mine)}.>", f"{reply_inbox(mine)}.*",
        f"_inbox.{mine}.a", "$SYS.REQ.SERVER.PING",
    ):  # fmt: skip
        assert not is_reply_of(mine, reply), reply
