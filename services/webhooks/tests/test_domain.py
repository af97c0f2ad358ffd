"""The rules: what a verified body says, and what a pattern may reach."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.contracts.webhooks import Fetch, Scheme
from wardmesh.errors import InvalidRequest, MalformedJson
from wardmesh.ids import WorkspaceId
from wardmesh.subjects import EventSubject, InvalidSubjectError, dotted
from wardmesh_webhooks.domain import (
    MAX_TYPE_CHARACTERS,
    RECEIPT_AGE,
    Received,
    check_source_name,
    content_type,
    filter_subject,
    message_id,
    read,
    safe_type,
)
from wardmesh_webhooks.scheme import Verified

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SIGNED_AT = datetime(2026, 11, 22, 11, 59, tzinfo=UTC)
WORKSPACE = WorkspaceId.new()


def stripe(document: object) -> Received:
    return read(Scheme.STRIPE, Verified(None, SIGNED_AT), [], json.dumps(document).encode(), "application/json", NOW)


def github(body: bytes, *headers: tuple[str, str]) -> Received:
    return read(Scheme.GITHUB, Verified(None, None), headers, body, "application/json", NOW)


def test_stripes_event_is_told_apart_by_its_id_inside_the_body() -> None:
    event = stripe({"id": "evt_1", "type": "invoice.paid", "created": 1})
    assert (event.event_id, event.type, event.time) == ("evt_1", "invoice.paid", SIGNED_AT)
    assert event.key == stripe({"id": "evt_1", "type": "invoice.paid", "created": 2}).key
    assert event.key != stripe({"id": "evt_2", "type": "invoice.paid", "created": 1}).key
    assert event.forget_at == NOW + RECEIPT_AGE


def test_githubs_event_is_told_apart_by_its_body_whatever_the_unsigned_headers_say() -> None:
    """The attack: a captured body with another delivery's id and another event's name."""
    body = b'{"action":"opened"}'
    first = github(body, ("X-GitHub-Event", "pull_request"), ("x-github-delivery", "1"))
    again = github(body, ("X-GitHub-Event", "push"), ("x-github-delivery", "2"))
    assert first.type == "pull_request.opened"
    assert first.event_id == "sha256:" + hashlib.sha256(body).hexdigest() == again.event_id
    assert first.key == again.key
    assert first.forget_at is None, "its signature is valid for ever"


def test_a_standard_event_is_told_apart_by_its_message_id() -> None:
    def standard(message: str) -> Received:
        return read(Scheme.STANDARD, Verified(message, SIGNED_AT), [], b'{"id":"x"}', "application/json", NOW)

    assert standard("msg_1").event_id == "msg_1"
    assert standard("msg_1").key != standard("msg_2").key
    assert standard("msg_1").type == "untyped"


@pytest.mark.parametrize("event_id", [None, 7, "", "with space", "x" * 129, "ü"])
def test_without_a_usable_id_the_body_is_its_own(event_id: object) -> None:
    event = stripe({"id": event_id, "type": "x"})
    assert event.event_id.startswith("sha256:")
    assert event.key != stripe({"id": event_id, "type": "y"}).key


def test_an_id_is_never_mistaken_for_a_bodys_hash() -> None:
    document = {"id": "", "type": "x"}
    hashed = stripe(document)
    assert stripe({"id": hashed.event_id}).key != hashed.key


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        github(body)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["invoice.paid"], "invoice.paid"),
        (["pull_request", "review_requested"], "pull_request.review_requested"),
        (["Order Created"], "order_created"),
        (["a.*.>"], "a"),
        (["..a...b.."], "a.b"),
        (["-_-", None, 7, {}], "untyped"),
        (["a.b.c.d.e.f.g.h.i.j"], "a.b.c.d.e.f.g.h"),
        (["x" * 500], "x" * 64),
    ],
)
def test_a_type_becomes_words_of_a_subject(names: list[object], expected: str) -> None:
    assert safe_type(*names) == expected


@given(st.lists(st.one_of(st.text(max_size=600), st.none(), st.integers()), max_size=4))
def test_whatever_a_stranger_calls_it_it_is_a_type(names: list[object]) -> None:
    made = safe_type(*names)
    assert dotted("type", made) == made
    assert len(made) <= MAX_TYPE_CHARACTERS
    subject = EventSubject(WORKSPACE, "stripe", made)
    assert EventSubject.parse(subject.format()) == subject


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/cloudevents+json", "application/cloudevents+json"),
        ("application/x-www-form-urlencoded", None),
        ("text/plain", None),
        ("application/json\r\nx: y", None),
        ("", None),
        (None, None),
    ],
)
def test_only_json_is_taken(header: str | None, expected: str | None) -> None:
    assert content_type(header) == expected


def matches(pattern: str, subject: str) -> bool:
    """NATS' own rule for subjects, written down once more."""
    want, have = pattern.split("."), subject.split(".")
    for position, token in enumerate(want):
        if token == ">":
            return len(have) > position
        if position >= len(have) or token not in ("*", have[position]):
            return False
    return len(want) == len(have)


_tokens = st.one_of(
    st.sampled_from(["*", "stripe", "invoice", "app"]), st.from_regex(r"[a-z0-9][a-z0-9_-]{0,5}", fullmatch=True)
)
_patterns = st.one_of(
    st.just(">"),
    st.builds(
        lambda words, tail: ".".join(words) + tail,
        st.lists(_tokens, min_size=1, max_size=9),
        st.sampled_from(["", ".>"]),
    ),
    st.text(max_size=30),
    st.text(alphabet="*>.ab \r\n", max_size=12),
)


@given(_patterns, st.sampled_from(["stripe.invoice.paid", "app.order.shipped", "a.b"]))
def test_no_pattern_leaves_the_workspace(pattern: str, rest: str) -> None:
    try:
        subjects = filter_subject(WORKSPACE, pattern)
    except (InvalidRequest, InvalidSubjectError):
        return
    assert subjects.startswith(f"evt.{WORKSPACE}.")
    assert not any(character.isspace() for character in subjects)
    other = WorkspaceId.new()
    assert not matches(subjects, f"evt.{other}.{rest}")


@given(_patterns)
def test_what_the_contract_takes_has_a_filter_or_advice(pattern: str) -> None:
    try:
        request = Fetch(pattern=pattern, group="g")
    except ValueError:
        return
    if "." in pattern or pattern == ">":
        assert filter_subject(WORKSPACE, request.pattern).endswith(pattern)
    else:
        with pytest.raises(InvalidRequest, match="stripe"):
            filter_subject(WORKSPACE, request.pattern)


def test_the_backends_source_is_nobody_elses() -> None:
    with pytest.raises(InvalidRequest, match="app"):
        check_source_name("app")
    check_source_name("stripe")


def test_a_repetition_counts_within_its_workspace_and_source() -> None:
    other = WorkspaceId.new()
    assert len({message_id(WORKSPACE, "app", "1"), message_id(other, "app", "1"), message_id(WORKSPACE, "x", "1")}) == 3
