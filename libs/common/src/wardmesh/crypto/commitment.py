"""Commitments to values that a log must be able to forget: SHA-256 over a path, a salt and the value.

    commitment = SHA-256(length_prefixed("wardmesh/audit/commitment/v1", path, salt, value))

What always holds: whoever has path, salt and value makes the same 32 bytes, and nobody finds another path, salt or
value that does (SHA-256 is collision resistant, and every field is length-prefixed). Whoever lacks the salt learns
nothing, however few values there could be: it has 32 random bytes and is used for one value only. So the hash may stay
for ever, and forgetting the salt forgets the value.

On failure: `ValueError` for a salt of another length, or a value that has no UTF-8.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256
from typing import Final

from wardmesh.crypto.encoding import length_prefixed

DOMAIN: Final = b"wardmesh/audit/commitment/v1"
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
_LENGTH_BYTES: Final = 8
_CACHED_PATHS: Final = 256
"""The paths of an event's own fields recur with every event; those of details are anybody's."""


def commit(path: str, salt: bytes, value: str) -> bytes:
    """Return the commitment to `value` at `path`; `salt` MUST be random, and new for each value."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    said = value.encode()
    # What length_prefixed makes of the four fields; the first half is the same for every event.
    return sha256(_head(path) + salt + len(said).to_bytes(_LENGTH_BYTES, "big") + said).digest()


def is_opened_by(commitment: bytes, path: str, salt: bytes, value: str) -> bool:
    """Tell whether that is what was committed to."""
    try:
        return hmac.compare_digest(commit(path, salt, value), commitment)
    except ValueError:
        return False


@lru_cache(maxsize=_CACHED_PATHS)
def _head(path: str) -> bytes:
    whole = length_prefixed(DOMAIN, path.encode(), bytes(SALT_BYTES), b"")
    return whole[: -SALT_BYTES - _LENGTH_BYTES]
