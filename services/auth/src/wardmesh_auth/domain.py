"""Pure rules: what somebody holds where, what they may give to others, and when a credential still counts.

What always holds:
- Nobody grants a level or a permission that they do not hold themselves, and a narrow token counts as what it lists.
- What an API key reaches shrinks with its principal's level and never grows beyond what its maker held.
- A refresh token counts once, or again for `REFRESH_GRACE` (an answer may be lost on its way); after that it tells
  that two parties have it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from wardmesh.contracts import PERMISSIONS
from wardmesh.contracts.access import effective_permissions, permissions_of_level
from wardmesh.contracts.operation import Level
from wardmesh.ids import KeyId, OrgId, Principal, Scope, SessionId, UserId, WorkspaceId
from wardmesh.server.tokens import MAX_TOKEN_LIFETIME

ACCESS_TOKEN_LIFETIME: Final = MAX_TOKEN_LIFETIME
"""As long as verifiers allow: revocation does not wait for it."""
SESSION_LIFETIME: Final = timedelta(days=30)
"""However often it is refreshed; then the password is asked for again."""
REFRESH_TOKEN_LIFETIME: Final = timedelta(days=7)
"""A session that nobody used for so long has ended."""
REFRESH_GRACE: Final = timedelta(seconds=10)
"""How long a spent refresh token may be presented again: two retries of a client that lost the answer."""
MAX_SIBLINGS: Final = 8
"""Refresh tokens of one generation: more retries than that are no retries."""
KEPT_GENERATIONS: Final = 100
"""Spent refresh tokens that are remembered, to tell a stolen one from a made-up one."""
MAX_NAME_CHARACTERS: Final = 128
INHERITED_FROM: Final = Level.ADMIN
"""From this level on, what somebody is in the organization they are in each of its workspaces."""


@dataclass(frozen=True, slots=True)
class Levels:
    """What a principal holds in a scope itself, and in the organization that the scope belongs to."""

    direct: Level | None = None
    organization: Level | None = None


@dataclass(frozen=True, slots=True)
class StoredPrincipal:
    """Somebody who can act."""

    id: Principal
    home: Scope
    name: str
    created_at: datetime
    revoked_at: datetime | None = None
    email: str | None = None


def user_of(user: UserId, organization: OrgId, email: str, now: datetime) -> StoredPrincipal:
    """Return a new user, who is shown by the address, cut to what a name may have."""
    return StoredPrincipal(user, organization, email[:MAX_NAME_CHARACTERS], now, email=email)


@dataclass(frozen=True, slots=True)
class StoredPassword:
    """The hash of a user's password."""

    user: UserId
    hash: str = field(repr=False)
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class StoredWorkspace:
    id: WorkspaceId
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who can act in a scope: the scope in which they hold the level, and the level."""

    principal: StoredPrincipal
    scope: Scope
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """An API key, without its secret."""

    id: KeyId
    scope: Scope
    principal: Principal
    name: str
    secret_hash: bytes = field(repr=False)
    permissions: frozenset[str] | None
    granting: bool
    ceiling: Level
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A login through all its refreshes."""

    id: SessionId
    user: UserId
    scope: Scope
    generation: int
    siblings: int
    rotated_at: datetime
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """A refresh token that was issued at some time, spent or not."""

    generation: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody with what they hold: the caller, as its verified token says."""

    principal: Principal
    level: Level
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rights:
    """What an access token is to say: the level, and the list of permissions if there is one."""

    level: Level
    listed: frozenset[str] | None = None

    def permissions(self, principal: Principal) -> frozenset[str]:
        """Return what every gate of the mesh will make of it."""
        return effective_permissions(self.level, self.listed, principal)


def level_in(scope: Scope, levels: Levels) -> Level | None:
    """Return the level that counts in `scope`; None for somebody who has no business there."""
    if isinstance(scope, OrgId):
        return levels.organization
    held = [levels.direct] if levels.direct is not None else []
    if levels.organization is not None and levels.organization >= INHERITED_FROM:
        held.append(levels.organization)
    return max(held, default=None)


def holds(holder: Holder, permissions: Iterable[str]) -> bool:
    """Tell whether `holder` has every one of `permissions` to give."""
    return holder.permissions.issuperset(permissions)


def may_grant_level(holder: Holder, level: Level, principal: Principal) -> bool:
    """Tell whether `holder` may give `principal` this level: it is no higher, and all that comes with it is held."""
    return level <= holder.level and holds(holder, permissions_of_level(level, principal))


def may_rule_over(holder: Holder, level: Level | None) -> bool:
    """Tell whether `holder` may change or revoke somebody of this level."""
    return level is None or level <= holder.level


def ceiling_for(holder: Holder, principal: Principal) -> Level:
    """Return the highest level that a key which `holder` makes for `principal` may ever reach."""
    return max(level for level in Level if level is Level.RESTRICTED or may_grant_level(holder, level, principal))


def unknown_permissions(listed: Iterable[str], principal: Principal) -> tuple[str, ...]:
    """Return those of `listed` that no operation needs, or that this kind of principal may never hold."""
    return tuple(name for name in listed if name not in PERMISSIONS or principal.prefix not in PERMISSIONS[name].kinds)


def may_be_member(principal: StoredPrincipal, scope: Scope) -> bool:
    """Tell whether a principal may hold a level in `scope`: who is at home in a workspace stays there."""
    return isinstance(principal.home, OrgId) or principal.home == scope


def is_live(key: StoredKey, now: datetime) -> bool:
    return key.revoked_at is None and now < key.expires_at


def rights_of_key(key: StoredKey, scope: Scope, levels: Levels) -> Rights | None:
    """Return what `key` reaches in `scope`, given what its principal holds there; None if nothing.

    A key for a workspace reaches that workspace only. One for the organization reaches a workspace as far as its
    maker did, which is where `INHERITED_FROM` begins. A list that grants does so in the key's own scope only.
    """
    level = level_in(scope, levels)
    if level is None:
        return None
    elsewhere = scope != key.scope
    if elsewhere and not (isinstance(key.scope, OrgId) and key.ceiling >= INHERITED_FROM):
        return None
    capped = min(level, key.ceiling)
    if key.permissions is None:
        return Rights(capped)
    if key.granting and not elsewhere:
        return Rights(capped, key.permissions)
    # The list needs no cap: its maker held every permission on it.
    return Rights(capped, key.permissions & permissions_of_level(level, key.principal))


def lists_what_it_grants(level: Level) -> bool:
    """Tell whether a list on a key grants (the principal has nothing else) or narrows what the level holds.

    Decided once, when the key is made: else lowering somebody to `restricted` could widen what an old key reaches.
    """
    return level is Level.RESTRICTED


def beyond_level(listed: Iterable[str], level: Level, principal: Principal) -> tuple[str, ...]:
    """Return those of `listed` that a principal of this level could not use through a list that narrows."""
    if lists_what_it_grants(level):
        return ()
    return tuple(sorted(set(listed) - permissions_of_level(level, principal)))


class Refreshing(enum.Enum):
    """What a refresh token that was presented amounts to."""

    ROTATE = enum.auto()
    """It counts: the next generation begins."""
    REPEAT = enum.auto()
    """It was spent a moment ago: another token of the present generation, in case the first was lost."""
    REUSED = enum.auto()
    """It was spent before: two parties have it, and the session ends."""
    ENDED = enum.auto()
    """The session or the token has ended."""


def judge_refresh(session: StoredSession, token: StoredRefreshToken, now: datetime) -> Refreshing:
    """Decide about a refresh token that the store knows."""
    if session.revoked_at is not None or now >= session.expires_at:
        return Refreshing.ENDED
    if token.generation < session.generation:
        is_retry = (
            token.generation == session.generation - 1
            and now - session.rotated_at <= REFRESH_GRACE
            and session.siblings < MAX_SIBLINGS
        )
        return Refreshing.REPEAT if is_retry else Refreshing.REUSED
    return Refreshing.ROTATE if now < token.expires_at else Refreshing.ENDED


def refresh_expiry(session_expires_at: datetime, now: datetime) -> datetime:
    """Return until when a refresh token issued now counts: never longer than its session."""
    return min(now + REFRESH_TOKEN_LIFETIME, session_expires_at)


def token_expiry(
    now: datetime, credential_expires_at: datetime | None, lifetime: timedelta = ACCESS_TOKEN_LIFETIME
) -> datetime:
    """Return until when an access token counts: never longer than the credential behind it."""
    latest = now + min(lifetime, ACCESS_TOKEN_LIFETIME)
    return latest if credential_expires_at is None else min(latest, credential_expires_at)
