"""What auth needs from outside: a store, and ways to make a revocation known.

Every implementation of `IdentityStore` passes tests/test_store_contract.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from wardmesh.contracts.operation import Level
from wardmesh.ids import KeyId, OrgId, Principal, Scope, SessionId, UserId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.domain import (
    Levels,
    Member,
    StoredKey,
    StoredPassword,
    StoredPrincipal,
    StoredRefreshToken,
    StoredSession,
    StoredWorkspace,
)


class Identities(Protocol):
    """One organization, inside one transaction. No method sees or changes another organization's rows."""

    async def add_organization(self, organization: OrgId, name: str, now: datetime) -> None: ...

    async def has_organization(self) -> bool:
        """Tell whether the transaction's organization exists."""

    async def add_workspace(self, workspace: StoredWorkspace) -> None: ...

    async def has_workspace(self, workspace: WorkspaceId) -> bool:
        """Tell whether the organization has that workspace."""

    async def workspaces(self, *, after: WorkspaceId | None, limit: int) -> Sequence[StoredWorkspace]:
        """Return workspaces in the order of their ids, those behind `after`."""

    async def add_principal(self, principal: StoredPrincipal) -> None:
        """Add a principal. MUST raise `ConstraintConflict` if the organization has a user with the same address."""

    async def principal(self, principal: Principal) -> StoredPrincipal | None: ...

    async def revoke_principal(self, principal: Principal, now: datetime) -> datetime:
        """Revoke a principal with its keys and sessions; return since when it is revoked.

        What was revoked before keeps its time.
        """

    async def levels(self, principal: Principal, scope: Scope) -> Levels:
        """Return what a principal that is not revoked holds in `scope` and in the organization.

        MUST return no level at all for a scope that is not the organization or one of its workspaces: else whoever
        administers one organization could ask for a token of another's workspace.
        """

    async def highest_level(self, principal: Principal) -> Level | None:
        """Return the highest level that a principal holds in any scope that the transaction may see."""

    async def add_level(self, principal: Principal, level: Level) -> None:
        """Give a new principal its first level, in the transaction's scope."""

    async def set_level(self, principal: Principal, level: Level) -> None:
        """Set what a principal holds in the transaction's scope."""

    async def members(self, scope: Scope, *, after: Principal | None, limit: int) -> Sequence[Member]:
        """Return who holds a level that counts in `scope`, without the revoked, in the order of their ids."""

    async def lock_owners(self) -> frozenset[Principal]:
        """Return who owns the organization, without the revoked.

        MUST keep everybody else who asks waiting until the transaction ends: two owners can't remove each other.
        """

    async def add_password(self, user: UserId, password_hash: str) -> None: ...

    async def password_of(self, email: str) -> StoredPassword | None:
        """Return the password of the user with that address."""

    async def add_key(self, key: StoredKey) -> None: ...

    async def key(self, key: KeyId) -> StoredKey | None: ...

    async def keys(
        self, scope: Scope, *, principal: Principal | None, after: KeyId | None, limit: int
    ) -> Sequence[StoredKey]:
        """Return the keys for exactly `scope`, in the order of their ids."""

    async def revoke_key(self, key: KeyId, now: datetime) -> datetime:
        """Revoke a key; return since when it is revoked."""

    async def add_session(self, session: StoredSession) -> None: ...

    async def lock_session(self, session: SessionId) -> StoredSession | None:
        """Return a session. MUST keep everybody else who asks for it waiting until the transaction ends."""

    async def begin_generation(self, session: SessionId, generation: int, now: datetime) -> None:
        """Make `generation` the present one, with one token; forget tokens of `KEPT_GENERATIONS` ago."""

    async def add_sibling(self, session: SessionId) -> None:
        """Count one more token of the present generation."""

    async def revoke_session(self, session: SessionId, now: datetime) -> datetime:
        """Revoke a session; return since when it is revoked."""

    async def add_refresh_token(self, session: SessionId, token_hash: bytes, token: StoredRefreshToken) -> None: ...

    async def refresh_token(self, session: SessionId, token_hash: bytes) -> StoredRefreshToken | None:
        """Return a token of that session by the digest of its secret, also one that is spent."""

    async def note_revocation(self, identifier: KeyId | SessionId | Principal, at: datetime) -> None:
        """Write down what every process must be told. An earlier time of the same id is replaced by a later one."""


class IdentityStore(Protocol):
    """Where the rows are."""

    def change(self, call: Call) -> AbstractAsyncContextManager[Identities]:
        """Run the block in a transaction on behalf of the call's caller.

        When the block ends without an exception, everything in it MUST be durable, together with the call's audit
        event where the contract says IN_TRANSACTION. When it raises, nothing of it MUST be.
        """

    def transaction(self, tenant: TenantContext, *, read_only: bool) -> AbstractAsyncContextManager[Identities]:
        """Run the block in a transaction of `tenant` that leaves no audit event by itself."""


class RevocationLedger(Protocol):
    """All tenants' revocations, as they were written down with `note_revocation`."""

    async def since(self, moment: datetime) -> Mapping[str, datetime]:
        """Return what was revoked from then on."""

    async def forget_before(self, moment: datetime) -> None:
        """Drop what was revoked before."""


class RevocationBoard(Protocol):
    """Where every process of the mesh reads what is revoked."""

    async def post(self, identifier: str, at: datetime) -> None:
        """Make a revocation known. MUST NOT return before it is durable; MUST raise `OutcomeUnknown` otherwise."""


class LiveConnections(Protocol):
    """The connections that clients hold to the brokers."""

    async def drop(self, principal: Principal) -> int:
        """Drop a principal's connections and return how many there were."""
