"""Errors: the same on both sides of a wire, and never with what was sent in them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wardmesh.contracts.auth import CreateUser, ExchangeKey
from wardmesh.errors import BY_CODE, InternalError, RequestError, WardmeshError, from_problem, violations_of


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_an_error_survives_the_wire(kind: type[WardmeshError]) -> None:
    sent = kind(request_id="req_1", retry_after_seconds=1.5)
    body = sent.to_problem().model_dump_json().encode()
    received = from_problem(body)
    assert type(received) is kind
    assert (received.detail, received.request_id, received.retry_after_seconds) == (sent.detail, "req_1", 1.5)


def test_every_code_is_one_errors_own() -> None:
    def tree(root: type[WardmeshError]) -> list[type[WardmeshError]]:
        return [
            root,
            *(item for child in root.__subclasses__() if child.__module__ == root.__module__ for item in tree(child)),
        ]

    kinds = tree(WardmeshError)
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(400 <= kind.status < 600 and kind.advice.endswith((".", "…")) for kind in kinds)


def test_an_unknown_code_becomes_the_error_of_its_status() -> None:
    body = b'{"type":"x","title":"x","status":418,"detail":"short and stout","code":"teapot"}'
    assert type(from_problem(body)) is RequestError
    assert type(from_problem(b"<html>")) is InternalError


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_unknown_failure_is_never_taken_to_say_that_nothing_was_carried_out(status: int) -> None:
    body = f'{{"type":"x","title":"x","status":{status},"detail":"something new","code":"of_next_year"}}'.encode()
    assert from_problem(body).executed


def test_violations_say_where_and_never_what() -> None:
    secret = "hunter2-hunter2-hunter2"
    with pytest.raises(ValidationError) as caught:
        CreateUser.model_validate({"email": secret, "password": [secret], "level": secret, secret[:3]: 1})
    found = violations_of(caught.value)
    assert {"/email", "/password", "/level"} <= {violation.pointer for violation in found}
    assert secret not in repr(found)


def test_a_secret_is_not_in_a_requests_repr() -> None:
    assert "wmk_secret" not in repr(ExchangeKey(api_key="wmk_secret"))
