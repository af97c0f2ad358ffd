"""Access tokens, issued: the one place that holds the signing key. (Verified in `wardmesh.server.tokens`.)

What always holds: a token is for one principal in one scope, lives `ACCESS_TOKEN_LIFETIME` at the most and never longer
than the credential behind it, and names the key that signed it (`kid`, its RFC 7638 thumbprint).

On failure: `SigningKeyError` when the key file holds anything but one Ed25519 private key; nothing at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jws
from joserfc.jwk import OKPKey

from wardmesh.crypto.encoding import base64url_encode
from wardmesh.crypto.jwk import to_jwk
from wardmesh.ids import KeyId, OrgId, Principal, RequestId, Scope, SessionId, TokenId, WorkspaceId
from wardmesh.server.origin import LIFETIME as STATEMENT_LIFETIME
from wardmesh.server.origin import TYPE as STATEMENT_TYPE
from wardmesh.server.origin import Origin, Statement
from wardmesh.server.tokens import ALGORITHM, AUDIENCE, Claims, Confirmation, HolderJwk
from wardmesh_auth.domain import ACCESS_TOKEN_LIFETIME, Rights, token_expiry

TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - RFC 9068: an access token, so that no other JWT of ours passes for one


class SigningKeyError(ValueError):
    """The file is not one Ed25519 private key in PEM."""


@dataclass(frozen=True, slots=True)
class Issued:
    """An access token, as it goes to its holder."""

    token: str = field(repr=False)
    id: TokenId
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token is for, and what for."""

    principal: Principal
    organization: OrgId
    scope: Scope
    rights: Rights
    credential: KeyId | SessionId
    credential_expires_at: datetime
    holder_key: bytes | None = None


class TokenIssuer:
    """Signs access tokens."""

    def __init__(self, key: Ed25519PrivateKey, *, issuer: str, lifetime: timedelta = ACCESS_TOKEN_LIFETIME) -> None:
        self.public_jwk = to_jwk("Ed25519", key.public_key().public_bytes_raw())
        private = OKPKey.import_key({**self.public_jwk, "d": base64url_encode(key.private_bytes_raw())})
        self.kid = private.thumbprint()
        self._key = private
        self._issuer = issuer
        self._lifetime = lifetime

    def issue(self, subject: Subject, now: datetime) -> Issued:
        """Return a signed token for `subject`."""
        token_id = TokenId.new()
        issued_at = int(now.timestamp())
        # Whole seconds, rounded down, so that neither the lifetime nor the credential is outlived.
        latest = token_expiry(now.replace(microsecond=0), subject.credential_expires_at, self._lifetime)
        expires_at = int(latest.timestamp())
        rights, holder_key = subject.rights, subject.holder_key
        claims = Claims(
            iss=self._issuer,
            aud=AUDIENCE,
            sub=subject.principal,
            org=subject.organization,
            ws=subject.scope if isinstance(subject.scope, WorkspaceId) else None,
            level=rights.level.label,
            scope=None if rights.listed is None else " ".join(sorted(rights.listed)),
            cnf=None if holder_key is None else _confirmation(holder_key),
            iat=issued_at,
            exp=expires_at,
            jti=token_id,
            sid=subject.credential,
        )
        header = {"alg": ALGORITHM, "kid": self.kid, "typ": TOKEN_TYPE}
        payload = claims.model_dump_json(exclude_none=True).encode()
        token = jws.serialize_compact(header, payload, self._key, algorithms=[ALGORITHM])
        return Issued(token, token_id, datetime.fromtimestamp(expires_at, now.tzinfo))

    def state_origin(self, principal: Principal, request_id: RequestId, origin: Origin, now: datetime) -> str:
        """Return a signed statement of where one request of `principal` came from."""
        said = Statement(
            iss=self._issuer,
            sub=principal,
            request=request_id,
            exp=int((now + STATEMENT_LIFETIME).timestamp()),
            origin=origin,
        )
        header = {"alg": ALGORITHM, "kid": self.kid, "typ": STATEMENT_TYPE}
        payload = said.model_dump_json(exclude_none=True).encode()
        return jws.serialize_compact(header, payload, self._key, algorithms=[ALGORITHM])


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a PEM file."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise SigningKeyError(f"{path}: not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: access tokens are signed with Ed25519; this is another kind of key")
    return key


def published_jwk(kid: str, public_jwk: dict[str, str]) -> dict[str, str]:
    """Return a public key as JWKS show it."""
    return public_jwk | {"kid": kid, "use": "sig", "alg": ALGORITHM}


def _confirmation(holder_key: bytes) -> Confirmation:
    return Confirmation(jwk=HolderJwk.model_validate(to_jwk("X25519", holder_key)))
