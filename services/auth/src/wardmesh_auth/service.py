"""Use cases of administration: workspaces, principals, levels and keys.

What always holds: a use case gives nothing that its caller does not hold, and does nothing to somebody who holds more;
the rules are `wardmesh_auth.domain`'s, read inside the same transaction that writes. An API key's secret is in the
answer that made it and nowhere else.

On failure: the errors of `wardmesh_auth.errors`; those of the store pass through.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from wardmesh.contracts.auth import (
    CreateAgent,
    CreatedKey,
    CreateKey,
    CreateServiceAccount,
    CreateUser,
    CreateWorkspace,
    Identity,
    KeyInfo,
    Keys,
    ListKeys,
    ListPrincipals,
    ListWorkspaces,
    PrincipalInfo,
    Principals,
    SetLevel,
    Workspace,
    Workspaces,
)
from wardmesh.contracts.operation import Empty, Level
from wardmesh.crypto.apikey import SECRET_BYTES, ApiKey
from wardmesh.errors import InvalidRequest, Violation
from wardmesh.ids import AgentId, KeyId, Principal, Scope, ServiceId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database_errors import ConstraintConflict
from wardmesh_auth.domain import (
    Holder,
    Levels,
    StoredKey,
    StoredPrincipal,
    StoredWorkspace,
    beyond_level,
    ceiling_for,
    holds,
    level_in,
    lists_what_it_grants,
    may_be_member,
    may_grant_level,
    may_rule_over,
    unknown_permissions,
    user_of,
)
from wardmesh_auth.errors import AddressTaken, BeyondOwnRights, LastOwner, NoSuchPrincipal, NotAtHome
from wardmesh_auth.passwords import Passwords
from wardmesh_auth.ports import Identities, IdentityStore
from wardmesh_auth.refresh_tokens import digest


class RevocationNotices(Protocol):
    """Makes every gate refuse tokens that say too much."""

    async def announce(self, identifier: KeyId | Principal, at: datetime) -> None: ...


class IdentityService:
    """One method an operation; each owns its transaction."""

    def __init__(
        self,
        store: IdentityStore,
        passwords: Passwords,
        notices: RevocationNotices,
        *,
        clock: Callable[[], datetime],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._notices = notices
        self._clock = clock
        self._randomness = randomness

    async def who_am_i(self, call: Call, _request: Empty) -> Identity:
        """Say what the caller's token says, as the gates understood it."""
        caller = call.caller
        return Identity(
            principal=caller.principal,
            organization=caller.organization,
            scope=caller.scope,
            level=caller.level.label,
            permissions=tuple(sorted(caller.permissions)),
            acting_for=caller.acting_for,
        )

    async def create_workspace(self, call: Call, request: CreateWorkspace) -> Workspace:
        """Create a workspace; whoever administers the organization administers it."""
        workspace = StoredWorkspace(WorkspaceId.new(), request.name, self._clock())
        call.note(targets=(workspace.id,))
        async with self._store.change(call) as rows:
            await rows.add_workspace(workspace)
        return _workspace(workspace)

    async def list_workspaces(self, call: Call, request: ListWorkspaces) -> Workspaces:
        """List the organization's workspaces."""
        async with self._store.transaction(call.tenant, read_only=True) as rows:
            found = await rows.workspaces(after=request.after, limit=request.limit)
        return Workspaces(workspaces=tuple(_workspace(workspace) for workspace in found))

    async def create_user(self, call: Call, request: CreateUser) -> PrincipalInfo:
        """Create a user of the organization, with a level in the caller's scope."""
        level, user_id = Level.of(request.level), UserId.new()
        user = user_of(user_id, call.caller.organization, request.email, self._clock())
        _check_grant(call, level, user_id)  # before the password costs anything
        password_hash = await self._passwords.hash(request.password)
        try:
            async with self._store.change(call) as rows:
                await self._add(call, rows, user, level)
                await rows.add_password(user_id, password_hash)
        except ConstraintConflict:
            raise AddressTaken from None
        return _info(user, call.caller.scope, level)

    async def create_agent(self, call: Call, request: CreateAgent) -> PrincipalInfo:
        """Create an agent of the caller's workspace."""
        return await self._create(call, AgentId.new(), request.name, request.level)

    async def create_service_account(self, call: Call, request: CreateServiceAccount) -> PrincipalInfo:
        """Create a service account that is at home in the caller's scope."""
        return await self._create(call, ServiceId.new(), request.name, request.level)

    async def list_principals(self, call: Call, request: ListPrincipals) -> Principals:
        """List who can act in the caller's scope."""
        async with self._store.transaction(call.tenant, read_only=True) as rows:
            found = await rows.members(call.caller.scope, after=request.after, limit=request.limit)
        return Principals(principals=tuple(_info(member.principal, member.scope, member.level) for member in found))

    async def set_level(self, call: Call, request: SetLevel) -> PrincipalInfo:
        """Set what a principal may do in the caller's scope. Tokens that say more are refused from then on."""
        caller, level, now = call.caller, Level.of(request.level), self._clock()
        _check_grant(call, level, request.principal)
        async with self._store.change(call) as rows:
            owners = await rows.lock_owners()
            principal = await rows.principal(request.principal)
            if principal is None or principal.revoked_at is not None:
                raise NoSuchPrincipal
            if not may_be_member(principal, caller.scope):
                raise NotAtHome
            levels = await rows.levels(principal.id, caller.scope)
            before = level_in(caller.scope, levels)
            if not may_rule_over(holder_of(call), before):
                raise BeyondOwnRights("You cannot change the level of somebody who holds a higher one than you.")
            if caller.workspace is None and level is not Level.OWNER and owners == {principal.id}:
                raise LastOwner
            await rows.set_level(principal.id, level)
            is_less = before is not None and level < before
            if is_less:
                await rows.note_revocation(principal.id, now)
            call.note(before=None if before is None else before.label)
        if is_less:
            await self._notices.announce(principal.id, now)
        organization = level if caller.workspace is None else levels.organization
        now_held = level_in(caller.scope, Levels(direct=level, organization=organization))
        return _info(principal, caller.scope, now_held if now_held is not None else level)

    async def create_key(self, call: Call, request: CreateKey) -> CreatedKey:
        """Make an API key for somebody who can act in the caller's scope; it reaches no more than the caller does."""
        caller, holder, now = call.caller, holder_of(call), self._clock()
        if isinstance(request.principal, UserId):
            raise InvalidRequest(violations=(_violation("principal", "users log in; make a service account instead"),))
        listed = None if request.permissions is None else frozenset(request.permissions)
        _check_listed(listed, request.principal)
        async with self._store.change(call) as rows:
            principal = await rows.principal(request.principal)
            level = level_in(caller.scope, await rows.levels(request.principal, caller.scope))
            if principal is None or level is None:
                raise NoSuchPrincipal
            if not may_rule_over(holder, level):
                raise BeyondOwnRights("Whoever has a key acts as its principal, and this one holds more than you.")
            _check_usable(listed, level, principal.id)
            if listed is None:
                _check_grant(call, level, principal.id)
            elif not holds(holder, listed):
                missing = ", ".join(sorted(listed - holder.permissions))
                raise BeyondOwnRights(f"You do not hold {missing}, so a key of yours cannot either.")
            key = ApiKey(
                organization=caller.organization,
                scope=caller.scope,
                principal=principal.id,
                id=KeyId.new(),
                secret=self._randomness(SECRET_BYTES),
            )
            stored = StoredKey(
                id=key.id,
                scope=key.scope,
                principal=key.principal,
                name=request.name,
                secret_hash=digest(key.secret),
                permissions=listed,
                granting=listed is not None and lists_what_it_grants(level),
                ceiling=ceiling_for(holder, principal.id),
                created_at=now,
                expires_at=now + timedelta(days=request.lifetime_days),
            )
            call.note(targets=(key.id,), permissions=None if listed is None else " ".join(sorted(listed)))
            await rows.add_key(stored)
        return CreatedKey(id=key.id, api_key=key.encode(), expires_at=stored.expires_at)

    async def list_keys(self, call: Call, request: ListKeys) -> Keys:
        """List the keys of the caller's scope."""
        async with self._store.transaction(call.tenant, read_only=True) as rows:
            found = await rows.keys(
                call.caller.scope, principal=request.principal, after=request.after, limit=request.limit
            )
        return Keys(keys=tuple(_key_info(key) for key in found))

    async def _create(self, call: Call, principal: AgentId | ServiceId, name: str, level_name: str) -> PrincipalInfo:
        level = Level.of(level_name)
        _check_grant(call, level, principal)
        stored = StoredPrincipal(principal, call.caller.scope, name, self._clock())
        async with self._store.change(call) as rows:
            await self._add(call, rows, stored, level)
        return _info(stored, call.caller.scope, level)

    async def _add(self, call: Call, rows: Identities, principal: StoredPrincipal, level: Level) -> None:
        call.note(targets=(principal.id,))
        await rows.add_principal(principal)
        await rows.add_level(principal.id, level)


