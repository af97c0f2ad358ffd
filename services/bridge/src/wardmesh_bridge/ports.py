"""What the bridge needs from outside: a store. Every implementation passes tests/test_store_contract.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from wardmesh.contracts.audit import AuditEvent
from wardmesh.contracts.bridge import Agreement, SignedMessage
from wardmesh.ids import AgreementId, WorkspaceId
from wardmesh.server.context import Call
from wardmesh_bridge.domain import Admission, DeadLetter, StoredKey


class BridgeTransaction(Protocol):
    """One workspace's view, inside one transaction: nothing to which it is no side is seen or changed."""

    async def agreement(self, agreement: AgreementId) -> Agreement | None:
        """Return an agreement to which this workspace is a side."""

    async def live_agreement(self, other: WorkspaceId) -> Agreement | None:
        """Return the agreement with `other` that is not revoked, whoever proposed it."""

    async def agreements(self, *, after: AgreementId | None, limit: int) -> Sequence[Agreement]:
        """Return agreements in the order of their ids, which is that of their proposal; those behind `after`."""

    async def propose(self, agreement: AgreementId, target: WorkspaceId, now: datetime) -> bool:
        """Offer `target` an agreement; return False, and do nothing, if there is one that is not revoked."""

    async def accept(self, agreement: AgreementId, now: datetime) -> bool:
        """Accept what was offered to this workspace; return False if there is nothing to accept (any more)."""

    async def revoke(self, agreement: AgreementId, now: datetime) -> bool:
        """End an agreement, from either side; return False if it has ended."""

    async def add_key(self, agreement: AgreementId, key: StoredKey) -> None:
        """Add a key to an agreement that this workspace has accepted."""

    async def key(self, agreement: AgreementId, key_id: str) -> StoredKey | None:
        """Return a key of the agreement by its id."""

    async def present_key(self, agreement: AgreementId) -> StoredKey | None:
        """Return the newest key of the agreement."""

    async def admission(self, message: SignedMessage) -> Admission | None:
        """Return what was admitted under the message's agreement, key id and nonce."""

    async def admit(self, message: SignedMessage, now: datetime) -> bool:
        """Admit a message of this workspace; return False if its nonce or its id was used before.

        MUST wait for a transaction under way that uses the same, and MUST NOT let two succeed.
        """

    async def settle(self, message: SignedMessage, now: datetime) -> bool:
        """Mark a message to this workspace as dealt with; return False if it was already."""

    async def forget(self) -> None:
        """Drop some of this workspace's admissions that nobody can send again."""

    async def bury(self, letter: DeadLetter, now: datetime) -> None:
        """Keep a message to this workspace that was refused."""

    async def forward(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """Publish to a stream if, and only if, the transaction commits."""

    async def record(self, workspace: WorkspaceId, event: AuditEvent) -> None:
        """Write to a workspace's audit log if, and only if, the transaction commits."""


class BridgeStore(Protocol):
    """Where the bridge's rows are.

    When a block ends without an exception, everything in it MUST be durable, together with the call's audit event where
    the contract says IN_TRANSACTION. When it raises, nothing of it MUST be.
    """

    def transaction(self, call: Call, *, read_only: bool = False) -> AbstractAsyncContextManager[BridgeTransaction]:
        """Run the block in a transaction of the caller's workspace."""

    def as_receiver(self, workspace: WorkspaceId) -> AbstractAsyncContextManager[BridgeTransaction]:
        """Run the block in a transaction of the workspace that a message is for; the bridge itself acts."""
