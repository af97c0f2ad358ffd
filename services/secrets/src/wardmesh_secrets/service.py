"""The vault's use cases.

What always holds:
- A value leaves only as bytes sealed to the key in the caller's own access token, bound to this one request. Where
  there is no such key, the store is not even asked.
- Who may not read a path gets one answer, whether there is something at the path or not.
- No value is put into a message, an exception, a log line or an audit event.
- `get` releases nothing by itself: the gates answer it only after its audit event is durable (BEFORE_ANSWER).

On failure: the errors of `wardmesh_secrets.errors`; those of the store and of the key's keeper pass through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from wardmesh.contracts.operation import Empty
from wardmesh.contracts.secrets import (
    MAX_VALUE_BYTES,
    GetSecret,
    Grant,
    Grants,
    GrantSecret,
    ListGrants,
    ListSecrets,
    PutSecret,
    RevokeGrant,
    SealedSecret,
    SealingKey,
    Secrets,
    SecretVersion,
)
from wardmesh.crypto import errors as crypto_errors
from wardmesh.crypto import vault
from wardmesh.crypto.sealing import seal_to
from wardmesh.errors import ScopeMismatch
from wardmesh.server.context import Call
from wardmesh_secrets.crypto import Keyring
from wardmesh_secrets.domain import Owner, Place, StoredScopeKey, patterns_covering, reads_all, sees_all_names
from wardmesh_secrets.errors import (
    NoHolderKey,
    NoSuchSecret,
    NotGranted,
    NotSealedForThis,
    StoredUnopenable,
    ValueTooLarge,
)
from wardmesh_secrets.ports import VaultStore, VaultTransaction

FIRST_GENERATION: Final = 1

_log = logging.getLogger(__name__)


class VaultService:
    """One method an operation; each owns its transaction."""

    def __init__(self, store: VaultStore, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._keyring = keyring
        self._clock = clock

    async def sealing_key(self, call: Call, _request: Empty) -> SealingKey:
        """Return the key that values are to be sealed to; the first to ask makes it."""
        async with self._store.transaction(call, read_only=True) as rows:
            key = await rows.present_sealing_key()
        if key is None:
            fresh = await self._keyring.new_sealing_key(_owner(call), self._clock())
            async with self._store.transaction(call) as rows:
                await rows.add_sealing_key(fresh)
                key = await rows.present_sealing_key() or fresh
        return SealingKey(key_id=key.key_id, public_key=key.public_key)

    async def put(self, call: Call, request: PutSecret) -> SecretVersion:
        """Open what was sealed to the vault, and store it as the path's next version."""
        owner, now = _owner(call), self._clock()
        info = vault.put_info(
            workspace=owner.workspace,
            principal=call.caller.principal,
            path=request.path,
            key_id=request.key_id,
            request_id=call.request_id,
        )
        async with self._store.transaction(call) as rows:
            sealing_key = await rows.sealing_key(request.key_id)
            if sealing_key is None:
                raise NotSealedForThis
            async with self._keyring.received(sealing_key, owner, request.sealed, info) as value:
                if len(value) > MAX_VALUE_BYTES:
                    raise ValueTooLarge(f"A secret is at most {MAX_VALUE_BYTES} bytes; keep larger things elsewhere.")
                scope_key = await self._scope_key(rows, owner, now)
                version = await rows.next_version(request.path, now)
                sealed = await self._keyring.seal(scope_key, Place(owner, request.path, version), value)
            await rows.add_version(request.path, version, sealed, now)
            call.note(version=version)
        return SecretVersion(path=request.path, version=version, created_at=now)

    async def get(self, call: Call, request: GetSecret) -> SealedSecret:
        """Return a version, sealed to the caller for this request."""
        caller, owner = call.caller, _owner(call)
        holder_key = caller.holder_key
        if holder_key is None:
            raise NoHolderKey
        async with self._store.transaction(call, read_only=True) as rows:
            if not reads_all(caller.level) and not await rows.holds_grant(
                caller.principal, patterns_covering(request.path)
            ):
                raise NotGranted
            found = await rows.version(request.path, request.version)
        if found is None:
            raise NoSuchSecret
        call.note(version=found.version)
        info = vault.get_info(
            workspace=owner.workspace,
            principal=caller.principal,
            path=request.path,
            version=found.version,
            request_id=call.request_id,
        )
        # The place is what was asked for, not what the row says of itself.
        place = Place(owner, request.path, found.version if request.version is None else request.version)
        try:
            async with self._keyring.opened(found.scope_key, place, found.sealed) as value:
                sealed = seal_to(holder_key, value, info)
        except StoredUnopenable:
            _log.error("a stored value does not open in its place", extra={"request_id": str(call.request_id)})
            raise
        except crypto_errors.InvalidKey as error:
            raise NoHolderKey("The key in your access token (its claim `cnf`) cannot be sealed to.") from error
        return SealedSecret(path=request.path, version=found.version, created_at=found.created_at, sealed=sealed)

    async def list(self, call: Call, request: ListSecrets) -> Secrets:
        """List paths: all of them for those who write or read all, else what the caller may read."""
        caller = call.caller
        readable_by = None if sees_all_names(caller.level, caller.permissions) else caller.principal
        async with self._store.transaction(call, read_only=True) as rows:
            found = await rows.secrets(
                prefix=request.prefix, after=request.after, limit=request.limit, readable_by=readable_by
            )
        return Secrets(secrets=tuple(found))

    async def grant(self, call: Call, request: GrantSecret) -> Grant:
        """Let a principal read what matches a pattern. Doing it twice changes nothing."""
        async with self._store.transaction(call) as rows:
            return await rows.add_grant(request.pattern, request.principal, self._clock())

    async def revoke_grant(self, call: Call, request: RevokeGrant) -> Empty:
        """Take a grant back. That there is none any more is all that is promised, so there may have been none."""
        async with self._store.transaction(call) as rows:
            call.note(existed=await rows.remove_grant(request.pattern, request.principal))
        return Empty()

    async def list_grants(self, call: Call, request: ListGrants) -> Grants:
        """List who may read what."""
        async with self._store.transaction(call, read_only=True) as rows:
            return Grants(grants=tuple(await rows.grants(principal=request.principal, limit=request.limit)))

    async def _scope_key(self, rows: VaultTransaction, owner: Owner, now: datetime) -> StoredScopeKey:
        """Return the workspace's newest scope key; the first to write makes the first."""
        key = await rows.scope_key()
        if key is None:
            fresh = await self._keyring.new_scope_key(owner, FIRST_GENERATION, now)
            await rows.add_scope_key(fresh)
            key = await rows.scope_key() or fresh
        return key


def _owner(call: Call) -> Owner:
    workspace = call.caller.workspace
    if workspace is None:  # the contracts are asked in workspaces only; the gates have seen to it
        raise ScopeMismatch
    return Owner(call.caller.organization, workspace)
