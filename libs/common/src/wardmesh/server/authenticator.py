"""Who is asking, from a token, without asking anybody: keys and revocations are mirrored in memory.

A verified token is remembered until it expires, because the same one comes with every request of ten minutes; the
revocations are consulted each time all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from joserfc.jwk import OKPKey

from wardmesh.errors import ServiceUnavailable, TokenExpired
from wardmesh.ids import Principal, RequestId
from wardmesh.server import origin, tokens
from wardmesh.server.origin import Origin
from wardmesh.server.tokens import Caller

REMEMBERED_TOKENS: Final = 20_000


class Authenticator(Protocol):
    def authenticate(self, token: str) -> Caller:
        """Return who `token` speaks for; raise an `AuthenticationError`, or `ServiceUnavailable` if it can't tell."""

    def origin(self, statement: str, principal: Principal, request_id: RequestId) -> Origin | None:
        """Return where a request came from, if the auth service has signed it; None for any other statement."""


class TokenAuthenticator:
    """Verifies against mirrored keys and revocations. Refuses while either mirror is incomplete."""

    def __init__(
        self,
        keys: Mapping[str, OKPKey],
        revocations: Mapping[str, float],
        *,
        issuer: str,
        is_ready: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._revocations = revocations
        self._issuer = issuer
        self._is_ready = is_ready
        self._clock = clock
        self._known: dict[str, Caller] = {}

    def authenticate(self, token: str) -> Caller:
        if not self._is_ready():
            raise ServiceUnavailable("The service does not know the present keys and revocations yet.")
        now = self._clock()
        caller = self._known.get(token)
        if caller is None:
            caller = tokens.verify(token, self._keys, issuer=self._issuer, now=now)
            if len(self._known) >= REMEMBERED_TOKENS:
                del self._known[next(iter(self._known))]  # the oldest, which expires first
            self._known[token] = caller
        elif caller.expires_at <= now:
            del self._known[token]
            raise TokenExpired
        tokens.check_not_revoked(caller, self._revocations)
        return caller

    def origin(self, statement: str, principal: Principal, request_id: RequestId) -> Origin | None:
        return origin.verify(
            statement,
            self._keys,
            issuer=self._issuer,
            principal=principal,
            request_id=request_id,
            now=self._clock(),
        )

    def forget(self) -> None:
        """Verify every token anew: the signing keys have changed."""
        self._known.clear()
