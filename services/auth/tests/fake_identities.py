"""A complete store in memory, and the other things that auth needs from outside; each can be made to fail."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import Durability, Level
from wardmesh.errors import OutcomeUnknown
from wardmesh.ids import KeyId, OrgId, Principal, Scope, SessionId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.database_errors import ConstraintConflict
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.connections import ConnectionsError
from wardmesh_auth.domain import (
    INHERITED_FROM,
    KEPT_GENERATIONS,
    Levels,
    Member,
    StoredKey,
    StoredPassword,
    StoredPrincipal,
    StoredRefreshToken,
    StoredSession,
    StoredWorkspace,
)


@dataclass
class Rows:
    """What one organization has."""

    name: str | None = None
    workspaces: dict[str, StoredWorkspace] = field(default_factory=dict)
    principals: dict[str, StoredPrincipal] = field(default_factory=dict)
    levels: dict[tuple[str, str], Level] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    keys: dict[str, StoredKey] = field(default_factory=dict)
    sessions: dict[str, StoredSession] = field(default_factory=dict)
    tokens: dict[tuple[str, bytes], StoredRefreshToken] = field(default_factory=dict)
    revocations: dict[str, datetime] = field(default_factory=dict)


class FakeIdentities:
    """One transaction on `Rows`."""

    def __init__(self, rows: Rows, tenant: TenantContext) -> None:
        self._rows = rows
        self._organization = tenant.org_id
        self._workspace = tenant.workspace_id
        self._scope: Scope = tenant.workspace_id or tenant.org_id

    def _sees(self, scope: Scope | str) -> bool:
        return self._workspace is None or scope == self._workspace

    def _is_live(self, principal: str) -> bool:
        found = self._rows.principals.get(principal)
        return found is not None and found.revoked_at is None

    async def add_organization(self, organization: OrgId, name: str, now: datetime) -> None:
        assert organization == self._organization
        self._rows.name = name

    async def has_organization(self) -> bool:
        return self._rows.name is not None

    async def add_workspace(self, workspace: StoredWorkspace) -> None:
        self._rows.workspaces[workspace.id] = workspace

    async def has_workspace(self, workspace: WorkspaceId) -> bool:
        return workspace in self._rows.workspaces and self._sees(workspace)

    async def workspaces(self, *, after: WorkspaceId | None, limit: int) -> Sequence[StoredWorkspace]:
        found = _page(self._rows.workspaces, after, len(self._rows.workspaces))
        return [workspace for workspace in found if self._sees(workspace.id)][:limit]

    async def add_principal(self, principal: StoredPrincipal) -> None:
        taken = {each.email for each in self._rows.principals.values() if each.email is not None}
        if principal.id in self._rows.principals or principal.email in taken:
            raise ConstraintConflict("principals_org_id_email_key")
        self._rows.principals[principal.id] = principal

    async def principal(self, principal: Principal) -> StoredPrincipal | None:
        return self._rows.principals.get(principal)

    async def revoke_principal(self, principal: Principal, now: datetime) -> datetime:
        found = self._rows.principals[principal]
        revoked_at = found.revoked_at or now
        self._rows.principals[principal] = replace(found, revoked_at=revoked_at)
        for key_id, key in self._rows.keys.items():
            if key.principal == principal and self._sees(key.scope):
                self._rows.keys[key_id] = replace(key, revoked_at=key.revoked_at or now)
        for session_id, session in self._rows.sessions.items():
            if session.user == principal:
                self._rows.sessions[session_id] = replace(session, revoked_at=session.revoked_at or now)
        return revoked_at

    async def levels(self, principal: Principal, scope: Scope) -> Levels:
        is_ours = scope == self._organization or (scope in self._rows.workspaces and self._sees(scope))
        if not is_ours or not self._is_live(principal):
            return Levels()
        return Levels(self._rows.levels.get((scope, principal)), self._rows.levels.get((self._organization, principal)))

    async def highest_level(self, principal: Principal) -> Level | None:
        visible = [
            level
            for (scope, who), level in self._rows.levels.items()
            if who == principal and (self._sees(scope) or scope == self._organization)
        ]
        return max(visible, default=None)

    async def add_level(self, principal: Principal, level: Level) -> None:
        assert (self._scope, principal) not in self._rows.levels
        self._rows.levels[self._scope, principal] = level

    async def set_level(self, principal: Principal, level: Level) -> None:
        self._rows.levels[self._scope, principal] = level

    async def members(self, scope: Scope, *, after: Principal | None, limit: int) -> Sequence[Member]:
        best: dict[str, Member] = {}
        for (held_in, who), level in self._rows.levels.items():
            counts = held_in == scope or (held_in == self._organization and level >= INHERITED_FROM)
            if not counts or not self._is_live(who) or (after is not None and who <= after):
                continue
            member = Member(self._rows.principals[who], _scope(held_in), level)
            before = best.get(who)
            if before is None or (level, held_in == scope) > (before.level, before.scope == scope):
                best[who] = member
        return [best[who] for who in sorted(best)][:limit]

    async def lock_owners(self) -> frozenset[Principal]:
        return frozenset(
            self._rows.principals[who].id
            for (scope, who), level in self._rows.levels.items()
            if scope == self._organization and level is Level.OWNER and self._is_live(who)
        )

    async def add_password(self, user: UserId, password_hash: str) -> None:
        self._rows.passwords[user] = password_hash

    async def password_of(self, email: str) -> StoredPassword | None:
        for principal in self._rows.principals.values():
            if principal.email == email and principal.id in self._rows.passwords:
                user = UserId.parse(principal.id)
                return StoredPassword(user, self._rows.passwords[user], principal.revoked_at is not None)
        return None

    async def add_key(self, key: StoredKey) -> None:
        assert key.scope == self._scope
        self._rows.keys[key.id] = key

    async def key(self, key: KeyId) -> StoredKey | None:
        found = self._rows.keys.get(key)
        return found if found is not None and self._sees(found.scope) else None

    async def keys(
        self, scope: Scope, *, principal: Principal | None, after: KeyId | None, limit: int
    ) -> Sequence[StoredKey]:
        return [
            key
            for key in _page(self._rows.keys, after, len(self._rows.keys))
            if key.scope == scope and self._sees(scope) and (principal is None or key.principal == principal)
        ][:limit]

    async def revoke_key(self, key: KeyId, now: datetime) -> datetime:
        found = self._rows.keys[key]
        revoked_at = found.revoked_at or now
        self._rows.keys[key] = replace(found, revoked_at=revoked_at)
        return revoked_at

    async def add_session(self, session: StoredSession) -> None:
        self._rows.sessions[session.id] = session

    async def lock_session(self, session: SessionId) -> StoredSession | None:
        return self._rows.sessions.get(session)

    async def begin_generation(self, session: SessionId, generation: int, now: datetime) -> None:
        found = self._rows.sessions[session]
        self._rows.sessions[session] = replace(found, generation=generation, siblings=1, rotated_at=now)
        old = generation - KEPT_GENERATIONS
        for key, token in list(self._rows.tokens.items()):
            if key[0] == session and token.generation < old:
                del self._rows.tokens[key]

    async def add_sibling(self, session: SessionId) -> None:
        found = self._rows.sessions[session]
        self._rows.sessions[session] = replace(found, siblings=found.siblings + 1)

    async def revoke_session(self, session: SessionId, now: datetime) -> datetime:
        found = self._rows.sessions[session]
        revoked_at = found.revoked_at or now
        self._rows.sessions[session] = replace(found, revoked_at=revoked_at)
        return revoked_at

    async def add_refresh_token(self, session: SessionId, token_hash: bytes, token: StoredRefreshToken) -> None:
        self._rows.tokens[session, token_hash] = token

    async def refresh_token(self, session: SessionId, token_hash: bytes) -> StoredRefreshToken | None:
        return self._rows.tokens.get((session, token_hash))

    async def note_revocation(self, identifier: KeyId | SessionId | Principal, at: datetime) -> None:
        before = self._rows.revocations.get(identifier)
        self._rows.revocations[identifier] = at if before is None else max(before, at)


class FakeStore:
    """Identities in memory: transactions one after another, all or nothing. `failure` is raised at the next commit."""

    def __init__(self) -> None:
        self.organizations: dict[str, Rows] = defaultdict(Rows)
        self.audited: list[tuple[Scope, AuditEvent]] = []
        self.failure: Exception | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def change(self, call: Call) -> AsyncIterator[FakeIdentities]:
        async with self.transaction(call.tenant, read_only=False) as rows:
            yield rows
        if call.contract.audit.durability is Durability.IN_TRANSACTION:
            self.audited.append((call.audit_scope, call.audit_event(Outcome.SUCCESS, None)))

    @asynccontextmanager
    async def transaction(self, tenant: TenantContext, *, read_only: bool) -> AsyncIterator[FakeIdentities]:
        async with self._lock:
            rows = copy.deepcopy(self.organizations[tenant.org_id])
            yield FakeIdentities(rows, tenant)
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            if not read_only:
                self.organizations[tenant.org_id] = rows


class FakeLedger:
    """All tenants' revocations, out of a `FakeStore`."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def since(self, moment: datetime) -> Mapping[str, datetime]:
        return {
            identifier: at
            for rows in self._store.organizations.values()
            for identifier, at in rows.revocations.items()
            if at >= moment
        }

    async def forget_before(self, moment: datetime) -> None:
        for rows in self._store.organizations.values():
            rows.revocations = {identifier: at for identifier, at in rows.revocations.items() if at >= moment}


