"""What a caller proves itself with, and what becomes of it: an access token and the key that answers are sealed to.

    KeyCredential       an API key; gets access tokens for as long as it is not revoked
    SessionCredential   a login: an access token, and a refresh token that is spent for the next pair
    TokenCredential     a bare access token; lasts as long as the token

What always holds: nothing here shows a secret in `repr`. Claims are read from a token without verifying it, to
address requests with; whether they are true is for the services to decide, which verify it.

On failure: `CredentialRefused` for a text that cannot be such a credential; `TokenInvalid` for a token that is none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from wardmesh.contracts import auth
from wardmesh.contracts.operation import Contract, Message
from wardmesh.crypto.apikey import ApiKey
from wardmesh.crypto.encoding import base64url_decode
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.sealing import HolderKey
from wardmesh.errors import CredentialRefused, TokenExpired, TokenInvalid
from wardmesh.ids import InvalidIdError, Principal, Scope, parse_principal, parse_scope

RequestT = TypeVar("RequestT", bound=Message)
TokenT = TypeVar("TokenT", bound=auth.AccessToken)

RENEW_AFTER: Final = 0.8
"""The part of a token's lifetime after which it is renewed, so that an outage of a fifth of it goes unnoticed."""
MAX_TOKEN_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says, unverified. Times are seconds since 1970."""

    principal: Principal
    scope: Scope
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """An access token at hand. Times are on the clock of `time.monotonic`."""

    token: str = field(repr=False)
    principal: Principal
    scope: Scope
    renew_at: float
    expires_at: float
    holder: HolderKey | None
    """Opens what is sealed to the key that the token names; None if somebody else holds it."""
    bearer: str = field(repr=False)


class Exchange(Protocol):
    """Calls an operation that needs no access token, within the deadline of whoever asked for one."""

    async def __call__(self, contract: Contract[..., RequestT, TokenT], request: RequestT) -> TokenT: ...


class Credential(Protocol):
    """What a connection is opened and access tokens are got with."""

    @property
    def principal(self) -> Principal: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def renewable(self) -> bool:
        """Whether `obtain` can be asked again."""

    def password(self) -> str:
        """Return what the broker is shown. Called at every connect."""

    async def obtain(self, exchange: Exchange) -> Grant:
        """Return a fresh grant. MUST NOT be called by two at once: a refresh token is good for one."""


def read_claims(token: str) -> Claims:
    """Return what `token` says without verifying it; raise `TokenInvalid` if it is not an access token."""
    try:
        _header, payload, _signature = token[:MAX_TOKEN_CHARACTERS].split(".")
        claims = json.loads(base64url_decode(payload))
        return Claims(
            principal=parse_principal(claims["sub"]),
            scope=parse_scope(claims.get("ws") or claims["org"]),
            issued_at=int(claims["iat"]),
            expires_at=int(claims["exp"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, InvalidIdError, CryptoError) as error:
        raise TokenInvalid("This is not an access token of wardmesh.") from error


def grant_of(token: str, holder: HolderKey | None, *, now: float, age: float = 0.0) -> Grant:
    """Return the grant of a token that was issued `age` seconds before `now`.

    Its lifetime is the token's own, `exp` minus `iat`, counted from `now`: two clocks need not agree.
    """
    claims = read_claims(token)
    lifetime = claims.expires_at - claims.issued_at
    now -= age
    return Grant(
        token=token,
        principal=claims.principal,
        scope=claims.scope,
        renew_at=now + lifetime * RENEW_AFTER,
        expires_at=now + lifetime,
        holder=holder,
        bearer=f"Bearer {token}",
    )


def _grant_of_stored(token: str, holder: HolderKey | None) -> Grant:
    """The grant of a token issued earlier: here this machine's clock has to do."""
    return grant_of(token, holder, now=time.monotonic(), age=max(0.0, time.time() - read_claims(token).issued_at))


class KeyCredential:
    """An API key, with a fresh holder key for every access token."""

    renewable = True

    def __init__(self, api_key: str, *, scope: Scope | None = None) -> None:
        try:
            key = ApiKey.parse(api_key.strip())
        except CryptoError as error:
            raise CredentialRefused(f"This cannot be an API key: {error}.") from error
        self.principal: Final = key.principal
        self.scope: Final = scope or key.scope
        self._text: Final = api_key.strip()

    def password(self) -> str:
        # Always the key, never its last token: a key does not expire between two attempts.
        return self._text

    async def obtain(self, exchange: Exchange) -> Grant:
        holder = HolderKey.generate()
        answer = await exchange(
            auth.EXCHANGE_KEY,
            auth.ExchangeKey(api_key=self._text, scope=self.scope, holder_key=holder.public_bytes),
        )
        return grant_of(answer.token, holder, now=time.monotonic())


class SessionCredential:
    """A login. `on_rotation` is given each new session, to be kept for the next process."""

    renewable = True

    def __init__(
        self,
        session: auth.Session,
        *,
        holder: HolderKey | None = None,
        on_rotation: Callable[[auth.Session, HolderKey], Awaitable[None]] | None = None,
    ) -> None:
        self.principal: Final = session.principal
        self.scope: Final = session.scope
        self._session = session
        self._holder = holder
        self._on_rotation = on_rotation
        self._fresh = holder is not None

    def password(self) -> str:
        return self._session.token

    async def obtain(self, exchange: Exchange) -> Grant:
        if self._fresh:
            # The first time, with a key to open answers: a process that starts need not spend a refresh token.
            self._fresh = False
            grant = _grant_of_stored(self._session.token, self._holder)
            if time.monotonic() < grant.renew_at:
                return grant
        holder = HolderKey.generate()
        request = auth.Refresh(
            refresh_token=self._session.refresh_token, scope=self.scope, holder_key=holder.public_bytes
        )
        answer = await exchange(auth.REFRESH, request)
        self._session, self._holder = answer, holder
        if self._on_rotation is not None:
            await self._on_rotation(answer, holder)
        return grant_of(answer.token, holder, now=time.monotonic())


class TokenCredential:
    """A bare access token. Without `holder`, answers that are sealed to its key cannot be opened here."""

    renewable = False

    def __init__(self, token: str, *, holder: HolderKey | None = None) -> None:
        claims = read_claims(token.strip())
        self.principal: Final = claims.principal
        self.scope: Final = claims.scope
        self._token: Final = token.strip()
        self._holder: Final = holder
        self._expires_at: Final = claims.expires_at

    def password(self) -> str:
        return self._token

    async def obtain(self, exchange: Exchange) -> Grant:
        del exchange
        if self._expires_at <= time.time():
            raise TokenExpired
        return _grant_of_stored(self._token, self._holder)
