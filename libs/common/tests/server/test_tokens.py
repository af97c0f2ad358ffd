"""Access tokens: what is accepted, and everything that is not."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey

from wardmesh.contracts.operation import Level
from wardmesh.errors import TokenExpired, TokenInvalid, TokenRevoked
from wardmesh.ids import AgentId, OrgId, WorkspaceId
from wardmesh.server.tokens import ALGORITHM, check_not_revoked, import_key, verify

NOW = 1_800_000_000
# Fixed, because they are in the names of tests.
AGENT = AgentId.parse("agt_01h455vb4pex5vsknk084sn02q")
ORG = OrgId.parse("org_01h455vb4pex5vsknk084sn02q")
WORKSPACE = WorkspaceId.parse("ws_01h455vb4pex5vsknk084sn02q")
KEY = OKPKey.generate_key("Ed25519")
OTHER = OKPKey.generate_key("Ed25519")


def claims(**changes: Any) -> dict[str, Any]:
    return {
        "iss": "wardmesh", "aud": "wardmesh", "sub": AGENT, "org": ORG, "ws": WORKSPACE, "level": "member",
        "iat": NOW, "exp": NOW + 600, "jti": "tok_1", "sid": "key_1",
    } | changes  # fmt: skip


def sign(payload: dict[str, Any], key: OKPKey = KEY, **header: Any) -> str:
    return jws.serialize_compact(
        {"alg": ALGORITHM, "kid": "one"} | header, json.dumps(payload).encode(), key, algorithms=[ALGORITHM]
    )


def check(token: str, now: float = NOW) -> Any:
    return verify(token, {"one": KEY}, issuer="wardmesh", now=now)


def test_a_good_token_says_who_asks() -> None:
    caller = check(sign(claims(scope="secret.read nonsense.word", act=str(AGENT))))
    assert (caller.principal, caller.scope, caller.organization) == (AGENT, WORKSPACE, ORG)
    assert caller.level is Level.MEMBER
    assert caller.permissions == {"secret.read"}
    assert check(sign(claims(ws=None))).scope == ORG


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "elsewhere"}, {"aud": "others"},
        {"aud": ["wardmesh", "others"]}, {"sub": "*"}, {"sub": None}, {"ws": "*"},
        {"ws": ">"}, {"ws": str(ORG)}, {"org": "org_*"}, {"level": "emperor"}, {"level": 9}, {"exp": NOW + 86_400},
        {"iat": NOW + 60},
        {"iat": "now"}, {"extra": 1}, {"cnf": {"jwk": {"kty": "oct", "k": "AA"}}}, {"scope": ["x"]},
        {"act": "agt_*"}, {"jti": None}, {"exp": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_signed_token_with_wrong_claims_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        check(sign(claims(**changes)))


def test_expiry_is_told_apart_because_a_caller_can_do_something_about_it() -> None:
    with pytest.raises(TokenExpired):
        check(sign(claims()), now=NOW + 600)


def test_a_forged_token_is_refused() -> None:
    public = KEY.as_pem(private=False)
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=").decode()
    good = sign(claims())
    body = good.split(".")[1]
    forged = [
        sign(claims(), OTHER),
        sign(claims(), kid="two"),
        f"{header}.{body}.",
        f"{header}.{body}.{good.split('.')[2]}",
        # The public key as an HMAC secret: the classic confusion of algorithms.
        _hmac_signed(body, public),
        good[:-4],
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.replace(".", "..", 1),
        "",
        "a.b.c",
        "é.é.é",
        "x" * 5000,
    ]
    for token in forged:
        with pytest.raises(TokenInvalid):
            check(token)


def _hmac_signed(body: str, secret: bytes) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    mac = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize("identifier", [AGENT, "key_1", "tok_1"])
def test_what_was_issued_until_the_revocation_is_refused(identifier: str) -> None:
    caller = check(sign(claims()))
    check_not_revoked(caller, {})
    check_not_revoked(caller, {identifier: NOW - 1})
    for at in (NOW, NOW + 0.5, NOW + 100):
        with pytest.raises(TokenRevoked):
            check_not_revoked(caller, {identifier: at})


def test_only_a_public_ed25519_key_is_a_signing_key() -> None:
    jwk = KEY.as_dict(private=False)
    assert import_key(jwk).thumbprint() == KEY.thumbprint()
    for bad in ({}, KEY.as_dict(private=True), {"kty": "oct", "k": "AA"}, jwk | {"crv": "Ed448"}, jwk | {"x": "!"}):
        with pytest.raises(ValueError, match="Ed25519"):
            import_key(bad)