class FakeBoard:
    """Where revocations are read; `is_down` refuses to take any."""

    def __init__(self) -> None:
        self.posted: dict[str, float] = {}
        self.is_down = False

    async def post(self, identifier: str, at: datetime) -> None:
        if self.is_down:
            raise OutcomeUnknown
        self.posted[identifier] = max(self.posted.get(identifier, 0.0), at.timestamp())


class FakeConnections:
    """Live connections by principal; `is_down` finds nobody to ask."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.is_down = False

    async def drop(self, principal: Principal) -> int:
        if self.is_down:
            raise ConnectionsError("no broker answered")
        return self.live.pop(principal, 0)


class FakePasswords:
    """Passwords without the cost; counts what was computed."""

    def __init__(self) -> None:
        self.computed = 0

    async def hash(self, password: str) -> str:
        self.computed += 1
        return f"$argon2id$fake${password}"

    async def check(self, stored: str | None, password: str) -> bool:
        self.computed += 1
        return stored == f"$argon2id$fake${password}"


class FakeAudit:
    """Audit events that were queued."""

    def __init__(self) -> None:
        self.events: list[tuple[Scope, AuditEvent]] = []

    async def enqueue(self, scope: Scope, event: AuditEvent, *, trace_parent: str | None = None) -> None:
        self.events.append((scope, event))

    async def emit(self, scope: Scope, events: Iterable[AuditEvent], *, trace_parent: str | None = None) -> None:
        self.events.extend((scope, event) for event in events)


def _page(rows: Mapping[str, object], after: str | None, limit: int) -> list:  # type: ignore[type-arg]
    return [rows[identifier] for identifier in sorted(rows) if after is None or identifier > after][:limit]


def _scope(text: str) -> Scope:
    return OrgId.parse(text) if text.startswith(OrgId.prefix) else WorkspaceId.parse(text)
