"""Use cases that carry their own credential: each exchanges it for an access token.

What always holds:
- A credential is looked up inside the one tenant that it names. What it says about itself is compared with what is
  stored before anything is believed.
- An unknown user costs the same hash as a wrong password and gets the same answer.
- The audit log of an organization hears of attempts on it only if it exists, and under a name only once the credential
  has proved that name.

On failure: the errors of `wardmesh_auth.errors`; those of the store pass through.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from wardmesh.contracts.auth import AccessToken, ExchangeKey, LogIn, Refresh, Session, SignedUp, SignUp
from wardmesh.contracts.operation import Level
from wardmesh.crypto.apikey import ApiKey
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.ids import OrgId, Principal, Scope, SessionId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.ratelimit import RateLimiter
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.domain import (
    SESSION_LIFETIME,
    Refreshing,
    Rights,
    StoredKey,
    StoredPassword,
    StoredRefreshToken,
    StoredSession,
    StoredWorkspace,
    is_live,
    judge_refresh,
    level_in,
    refresh_expiry,
    rights_of_key,
    user_of,
)
from wardmesh_auth.errors import KeyRefused, NotAMember, RefreshRefused, RefreshReused, SignUpClosed, WrongPassword
from wardmesh_auth.passwords import Passwords
from wardmesh_auth.ports import Identities, IdentityStore
from wardmesh_auth.refresh_tokens import SECRET_BYTES, RefreshToken, digest
from wardmesh_auth.tokens import Issued, Subject, TokenIssuer

# Permissions that no contract names, so no token can carry them; see migrations/0001_identity.sql.
CHECK_PASSWORD: Final = frozenset({"password.check"})
OPEN_SESSION: Final = frozenset({"session.open"})
SIGN_UP: Final = frozenset({"organization.create", "workspace.create", "user.create"})


class SessionEnder(Protocol):
    """Ends a session for good."""

    async def end_session(self, organization: OrgId, session: StoredSession) -> None:
        """Revoke `session` and make it known."""


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """What an API key that was presented amounts to in a scope."""

    organization: OrgId
    scope: Scope
    key: StoredKey
    rights: Rights | None
    """None if it reaches nothing there; `refusal` says why."""
    refusal: str | None = None


class SessionService:
    """Signs up, logs in, refreshes and exchanges."""

    def __init__(
        self,
        store: IdentityStore,
        passwords: Passwords,
        issuer: TokenIssuer,
        ender: SessionEnder,
        *,
        attempts: RateLimiter,
        sign_up_open: bool,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._issuer = issuer
        self._ender = ender
        self._attempts = attempts
        self._sign_up_open = sign_up_open
        self._clock = clock
        self._monotonic = monotonic
        self._randomness = randomness

    async def sign_up(self, call: Call, request: SignUp) -> SignedUp:
        """Create an organization; its first user owns it."""
        if not self._sign_up_open:
            raise SignUpClosed
        password_hash = await self._passwords.hash(request.password)
        organization, workspace, user, now = OrgId.new(), WorkspaceId.new(), UserId.new(), self._clock()
        call.identify(organization=organization, scope=organization, principal=user, permissions=SIGN_UP)
        call.note(targets=(organization, workspace, user))
        async with self._store.change(call) as rows:
            await rows.add_organization(organization, request.organization, now)
            await rows.add_workspace(StoredWorkspace(workspace, request.workspace, now))
            await rows.add_principal(user_of(user, organization, request.email, now))
            await rows.add_password(user, password_hash)
            await rows.add_level(user, Level.OWNER)
        return SignedUp(organization=organization, workspace=workspace, user=user)

    async def log_in(self, call: Call, request: LogIn) -> Session:
        """Exchange a password for a session."""
        organization = request.organization
        call.note(method="password")
        self._attempts.take(f"{organization} {request.email}", self._monotonic())
        async with self._store.transaction(_guest(organization, CHECK_PASSWORD), read_only=True) as rows:
            is_known = await rows.has_organization()
            stored = await rows.password_of(request.email)
        if is_known:
            call.identify(organization=organization, scope=organization, principal=UserId.nil())
        user = await self._check_password(call, stored, request.password)
        scope = request.scope or organization
        call.identify(organization=organization, scope=organization, principal=user, permissions=OPEN_SESSION)
        now = self._clock()
        session = StoredSession(
            id=SessionId.new(),
            user=user,
            scope=scope,
            generation=1,
            siblings=1,
            rotated_at=now,
            created_at=now,
            expires_at=now + SESSION_LIFETIME,
        )
        call.note(targets=(session.id,), scope=scope)
        async with self._store.change(call) as rows:
            rights = await _rights_of_user(rows, user, scope)
            await rows.add_session(session)
            refresh_token, refresh_expires_at = await self._add_refresh_token(rows, organization, session, now)
        issued = self._issue_for(organization, session, scope, rights, request.holder_key, now)
        return _session(issued, session, scope, refresh_token, refresh_expires_at)

    async def refresh(self, call: Call, request: Refresh) -> Session:
        """Exchange a refresh token for the next pair; one that was spent before ends its session."""
        call.note(method="refresh_token")
        try:
            token = RefreshToken.parse(request.refresh_token)
        except MalformedEncoding:
            raise RefreshRefused from None
        organization, token_hash = token.organization, digest(token.secret)
        async with self._store.transaction(_guest(organization, OPEN_SESSION), read_only=True) as rows:
            presented = await rows.refresh_token(token.session, token_hash)
        if presented is None:
            raise RefreshRefused
        call.identify(organization=organization, scope=organization, principal=UserId.nil(), permissions=OPEN_SESSION)
        call.note(targets=(token.session,))
        session: StoredSession | None = None
        try:
            async with self._store.change(call) as rows:
                session = await rows.lock_session(token.session)
                if session is None:
                    raise RefreshRefused
                call.identify(
                    organization=organization, scope=organization, principal=session.user, permissions=OPEN_SESSION
                )
                return await self._next_pair(call, rows, organization, session, presented, request)
        except RefreshReused:
            # Outside the transaction above, which the refusal has undone.
            if session is not None:
                await self._ender.end_session(organization, session)
            raise

    async def exchange_key(self, call: Call, request: ExchangeKey) -> AccessToken:
        """Exchange an API key for an access token."""
        call.note(method="api_key")
        verdict = await self.check_key(request.api_key, request.scope)
        key = verdict.key
        call.identify(organization=verdict.organization, scope=key.scope, principal=key.principal)
        call.note(targets=(key.id,), scope=verdict.scope)
        if verdict.rights is None:
            is_key_live = is_live(key, self._clock())
            call.note(failure="not_a_member" if is_key_live else "expired_or_revoked")
            raise NotAMember if is_key_live else KeyRefused
        subject = Subject(
            principal=key.principal,
            organization=verdict.organization,
            scope=verdict.scope,
            rights=verdict.rights,
            credential=key.id,
            credential_expires_at=key.expires_at,
            holder_key=request.holder_key,
        )
        issued = self._issuer.issue(subject, self._clock())
        return AccessToken(
            token=issued.token, expires_at=issued.expires_at, principal=key.principal, scope=verdict.scope
        )

    async def check_key(self, text: str, scope: Scope | None) -> KeyVerdict:
        """Return what an API key reaches in `scope`, or in its own; raise `KeyRefused` if it is not a key of ours.

        A verdict, also one that refuses, means that whoever presented it holds the key's secret.
        """
        try:
            key = ApiKey.parse(text)
        except MalformedEncoding:
            raise KeyRefused from None
        asked = scope or key.scope
        async with self._store.transaction(_guest(key.organization, frozenset()), read_only=True) as rows:
            stored = await rows.key(key.id)
            levels = await rows.levels(key.principal, asked)
        if stored is None or not hmac.compare_digest(stored.secret_hash, digest(key.secret)):
            raise KeyRefused
        if (stored.scope, stored.principal) != (key.scope, key.principal):
            raise KeyRefused
        if not is_live(stored, self._clock()):
            return KeyVerdict(key.organization, asked, stored, None, "the key has expired or was revoked")
        rights = rights_of_key(stored, asked, levels)
        refusal = "the key does not reach that scope" if rights is None else None
        return KeyVerdict(key.organization, asked, stored, rights, refusal)

    async def _check_password(self, call: Call, stored: StoredPassword | None, password: str) -> UserId:
        matches = await self._passwords.check(None if stored is None else stored.hash, password)
        if stored is None or not matches or stored.revoked:
            # The log of the organization may know what the caller may not.
            failure = "unknown_address" if stored is None else "revoked" if matches else "wrong_password"
            call.note(failure=failure)
            raise WrongPassword
        return stored.user

    async def _next_pair(
        self,
        call: Call,
        rows: Identities,
        organization: OrgId,
        session: StoredSession,
        presented: StoredRefreshToken,
        request: Refresh,
    ) -> Session:
        now = self._clock()
        judged = judge_refresh(session, presented, now)
        if judged is Refreshing.REUSED:
            call.note(reused=True)
            raise RefreshReused
        if judged is Refreshing.ENDED:
            call.note(failure="ended")
            raise RefreshRefused
        scope = request.scope or session.scope
        call.note(scope=scope)
        rights = await _rights_of_user(rows, session.user, scope)
        if judged is Refreshing.ROTATE:
            session = _next_generation(session)
            await rows.begin_generation(session.id, session.generation, now)
        else:
            call.note(repeated=True)
            await rows.add_sibling(session.id)
        refresh_token, refresh_expires_at = await self._add_refresh_token(rows, organization, session, now)
        issued = self._issue_for(organization, session, scope, rights, request.holder_key, now)
        return _session(issued, session, scope, refresh_token, refresh_expires_at)

    async def _add_refresh_token(
        self, rows: Identities, organization: OrgId, session: StoredSession, now: datetime
    ) -> tuple[str, datetime]:
        secret = self._randomness(SECRET_BYTES)
        expires_at = refresh_expiry(session.expires_at, now)
        await rows.add_refresh_token(session.id, digest(secret), StoredRefreshToken(session.generation, expires_at))
        return RefreshToken(organization=organization, session=session.id, secret=secret).encode(), expires_at

    def _issue_for(
        self,
        organization: OrgId,
        session: StoredSession,
        scope: Scope,
        rights: Rights,
        holder_key: bytes | None,
        now: datetime,
    ) -> Issued:
        subject = Subject(session.user, organization, scope, rights, session.id, session.expires_at, holder_key)
        return self._issuer.issue(subject, now)


async def _rights_of_user(rows: Identities, user: Principal, scope: Scope) -> Rights:
    level = level_in(scope, await rows.levels(user, scope))
    if level is None:
        raise NotAMember
    return Rights(level)


def _next_generation(session: StoredSession) -> StoredSession:
    return replace(session, generation=session.generation + 1, siblings=1)


def _guest(organization: OrgId, permissions: frozenset[str]) -> TenantContext:
    """Nobody yet, in the organization that a credential names."""
    return TenantContext(organization, None, UserId.nil(), permissions)


def _session(
    issued: Issued, session: StoredSession, scope: Scope, refresh_token: str, refresh_expires_at: datetime
) -> Session:
    return Session(
        token=issued.token,
        expires_at=issued.expires_at,
        principal=session.user,
        scope=scope,
        session=session.id,
        refresh_token=refresh_token,
        refresh_expires_at=refresh_expires_at,
    )
