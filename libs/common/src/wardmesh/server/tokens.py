"""Access tokens, verified: Ed25519 JWTs of ten minutes at most.

Security decisions here are pure: keys, revocations and the time are arguments. The auth service issues tokens; every
service verifies them, with no call to anybody.

What always holds: claims are read from a token only after its signature was verified with a key of ours, the
algorithm is Ed25519 and nothing else, and issuer, audience, expiry and form were checked. A token that lives longer
than `MAX_TOKEN_LIFETIME` is refused even if its signature is good.

Source: RFC 7519 (JWT), RFC 8037 and RFC 9864 (Ed25519), RFC 8725 (JWT best current practices), RFC 7800 (`cnf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardmesh.contracts.access import effective_permissions
from wardmesh.contracts.operation import Level
from wardmesh.crypto.encoding import base64url_decode
from wardmesh.crypto.errors import CryptoError
from wardmesh.errors import TokenExpired, TokenInvalid, TokenRevoked
from wardmesh.ids import OrgId, Principal, PrincipalField, Scope, WorkspaceId

ALGORITHM: Final = "Ed25519"
AUDIENCE: Final = "wardmesh"
MAX_TOKEN_LIFETIME: Final = timedelta(minutes=10)
MAX_TOKEN_CHARACTERS: Final = 4096
CLOCK_SKEW: Final = timedelta(seconds=5)
"""How far the issuer's clock may be ahead of ours. It never lengthens a token's life."""


class HolderJwk(BaseModel):
    """The public half of the holder's X25519 key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kty: Literal["OKP"]
    crv: Literal["X25519"]
    x: Annotated[str, Field(min_length=43, max_length=43)]


class Confirmation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    jwk: HolderJwk


class Claims(BaseModel):
    """What an access token says. `scope` lists permissions, separated by spaces; absent, the level decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iss: str
    aud: Literal["wardmesh"]
    sub: PrincipalField
    org: OrgId
    ws: WorkspaceId | None = None
    level: str
    scope: Annotated[str, Field(max_length=MAX_TOKEN_CHARACTERS)] | None = None
    act: PrincipalField | None = None
    cnf: Confirmation | None = None
    iat: int
    exp: int
    jti: Annotated[str, Field(max_length=64)]
    sid: Annotated[str, Field(max_length=64)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, as a verified token says."""

    principal: Principal
    scope: Scope
    organization: OrgId
    workspace: WorkspaceId | None
    level: Level
    permissions: frozenset[str]
    acting_for: Principal | None
    holder_key: bytes | None
    token_id: str
    credential_id: str
    issued_at: int
    expires_at: int


def verify(token: str, keys: Mapping[str, OKPKey], *, issuer: str, now: float) -> Caller:
    """Return who a token speaks for.

    Raises `TokenExpired` for one of ours that is past its time, `TokenInvalid` for anything else.
    """
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenInvalid("The access token is too long to be one of this mesh's.")
    try:
        header = jws.extract_compact(token.encode("ascii")).headers()
        key = keys.get(str(header.get("kid")))
        if key is None or header.get("alg") != ALGORITHM:
            raise TokenInvalid
        payload = jws.deserialize_compact(token.encode("ascii"), key, algorithms=[ALGORITHM]).payload
        claims = Claims.model_validate_json(payload)
        level = Level.of(claims.level)
        holder_key = None if claims.cnf is None else base64url_decode(claims.cnf.jwk.x)
    except (JoseError, ValidationError, CryptoError, ValueError):
        # What was wrong is for whoever forged it to guess: the cause is not chained into what a caller may see.
        raise TokenInvalid from None
    if claims.iss != issuer:
        raise TokenInvalid("The access token was issued by somebody else than this mesh's auth service.")
    if claims.exp <= now:
        raise TokenExpired
    if claims.iat > now + CLOCK_SKEW.total_seconds() or claims.exp - claims.iat > MAX_TOKEN_LIFETIME.total_seconds():
        raise TokenInvalid("The access token's times are not those of this mesh's tokens.")
    return Caller(
        principal=claims.sub,
        scope=claims.ws or claims.org,
        organization=claims.org,
        workspace=claims.ws,
        level=level,
        permissions=effective_permissions(level, None if claims.scope is None else claims.scope.split(), claims.sub),
        acting_for=claims.act,
        holder_key=holder_key,
        token_id=claims.jti,
        credential_id=claims.sid,
        issued_at=claims.iat,
        expires_at=claims.exp,
    )


def check_not_revoked(caller: Caller, revocations: Mapping[str, float]) -> None:
    """Raise `TokenRevoked` if the token, its credential or its principal was revoked after the token was issued.

    `revocations` maps an id to the Unix time from which on everything issued before is refused.
    """
    for identifier in (caller.principal, caller.credential_id, caller.token_id, caller.acting_for):
        if identifier is None:
            continue
        revoked_at = revocations.get(identifier)
        # A token of the very second of the revocation may have been issued before it: refused.
        if revoked_at is not None and caller.issued_at <= revoked_at:
            raise TokenRevoked


def import_key(jwk: Mapping[str, Any]) -> OKPKey:
    """Return a public signing key from its JWK; raise `ValueError` for anything but a public Ed25519 key."""
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or "d" in jwk:
        raise ValueError("not a public Ed25519 key")
    try:
        return OKPKey.import_key({name: str(value) for name, value in jwk.items()})
    except (JoseError, ValueError) as error:
        raise ValueError("not a public Ed25519 key") from error
