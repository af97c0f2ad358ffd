"""The rules, over everything that can be made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardmesh.contracts import PERMISSIONS
from wardmesh.contracts.access import permissions_of_level
from wardmesh.contracts.operation import Level
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.ids import AgentId, KeyId, OrgId, Principal, Scope, ServiceId, SessionId, UserId, WorkspaceId
from wardmesh_auth.domain import (
    ACCESS_TOKEN_LIFETIME,
    INHERITED_FROM,
    MAX_SIBLINGS,
    REFRESH_GRACE,
    Holder,
    Levels,
    Refreshing,
    StoredKey,
    StoredRefreshToken,
    StoredSession,
    beyond_level,
    ceiling_for,
    is_live,
    judge_refresh,
    level_in,
    lists_what_it_grants,
    may_grant_level,
    refresh_expiry,
    rights_of_key,
    token_expiry,
    unknown_permissions,
)
from wardmesh_auth.refresh_tokens import RefreshToken

pytestmark = pytest.mark.property

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ORG, WORKSPACE, ELSEWHERE = OrgId.new(), WorkspaceId.new(), WorkspaceId.new()
SERVICE = ServiceId.new()

levels = st.sampled_from(list(Level))
maybe_levels = st.none() | levels
principals: st.SearchStrategy[Principal] = st.sampled_from([UserId.new(), AgentId.new(), SERVICE])
lists = st.frozensets(st.sampled_from(sorted(PERMISSIONS)), max_size=8)
scopes: st.SearchStrategy[Scope] = st.sampled_from([ORG, WORKSPACE, ELSEWHERE])


@st.composite
def holders(draw: st.DrawFn) -> Holder:
    """Somebody with a level, or with a token that lists less (or, at `restricted`, anything) instead."""
    principal, level = draw(principals), draw(levels)
    by_level = permissions_of_level(level, principal)
    if draw(st.booleans()):
        return Holder(principal, level, by_level)
    listed = draw(lists)
    return Holder(principal, level, listed if level is Level.RESTRICTED else listed & by_level)


def key_of(holder: Holder, scope: Scope, level: Level, listed: frozenset[str] | None) -> StoredKey:
    """The key that the service would make."""
    return StoredKey(
        id=KeyId.new(),
        scope=scope,
        principal=SERVICE,
        name="key",
        secret_hash=bytes(32),
        permissions=listed,
        granting=listed is not None and lists_what_it_grants(level),
        ceiling=ceiling_for(holder, SERVICE),
        created_at=NOW,
        expires_at=NOW + timedelta(days=1),
    )


@given(scope=scopes, direct=maybe_levels, organization=maybe_levels)
def test_an_organizations_level_counts_in_its_workspaces_from_admin_on(
    scope: Scope, direct: Level | None, organization: Level | None
) -> None:
    held = level_in(scope, Levels(direct, organization))
    if scope == ORG:
        assert held == organization
    elif organization is not None and organization >= INHERITED_FROM:
        assert held == max(organization, direct or Level.RESTRICTED)
    else:
        assert held == direct


@given(holder=holders(), level=levels, principal=principals)
def test_nobody_grants_a_level_that_brings_more_than_they_hold(
    holder: Holder, level: Level, principal: Principal
) -> None:
    if may_grant_level(holder, level, principal):
        assert level <= holder.level
        assert permissions_of_level(level, principal) <= holder.permissions


@given(
    holder=holders(), scope=scopes, at_making=levels, later=levels, organization=maybe_levels,
    listed=st.none() | lists, asked=scopes,
)  # fmt: skip
def test_a_key_never_reaches_beyond_its_maker(
    holder: Holder,
    scope: Scope,
    at_making: Level,
    later: Level,
    organization: Level | None,
    listed: frozenset[str] | None,
    asked: Scope,
) -> None:
    allowed = may_grant_level(holder, at_making, SERVICE) if listed is None else listed <= holder.permissions
    if not allowed:
        return
    key = key_of(holder, scope, at_making, listed)
    rights = rights_of_key(key, asked, Levels(later, organization))
    if rights is None:
        return
    assert rights.permissions(SERVICE) <= holder.permissions | permissions_of_level(holder.level, SERVICE)
    assert rights.level <= holder.level
    if listed is not None:
        assert rights.permissions(SERVICE) <= listed


@given(scope=scopes, asked=scopes, levels_then=st.tuples(maybe_levels, maybe_levels), listed=st.none() | lists)
def test_a_key_for_a_workspace_reaches_no_other_scope(
    scope: Scope, asked: Scope, levels_then: tuple[Level | None, Level | None], listed: frozenset[str] | None
) -> None:
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    key = key_of(maker, scope, Level.MEMBER, listed)
    if isinstance(scope, WorkspaceId) and asked != scope:
        assert rights_of_key(key, asked, Levels(*levels_then)) is None


@given(listed=lists, before=levels, after=levels)
def test_lowering_a_level_never_widens_a_key(listed: frozenset[str], before: Level, after: Level) -> None:
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    key = key_of(maker, WORKSPACE, before, listed)
    then = rights_of_key(key, WORKSPACE, Levels(before))
    now = rights_of_key(key, WORKSPACE, Levels(min(before, after)))
    assert then is not None
    assert now is not None
    assert now.permissions(SERVICE) <= then.permissions(SERVICE)


@given(listed=lists, level=levels)
def test_a_list_that_is_accepted_is_exactly_what_the_key_reaches(listed: frozenset[str], level: Level) -> None:
    usable = listed - set(beyond_level(listed, level, SERVICE)) - set(unknown_permissions(listed, SERVICE))
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    rights = rights_of_key(key_of(maker, WORKSPACE, level, usable), WORKSPACE, Levels(level))
    assert rights is not None
    assert rights.permissions(SERVICE) == usable


def test_a_restricted_principals_key_without_a_list_reaches_nothing() -> None:
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    rights = rights_of_key(key_of(maker, WORKSPACE, Level.RESTRICTED, None), WORKSPACE, Levels(Level.RESTRICTED))
    assert rights is not None
    assert not rights.permissions(SERVICE)


def test_a_key_of_a_mere_operator_of_the_organization_reaches_no_workspace() -> None:
    operator = Holder(UserId.new(), Level.OPERATOR, permissions_of_level(Level.OPERATOR, UserId.new()))
    key = key_of(operator, ORG, Level.MEMBER, None)
    assert rights_of_key(key, WORKSPACE, Levels(Level.ADMIN, Level.MEMBER)) is None


def test_a_list_that_grants_in_the_organization_only_narrows_in_its_workspaces() -> None:
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    key = key_of(maker, ORG, Level.RESTRICTED, frozenset({"workspace.list", "secret.write"}))
    assert key.granting
    rights = rights_of_key(key, WORKSPACE, Levels(Level.VIEWER, Level.RESTRICTED))
    assert rights is not None
    assert rights.permissions(SERVICE) == {"workspace.list"}


def test_permissions_that_no_operation_needs_or_an_agent_may_not_hold_are_named() -> None:
    assert unknown_permissions(["secret.read", "world.rule"], SERVICE) == ("world.rule",)
    assert unknown_permissions(["key.create"], AgentId.new()) == ("key.create",)


# --- refresh tokens


def session(generation: int, siblings: int = 1, **changes: object) -> StoredSession:
    fields: dict[str, object] = {
        "id": SessionId.new(), "user": UserId.new(), "scope": ORG, "generation": generation, "siblings": siblings,
        "rotated_at": NOW, "created_at": NOW, "expires_at": NOW + timedelta(days=30),
    }  # fmt: skip
    return StoredSession(**(fields | changes))  # type: ignore[arg-type]


@given(
    present=st.integers(1, 200), behind=st.integers(0, 199), seconds=st.floats(0, 10_000), siblings=st.integers(1, 20)
)
def test_a_spent_token_counts_again_only_at_once_and_only_the_last(
    present: int, behind: int, seconds: float, siblings: int
) -> None:
    token = StoredRefreshToken(max(1, present - behind), NOW + timedelta(days=7))
    now = NOW + timedelta(seconds=seconds)
    judged = judge_refresh(session(present, siblings), token, now)
    if token.generation == present:
        assert judged is Refreshing.ROTATE
    elif token.generation == present - 1 and now - NOW <= REFRESH_GRACE and siblings < MAX_SIBLINGS:
        assert judged is Refreshing.REPEAT
    else:
        assert judged is Refreshing.REUSED


def test_a_session_that_has_ended_refreshes_nothing() -> None:
    token = StoredRefreshToken(1, NOW + timedelta(days=7))
    assert judge_refresh(session(1, revoked_at=NOW), token, NOW) is Refreshing.ENDED
    assert judge_refresh(session(1, expires_at=NOW), token, NOW) is Refreshing.ENDED
    assert judge_refresh(session(1), StoredRefreshToken(1, NOW), NOW) is Refreshing.ENDED


@given(
    left=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)),
    lifetime=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1)),
)
def test_nothing_outlives_the_credential_behind_it(left: timedelta, lifetime: timedelta) -> None:
    assert token_expiry(NOW, NOW + left) <= min(NOW + left, NOW + ACCESS_TOKEN_LIFETIME)
    assert token_expiry(NOW, NOW + left, lifetime) == NOW + min(left, lifetime, ACCESS_TOKEN_LIFETIME)
    assert refresh_expiry(NOW + left, NOW) <= NOW + left


def test_a_key_is_live_until_it_expires_or_is_revoked() -> None:
    maker = Holder(UserId.new(), Level.OWNER, frozenset(PERMISSIONS))
    key = key_of(maker, WORKSPACE, Level.MEMBER, None)
    assert is_live(key, NOW)
    assert not is_live(key, key.expires_at)


@given(secret=st.binary(min_size=32, max_size=32))
def test_a_refresh_token_survives_its_text(secret: bytes) -> None:
    token = RefreshToken(organization=OrgId.new(), session=SessionId.new(), secret=secret)
    read = RefreshToken.parse(token.encode())
    assert (read.organization, read.session, read.secret) == (token.organization, token.session, secret)
    assert secret.hex() not in repr(token)


@given(position=st.integers(0, 110), replacement=st.sampled_from("ABCabc019-_= \n"))
def test_a_mistyped_refresh_token_is_none(position: int, replacement: str) -> None:
    text = RefreshToken(organization=OrgId.new(), session=SessionId.new(), secret=bytes(32)).encode()
    changed = text[:position] + replacement + text[position + 1 :]
    if changed != text:
        with pytest.raises(MalformedEncoding):
            RefreshToken.parse(changed)
