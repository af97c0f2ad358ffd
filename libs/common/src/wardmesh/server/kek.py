"""The key encryption key: who wraps the keys that are in a service's database.

It is asynchronous and never gives its bytes away, so that a KMS or an HSM can stand where the key file stands now.

On failure: `Undecryptable` of `wardmesh.crypto.errors`, always the same, for another key, another context and damage.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardmesh.crypto import aead
from wardmesh.crypto.aead import KeyMaterial, Random

_ID_LABEL: Final = b"wardmesh/kek/v1/id"
_ID_BYTES: Final = 16


class KeyEncryptionKey(Protocol):
    """The customer's key. It may live in another process."""

    @property
    def id(self) -> str:
        """Which key this is. MUST differ between keys, and MUST NOT tell anything of the key."""

    async def wrap(self, key: KeyMaterial, context: Sequence[bytes]) -> bytes:
        """Return `key`, 32 bytes, encrypted and bound to `context`."""

    def unwrapped(self, wrapped: bytes, context: Sequence[bytes]) -> AbstractAsyncContextManager[bytearray]:
        """Yield what `wrap` was given with the same context, and overwrite it when the block ends."""


class LocalKey:
    """A key encryption key out of a file, in this process's memory. Implements `KeyEncryptionKey`."""

    def __init__(self, key: bytes, *, random: Random = os.urandom) -> None:
        self._key = key
        self._random = random
        # Derived, so that it says nothing about the key; it tells which key a row needs when there are several.
        self.id: Final = f"local:{HKDF(SHA256(), _ID_BYTES, None, _ID_LABEL).derive(key).hex()}"

    def __repr__(self) -> str:
        return f"LocalKey({self.id})"

    async def wrap(self, key: KeyMaterial, context: Sequence[bytes]) -> bytes:
        return aead.wrap(self._key, key, context, random=self._random)

    @asynccontextmanager
    async def unwrapped(self, wrapped: bytes, context: Sequence[bytes]) -> AsyncIterator[bytearray]:
        with aead.unwrapped(self._key, wrapped, context) as key:
            yield key
