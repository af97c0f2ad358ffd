"""The vault's keys: key encryption key → scope key → data key → value, and the keys that values are sealed to.

    key encryption key   outside the database; wraps scope keys and the private halves of sealing keys
    scope key            one a workspace and generation; wraps data keys
    data key             one a version; seals one value

What always holds:
- Every layer is bound to its owner and its place (key id or generation; path and version) by length-prefixed fields,
  and a value also to its wrapped data key. A row that was moved, exchanged or copied to another path, version or
  workspace does not open, whoever moved it.
- Keys and values are in buffers that are overwritten when the block that used them ends. (What HPKE opens comes from
  its library as `bytes`, which nobody can overwrite; it is copied and let go at once.)
- Nothing here logs, and no error names a value.

On failure: `StoredUnopenable` for what is stored, `NotSealedForThis` for what a caller sent. Which of key, context
and ciphertext was wrong is not said.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final

from wardmesh.crypto import aead
from wardmesh.crypto import errors as crypto_errors
from wardmesh.crypto.aead import KeyMaterial, Random
from wardmesh.crypto.sealing import HolderKey
from wardmesh.server.kek import KeyEncryptionKey
from wardmesh_secrets.domain import Owner, Place, SealedVersion, StoredScopeKey, StoredSealingKey
from wardmesh_secrets.errors import NotSealedForThis, StoredUnopenable

_SCOPE_KEY: Final = b"wardmesh/vault/v1/scope-key"
_SEALING_KEY: Final = b"wardmesh/vault/v1/sealing-key"
_DATA_KEY: Final = b"wardmesh/vault/v1/data-key"
_VALUE: Final = b"wardmesh/vault/v1/value"
_NUMBER_BYTES: Final = 8


class Keyring:
    """What the service does with keys; the key encryption key may live elsewhere."""

    def __init__(self, kek: KeyEncryptionKey, *, random: Random = os.urandom) -> None:
        self._kek = kek
        self._random = random

    async def new_scope_key(self, owner: Owner, generation: int, now: datetime) -> StoredScopeKey:
        """Return a fresh scope key, wrapped."""
        key = bytearray(aead.new_key(random=self._random))
        try:
            wrapped = await self._kek.wrap(key, _scope_key_context(owner, generation))
        finally:
            _overwrite(key)
        return StoredScopeKey(generation, self._kek.id, wrapped, now)

    async def seal(self, scope_key: StoredScopeKey, place: Place, value: KeyMaterial) -> SealedVersion:
        """Return `value` encrypted under a data key of its own, for this place only."""
        generation = scope_key.generation
        data_key = bytearray(aead.new_key(random=self._random))
        try:
            async with self._scope_key(scope_key, place.owner) as key:
                wrapped = aead.wrap(key, data_key, _data_key_context(place, generation), random=self._random)
            ciphertext = aead.seal(data_key, value, _value_context(place, wrapped), random=self._random)
        finally:
            _overwrite(data_key)
        return SealedVersion(generation, wrapped, ciphertext)

    @asynccontextmanager
    async def opened(self, scope_key: StoredScopeKey, place: Place, sealed: SealedVersion) -> AsyncIterator[bytearray]:
        """Yield the value that `seal` was given for this place, and overwrite it when the block ends."""
        if scope_key.generation != sealed.generation:
            raise StoredUnopenable
        context = _data_key_context(place, sealed.generation)
        async with self._scope_key(scope_key, place.owner) as key:
            with ExitStack() as stack:
                with _stored():
                    data_key = stack.enter_context(aead.unwrapped(key, sealed.wrapped_key, context))
                    value_context = _value_context(place, sealed.wrapped_key)
                    value = stack.enter_context(aead.opened(data_key, sealed.ciphertext, value_context))
                yield value

    async def new_sealing_key(self, owner: Owner, now: datetime) -> StoredSealingKey:
        """Return a fresh key pair for values on their way in, its private half wrapped."""
        pair = HolderKey.generate()
        key_id = pair.thumbprint()
        private = bytearray(pair.private_bytes())
        try:
            wrapped = await self._kek.wrap(private, _sealing_key_context(owner, key_id, pair.public_bytes))
        finally:
            _overwrite(private)
        return StoredSealingKey(key_id, pair.public_bytes, self._kek.id, wrapped, now)

    @asynccontextmanager
    async def received(
        self, sealing_key: StoredSealingKey, owner: Owner, sealed: bytes, info: Sequence[bytes]
    ) -> AsyncIterator[bytearray]:
        """Yield the value that a caller sealed to `sealing_key` with this `info`; overwrite it when the block ends."""
        context = _sealing_key_context(owner, sealing_key.key_id, sealing_key.public_key)
        async with self._unwrapped(sealing_key.kek_id, sealing_key.wrapped, context) as private:
            try:
                value = bytearray(HolderKey.from_private_bytes(private).open(sealed, info))
            except crypto_errors.Undecryptable as error:
                raise NotSealedForThis from error
        try:
            yield value
        finally:
            _overwrite(value)

    @asynccontextmanager
    async def _scope_key(self, stored: StoredScopeKey, owner: Owner) -> AsyncIterator[bytearray]:
        context = _scope_key_context(owner, stored.generation)
        async with self._unwrapped(stored.kek_id, stored.wrapped, context) as key:
            yield key

    @asynccontextmanager
    async def _unwrapped(self, kek_id: str, wrapped: bytes, context: Sequence[bytes]) -> AsyncIterator[bytearray]:
        if kek_id != self._kek.id:
            raise StoredUnopenable(
                "It was wrapped under another key encryption key than this mesh runs with; restore the key file."
            )
        async with AsyncExitStack() as stack:
            with _stored():
                key = await stack.enter_async_context(self._kek.unwrapped(wrapped, context))
            yield key


@contextmanager
def _stored() -> Iterator[None]:
    """What does not open here was stored by us: somebody changed it, or the key. Only for opening, not for using."""
    try:
        yield
    except crypto_errors.CryptoError as error:
        raise StoredUnopenable from error


def _overwrite(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))


def _owner(owner: Owner) -> tuple[bytes, bytes]:
    return owner.organization.encode(), owner.workspace.encode()


def _number(number: int) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big")


def _scope_key_context(owner: Owner, generation: int) -> tuple[bytes, ...]:
    return (_SCOPE_KEY, *_owner(owner), _number(generation))


def _sealing_key_context(owner: Owner, key_id: str, public_key: bytes) -> tuple[bytes, ...]:
    return (_SEALING_KEY, *_owner(owner), key_id.encode(), public_key)


def _data_key_context(place: Place, generation: int) -> tuple[bytes, ...]:
    return (_DATA_KEY, *_owner(place.owner), place.path.encode(), _number(place.version), _number(generation))


def _value_context(place: Place, wrapped_key: bytes) -> tuple[bytes, ...]:
    return (_VALUE, *_owner(place.owner), place.path.encode(), _number(place.version), wrapped_key)
