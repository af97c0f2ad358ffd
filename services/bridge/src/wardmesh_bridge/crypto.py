"""The agreements' keys at rest: each wrapped by the key encryption key, and bound to its agreement and both sides.

What always holds: a row that was moved to another agreement, or whose agreement was made to name other workspaces, does
not open.

On failure: `StoredKeyUnopenable`.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Final

from wardmesh.contracts.bridge import Agreement
from wardmesh.crypto import aead
from wardmesh.crypto.aead import Random
from wardmesh.crypto.errors import CryptoError
from wardmesh.server.kek import KeyEncryptionKey
from wardmesh_bridge.domain import StoredKey
from wardmesh_bridge.errors import StoredKeyUnopenable

_AGREEMENT_KEY: Final = b"wardmesh/bridge/v1/agreement-key"
_KEY_ID_BYTES: Final = 10


class AgreementKeys:
    """Makes and opens the keys that messages are signed with."""

    def __init__(self, kek: KeyEncryptionKey, *, random: Random = os.urandom) -> None:
        self._kek = kek
        self._random = random

    async def new(self, agreement: Agreement, now: datetime) -> StoredKey:
        """Return a fresh key of the agreement, wrapped."""
        key_id = f"mac_{self._random(_KEY_ID_BYTES).hex()}"
        key = bytearray(aead.new_key(random=self._random))
        try:
            wrapped = await self._kek.wrap(key, _context(agreement, key_id))
        finally:
            key[:] = bytes(len(key))
        return StoredKey(key_id, self._kek.id, wrapped, now)

    async def open(self, stored: StoredKey, agreement: Agreement) -> bytes:
        """Return the key. Let it go soon."""
        if stored.kek_id != self._kek.id:
            raise StoredKeyUnopenable(
                "It was wrapped under another key encryption key than this mesh runs with; restore the key file."
            )
        try:
            async with self._kek.unwrapped(stored.wrapped, _context(agreement, stored.key_id)) as key:
                return bytes(key)
        except CryptoError as error:
            raise StoredKeyUnopenable from error


def _context(agreement: Agreement, key_id: str) -> tuple[bytes, ...]:
    fields = (agreement.id, agreement.source, agreement.target, key_id)
    return (_AGREEMENT_KEY, *(field.encode() for field in fields))