def holder_of(call: Call) -> Holder:
    """Return the caller with what it holds."""
    caller = call.caller
    return Holder(caller.principal, caller.level, caller.permissions)


def _check_grant(call: Call, level: Level, principal: Principal) -> None:
    if not may_grant_level(holder_of(call), level, principal):
        raise BeyondOwnRights(f"You do not hold everything that the level {level.label} brings, so you cannot give it.")


def _check_listed(listed: frozenset[str] | None, principal: Principal) -> None:
    unknown = unknown_permissions(sorted(listed or ()), principal)
    if unknown:
        raise InvalidRequest(
            violations=tuple(
                _violation("permissions", f"{name}: no operation needs it, or not of this kind of principal")
                for name in unknown
            )
        )


def _check_usable(listed: frozenset[str] | None, level: Level, principal: Principal) -> None:
    beyond = beyond_level(listed or (), level, principal)
    if beyond:
        raise InvalidRequest(
            violations=tuple(
                _violation("permissions", f"{name}: the principal's own level, {level.label}, does not hold it")
                for name in beyond
            )
        )


def _violation(field: str, message: str) -> Violation:
    return Violation(pointer=f"/{field}", message=message)


def _workspace(workspace: StoredWorkspace) -> Workspace:
    return Workspace(id=workspace.id, name=workspace.name, created_at=workspace.created_at)


def _info(principal: StoredPrincipal, scope: Scope, level: Level) -> PrincipalInfo:
    return PrincipalInfo(
        id=principal.id, name=principal.name, scope=scope, level=level.label, created_at=principal.created_at
    )


def _key_info(key: StoredKey) -> KeyInfo:
    return KeyInfo(
        id=key.id,
        principal=key.principal,
        name=key.name,
        permissions=None if key.permissions is None else tuple(sorted(key.permissions)),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )
