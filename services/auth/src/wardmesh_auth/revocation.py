"""Revoking: first it is true, then it is known, then live connections are dropped.

What always holds: the rows are the truth. They say that something is revoked before anybody is told, so that a crash
at any point leaves nothing that works and is believed to be revoked, and nothing issued anew. `Reconciler` then tells
the mesh what a crash kept from being told.

On failure: `OutcomeUnknown` if the mesh could not be told: the operation is idempotent, so it is to be sent again;
the reconciler tells it meanwhile. That connections could not be dropped is logged and audited, not raised: their
requests are refused by every gate from here on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from wardmesh.contracts.auth import Revoked, RevokeKey, RevokePrincipal
from wardmesh.contracts.operation import Level
from wardmesh.errors import OutcomeUnknown, WardmeshError
from wardmesh.ids import KeyId, OrgId, Principal, SessionId
from wardmesh.server.context import Call
from wardmesh.server.tenant import TenantContext
from wardmesh_auth.connections import ConnectionsError
from wardmesh_auth.domain import ACCESS_TOKEN_LIFETIME, StoredSession, may_rule_over
from wardmesh_auth.errors import BeyondOwnRights, LastOwner, NoSuchKey, NoSuchPrincipal, NotAtHome
from wardmesh_auth.ports import IdentityStore, LiveConnections, RevocationBoard, RevocationLedger
from wardmesh_auth.service import holder_of
from wardmesh_auth.sessions import OPEN_SESSION

KNOWN_FOR: Final = ACCESS_TOKEN_LIFETIME + timedelta(minutes=5)
"""How long a revocation must be known: as long as a token that was issued before it lives, and room for clocks."""
RECONCILE_SECONDS: Final = 15.0
FORGET_AFTER: Final = timedelta(days=1)

_log = logging.getLogger(__name__)


class Announcer:
    """Tells the mesh what is revoked, and drops connections."""

    def __init__(self, board: RevocationBoard, connections: LiveConnections) -> None:
        self._board = board
        self._connections = connections

    async def announce(self, identifier: KeyId | SessionId | Principal, at: datetime) -> None:
        """Make every gate refuse what was issued to `identifier` until then."""
        await self._board.post(identifier, at)

    async def drop(self, principal: Principal) -> int:
        """Drop a principal's live connections; whoever still has a good credential comes back at once."""
        try:
            return await self._connections.drop(principal)
        except ConnectionsError:
            _log.error("live connections could not be dropped")
            return 0


class RevocationService:
    """Revokes keys, principals and sessions."""

    def __init__(self, store: IdentityStore, announcer: Announcer, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._announcer = announcer
        self._clock = clock

    async def revoke_key(self, call: Call, request: RevokeKey) -> Revoked:
        """Revoke a key of the caller's scope."""
        async with self._store.change(call) as rows:
            key = await rows.key(request.key)
            if key is None or key.scope != call.caller.scope:
                raise NoSuchKey
            call.note(targets=(key.principal,))
            revoked_at = await rows.revoke_key(key.id, self._clock())
            await rows.note_revocation(key.id, revoked_at)
        return await self._tell(key.id, key.principal, revoked_at)

    async def revoke_principal(self, call: Call, request: RevokePrincipal) -> Revoked:
        """Revoke a principal that is at home in the caller's scope, or in a workspace of the caller's organization."""
        caller = call.caller
        async with self._store.change(call) as rows:
            owners = await rows.lock_owners()
            principal = await rows.principal(request.principal)
            if principal is None:
                raise NoSuchPrincipal
            if caller.workspace is not None and principal.home != caller.workspace:
                raise NotAtHome
            highest = await rows.highest_level(principal.id)
            if not may_rule_over(holder_of(call), highest):
                raise BeyondOwnRights("You cannot revoke somebody who holds a higher level than you.")
            if highest is Level.OWNER and owners == {principal.id}:
                raise LastOwner
            revoked_at = await rows.revoke_principal(principal.id, self._clock())
            await rows.note_revocation(principal.id, revoked_at)
        return await self._tell(principal.id, principal.id, revoked_at)

    async def end_session(self, organization: OrgId, session: StoredSession) -> None:
        """Revoke a session whose refresh token came back."""
        tenant = TenantContext(organization, None, session.user, OPEN_SESSION)
        async with self._store.transaction(tenant, read_only=False) as rows:
            revoked_at = await rows.revoke_session(session.id, self._clock())
            await rows.note_revocation(session.id, revoked_at)
        try:
            await self._tell(session.id, session.user, revoked_at)
        except OutcomeUnknown:
            # The caller is refused in any case; the reconciler tells the others.
            _log.warning("a session's end is not known everywhere yet")

    async def _tell(
        self, identifier: KeyId | SessionId | Principal, principal: Principal, revoked_at: datetime
    ) -> Revoked:
        await self._announcer.announce(identifier, revoked_at)
        return Revoked(revoked_at=revoked_at, connections_closed=await self._announcer.drop(principal))


class Reconciler:
    """Tells the mesh what the rows say and the board does not: after a crash, or after the board was lost."""

    def __init__(
        self,
        ledger: RevocationLedger,
        board: RevocationBoard,
        posted: Mapping[str, float],
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._board = board
        self._posted = posted
        self._clock = clock

    async def run(self) -> None:
        """Reconcile now, and every `RECONCILE_SECONDS` from then on."""
        while True:
            try:
                await self.reconcile()
            except WardmeshError as error:
                _log.warning("revocations could not be reconciled, will try again: %s", error.code)
            await asyncio.sleep(RECONCILE_SECONDS)

    async def reconcile(self) -> int:
        """Post what is missing; return how many."""
        now = self._clock()
        missing = {
            identifier: revoked_at
            for identifier, revoked_at in (await self._ledger.since(now - KNOWN_FOR)).items()
            if self._posted.get(identifier, 0.0) < revoked_at.timestamp()
        }
        for identifier, revoked_at in missing.items():
            await self._board.post(identifier, revoked_at)
        await self._ledger.forget_before(now - FORGET_AFTER)
        return len(missing)
