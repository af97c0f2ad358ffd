"""`mesh.secrets`: values that are sealed before they leave and opened where they arrive.

What always holds: no plaintext leaves this process, and none is kept here. A value is bound to its call
(`wardmesh.crypto.vault`), so that an older or another answer does not open.

On failure: `Undecryptable` for what cannot be opened; what the operations raise otherwise.
"""

from __future__ import annotations

from pydantic import ValidationError

from wardmesh.client.caller import invalid_request
from wardmesh.client.methods import Surface, Timed, method
from wardmesh.contracts import secrets
from wardmesh.contracts.operation import Empty
from wardmesh.crypto import vault
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.sealing import seal_to
from wardmesh.errors import BodyTooLarge, InternalError, ScopeMismatch, Undecryptable
from wardmesh.ids import RequestId, WorkspaceId


class SealingKeys:
    """The vault's public key, kept until it is refused. Shared by all views of a mesh."""

    def __init__(self) -> None:
        self._key: secrets.SealingKey | None = None

    async def get(self, timed: Timed) -> secrets.SealingKey:
        if self._key is None:
            self._key = (await timed.caller.call(secrets.SEALING_KEY, Empty(), deadline=timed.deadline)).response
        return self._key

    def forget(self, key: secrets.SealingKey) -> None:
        """It was refused: the vault has another one by now."""
        if self._key is key:
            self._key = None


class Secrets(Surface):
    """The vault. `get`, `get_bytes` and `put` deal in values; the methods below them in what is sent."""

    sealing_key = method(secrets.SEALING_KEY)
    put_sealed = method(secrets.PUT)
    get_sealed = method(secrets.GET)
    list = method(secrets.LIST)
    grant = method(secrets.GRANT)
    revoke_grant = method(secrets.REVOKE_GRANT)
    list_grants = method(secrets.LIST_GRANTS)

    def __init__(self, timed: Timed, keys: SealingKeys) -> None:
        super().__init__(timed)
        self._keys = keys

    async def get(self, path: str, *, version: int | None = None) -> str:
        """Return the value at `path` as text, the newest unless `version` is given.

        Raises `Undecryptable` if it is not UTF-8: read it with `get_bytes`.
        """
        try:
            return (await self.get_bytes(path, version=version)).decode()
        except UnicodeDecodeError:
            raise Undecryptable("The value is not text; read it with `get_bytes`.") from None  # the cause quotes it

    async def get_bytes(self, path: str, *, version: int | None = None) -> bytes:
        """Return the value at `path`, the newest unless `version` is given."""
        try:
            request = secrets.GetSecret(path=path, version=version)
        except ValidationError as error:
            raise invalid_request(error) from None
        answer = await self._timed.caller.call(secrets.GET, request, deadline=self._timed.deadline)
        found = answer.response
        if found.path != path or version not in (None, found.version):
            raise InternalError("The answer is about another secret or version.", request_id=answer.request_id)
        info = vault.get_info(
            workspace=workspace_of(self._timed),
            principal=self._timed.caller.principal,
            path=found.path,
            version=found.version,
            request_id=answer.request_id,
        )
        return answer.open(found.sealed, info)

    async def put(self, path: str, value: str | bytes) -> secrets.SecretVersion:
        """Store a new version of the value at `path`."""
        plaintext = value.encode() if isinstance(value, str) else value
        if len(plaintext) > secrets.MAX_VALUE_BYTES:
            raise BodyTooLarge(f"A secret has {secrets.MAX_VALUE_BYTES} bytes at most.")
        key = await self._keys.get(self._timed)
        try:
            return await self._put(path, plaintext, key)
        except Undecryptable:  # which says that nothing was stored
            self._keys.forget(key)
            return await self._put(path, plaintext, await self._keys.get(self._timed))

    async def _put(self, path: str, plaintext: bytes, key: secrets.SealingKey) -> secrets.SecretVersion:
        caller = self._timed.caller
        request_id = RequestId.new()
        info = vault.put_info(
            workspace=workspace_of(self._timed),
            principal=caller.principal,
            path=path,
            key_id=key.key_id,
            request_id=request_id,
        )
        try:
            sealed = seal_to(key.public_key, plaintext, info)
            request = secrets.PutSecret(path=path, key_id=key.key_id, sealed=sealed)
        except ValidationError as error:
            raise invalid_request(error) from None
        except CryptoError as error:
            raise InternalError("The vault's sealing key is not a usable key.") from error
        answer = await caller.call(secrets.PUT, request, deadline=self._timed.deadline, request_id=request_id)
        return answer.response


def workspace_of(timed: Timed) -> WorkspaceId:
    """Return the caller's workspace; raise `ScopeMismatch` for who is connected to an organization."""
    scope = timed.caller.scope
    if not isinstance(scope, WorkspaceId):
        raise ScopeMismatch("This is asked in a workspace; connect with one as the scope.")
    return scope
