"""The gateway's statement about an HTTP client: believed for one request of one principal, if auth signed it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey

from wardmesh.errors import TokenInvalid
from wardmesh.ids import AgentId, OrgId, RequestId, WorkspaceId
from wardmesh.server import tokens
from wardmesh.server.authenticator import TokenAuthenticator
from wardmesh.server.origin import TYPE, Origin

NOW = 1_800_000_000
# Fixed, because they are in the names of tests.
AGENT = AgentId.parse("agt_01h455vb4pex5vsknk084sn02q")
OTHER_AGENT = AgentId.parse("agt_01h455vb4pex5vsknk084sn02r")
REQUEST = RequestId.parse("req_01h455vb4pex5vsknk084sn02q")
KEY, FOREIGN = OKPKey.generate_key("Ed25519"), OKPKey.generate_key("Ed25519")
SAID = Origin(address="192.0.2.7", user_agent="curl/8")


def claims(**changes: Any) -> dict[str, Any]:
    return {
        "iss": "wardmesh", "aud": "wardmesh-origin", "sub": AGENT, "request": REQUEST, "exp": NOW + 60,
        "origin": SAID.model_dump(),
    } | changes  # fmt: skip


def sign(payload: dict[str, Any], key: OKPKey = KEY, **header: Any) -> str:
    protected = {"alg": "Ed25519", "kid": "one", "typ": TYPE} | header
    return jws.serialize_compact(protected, json.dumps(payload).encode(), key, algorithms=["Ed25519"])


def read(statement: str, *, principal: AgentId = AGENT, request: RequestId = REQUEST) -> Origin | None:
    authenticator = TokenAuthenticator({"one": KEY}, {}, issuer="wardmesh", is_ready=lambda: True, clock=lambda: NOW)
    return authenticator.origin(statement, principal, request)


def test_a_statement_of_ours_is_believed_for_its_request() -> None:
    assert read(sign(claims())) == SAID


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "elsewhere"}, {"aud": "wardmesh"}, {"sub": OTHER_AGENT}, {"request": RequestId.nil()}, {"exp": NOW},
        {"extra": 1}, {"origin": {"address": "x" * 65}}, {"origin": {"user_agent": "x" * 257}}, {"origin": None},
    ],
)  # fmt: skip
def test_any_other_claim_makes_it_worth_nothing(changes: dict[str, Any]) -> None:
    assert read(sign(claims(**changes))) is None


@pytest.mark.parametrize("header", [{"typ": "at+jwt"}, {"kid": "two"}, {"typ": None}])
def test_any_other_header_makes_it_worth_nothing(header: dict[str, Any]) -> None:
    kept = {name: value for name, value in header.items() if value is not None}
    statement = sign(claims(), **kept)
    if "typ" in header and header["typ"] is None:
        payload = json.dumps(claims()).encode()
        statement = jws.serialize_compact({"alg": "Ed25519", "kid": "one"}, payload, KEY, algorithms=["Ed25519"])
    assert read(statement) is None


def test_a_forged_moved_or_replayed_one_is_worth_nothing() -> None:
    assert read(sign(claims(), FOREIGN)) is None
    assert read(sign(claims()), principal=OTHER_AGENT) is None
    assert read(sign(claims()), request=RequestId.new()) is None
    good = sign(claims())
    for place in range(0, len(good), 7):
        changed = good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]
        assert read(changed) in (None, SAID)  # the last character of base64 has bits that say nothing
    for rubbish in ("", ".", "..", "a.b.c", "é", "x" * 100_000, "e30.e30.e30"):
        assert read(rubbish) is None


def test_neither_a_token_nor_a_statement_is_taken_for_the_other() -> None:
    access = {
        "iss": "wardmesh", "aud": "wardmesh", "sub": AGENT, "org": OrgId.new(), "ws": WorkspaceId.new(),
        "level": "member", "iat": NOW, "exp": NOW + 60, "jti": "tok_1", "sid": "key_1",
    }  # fmt: skip
    assert read(sign(access, typ="at+jwt")) is None
    with pytest.raises(TokenInvalid):
        tokens.verify(sign(claims()), {"one": KEY}, issuer="wardmesh", now=NOW)
