"""Refresh tokens: opaque to who holds them, and self-describing enough to be looked up inside one tenant.

    wmr_ + base64url( version (1) ‖ organization (16) ‖ session (16) ‖ secret (32) ‖ CRC-32 of all before it (4) )

Like an API key (`wardmesh.crypto.apikey`), but nobody else reads or writes one, so it lives here.

What always holds: one token has one text. What it says about itself is a claim; the digest of the whole secret, found
among the organization's rows, is what counts.

On failure: `MalformedEncoding`, which never repeats what came.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.ids import OrgId, SessionId

PREFIX: Final = "wmr_"
SECRET_BYTES: Final = 32

_VERSION: Final = 1
_UUID_BYTES: Final = 16
_CRC_BYTES: Final = 4
_BYTES: Final = 1 + 2 * _UUID_BYTES + SECRET_BYTES + _CRC_BYTES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RefreshToken:
    """One refresh token."""

    organization: OrgId
    session: SessionId
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """Return the text that its holder is given."""
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"the secret of a refresh token has {SECRET_BYTES} bytes")
        body = bytes((_VERSION,)) + self.organization.uuid.bytes + self.session.uuid.bytes + self.secret
        return PREFIX + base64url_encode(body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> RefreshToken:
        """Return the token that `text` spells."""
        if not text.startswith(PREFIX):
            raise MalformedEncoding(f"a refresh token begins with {PREFIX}")
        data = base64url_decode(text[len(PREFIX) :])
        if len(data) != _BYTES or data[0] != _VERSION:
            raise MalformedEncoding("not a refresh token of a version known here")
        body, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if _checksum(body) != checksum:
            raise MalformedEncoding("the refresh token is mistyped or cut off: its checksum differs")
        session_at = 1 + _UUID_BYTES
        secret_at = session_at + _UUID_BYTES
        return cls(
            organization=OrgId.from_uuid(UUID(bytes=body[1:session_at])),
            session=SessionId.from_uuid(UUID(bytes=body[session_at:secret_at])),
            secret=body[secret_at:],
        )


def digest(secret: bytes) -> bytes:
    """Return what the store keeps of a secret. 32 random bytes need no salt and no stretching."""
    return hashlib.sha256(secret).digest()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
