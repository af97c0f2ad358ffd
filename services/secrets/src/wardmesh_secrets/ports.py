"""What the vault needs from outside: a store. (Who keeps the key encryption key: `wardmesh.server.kek`.)

Every implementation of `VaultStore` passes tests/test_store_contract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from wardmesh.contracts.secrets import Grant, SecretInfo
from wardmesh.ids import Principal
from wardmesh.server.context import Call
from wardmesh_secrets.domain import SealedVersion, StoredScopeKey, StoredSealingKey, StoredVersion


class VaultTransaction(Protocol):
    """The caller's workspace, inside one transaction. No method sees or changes another workspace's rows."""

    async def present_sealing_key(self) -> StoredSealingKey | None:
        """Return the key that values are to be sealed to now, if there is one yet."""

    async def sealing_key(self, key_id: str) -> StoredSealingKey | None:
        """Return a key by its id, also one that is retired: what was sealed to it is still on its way."""

    async def add_sealing_key(self, key: StoredSealingKey) -> None:
        """Make `key` the present one. MUST leave the first if somebody else was faster, and not raise."""

    async def scope_key(self) -> StoredScopeKey | None:
        """Return the newest generation, if there is one yet."""

    async def add_scope_key(self, key: StoredScopeKey) -> None:
        """Add a generation. MUST leave the first if somebody else was faster, and not raise."""

    async def next_version(self, path: str, now: datetime) -> int:
        """Return the number of a new version of `path`, which MUST be no other transaction's. The first is 1."""

    async def add_version(self, path: str, version: int, sealed: SealedVersion, now: datetime) -> None:
        """Store a version under the number that `next_version` returned."""

    async def version(self, path: str, version: int | None) -> StoredVersion | None:
        """Return that version of `path`, or the newest; None if there is none."""

    async def secrets(
        self, *, prefix: str, after: str | None, limit: int, readable_by: Principal | None
    ) -> Sequence[SecretInfo]:
        """Return paths that begin with `prefix`, in the order of their bytes, those behind `after`.

        With `readable_by`, only paths that a grant of this principal covers (`domain.covers`).
        """

    async def holds_grant(self, principal: Principal, patterns: Sequence[str]) -> bool:
        """Tell whether `principal` was granted one of exactly these patterns."""

    async def add_grant(self, pattern: str, principal: Principal, now: datetime) -> Grant:
        """Grant and return the grant; if it is there already, leave it as it is and return that."""

    async def remove_grant(self, pattern: str, principal: Principal) -> bool:
        """Take a grant back, and tell whether there was one."""

    async def grants(self, *, principal: Principal | None, limit: int) -> Sequence[Grant]:
        """Return the workspace's grants, or one principal's, in the order of principal and pattern."""


class VaultStore(Protocol):
    """Where the vault's rows are."""

    def transaction(self, call: Call, *, read_only: bool = False) -> AbstractAsyncContextManager[VaultTransaction]:
        """Run the block in a transaction of the caller's workspace.

        When the block ends without an exception, everything in it MUST be durable, together with the call's audit
        event where the contract says IN_TRANSACTION. When it raises, nothing of it MUST be.
        """
