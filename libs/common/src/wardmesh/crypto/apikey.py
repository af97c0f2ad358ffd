"""API keys: self-describing, so that their holder can form its subject and inbox before it has connected.

    wmk_ + base64url( version (1) ‖ organization (16) ‖ scope kind (1) ‖ scope (16) ‖ principal kind (1) ‖
                      principal (16) ‖ key id (16) ‖ secret (32) ‖ CRC-32 of all before it (4, big-endian) )

Ids stand as their UUIDs. Scope kinds: 1 organization, 2 workspace. Principal kinds: 1 user, 2 agent, 3 service account.

What always holds: one key has one text. What a key says about itself is a claim, for addressing only: the auth
service looks it up in the tenant that it names and compares the secret. The checksum tells a mistyped key from a
refused one; it keeps nobody out.

On failure: `MalformedEncoding`, which never repeats what came. Nothing here prints the secret.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.ids import AgentId, KeyId, OrgId, Principal, Scope, ServiceId, UserId, WorkspaceId

PREFIX: Final = "wmk_"
"""Secret scanners find leaked keys by it."""
SECRET_BYTES: Final = 32

_VERSION: Final = 1
_UUID_BYTES: Final = 16
_CRC_BYTES: Final = 4
_BYTES: Final = 1 + _UUID_BYTES + (1 + _UUID_BYTES) * 2 + _UUID_BYTES + SECRET_BYTES + _CRC_BYTES
_SCOPES: Final[dict[int, type[Scope]]] = {1: OrgId, 2: WorkspaceId}
_PRINCIPALS: Final[dict[int, type[Principal]]] = {1: UserId, 2: AgentId, 3: ServiceId}
_SCOPE_KINDS: Final = {kind: number for number, kind in _SCOPES.items()}
_PRINCIPAL_KINDS: Final = {kind: number for number, kind in _PRINCIPALS.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ApiKey:
    """One API key. It has no `==`: secrets are compared in constant time, by who stores their hashes."""

    organization: OrgId
    scope: Scope
    principal: Principal
    id: KeyId
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"the secret of an API key has {SECRET_BYTES} bytes")
        if isinstance(self.scope, OrgId) and self.scope != self.organization:
            raise ValueError("an API key for an organization is for its own")

    def encode(self) -> str:
        """Return the text that its holder is given, once."""
        body = b"".join(
            (
                bytes((_VERSION,)),
                self.organization.uuid.bytes,
                bytes((_SCOPE_KINDS[type(self.scope)],)),
                self.scope.uuid.bytes,
                bytes((_PRINCIPAL_KINDS[type(self.principal)],)),
                self.principal.uuid.bytes,
                self.id.uuid.bytes,
                self.secret,
            )
        )
        return PREFIX + base64url_encode(body + _checksum(body))

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Return the key that `text` spells."""
        if not text.startswith(PREFIX):
            raise MalformedEncoding(f"an API key begins with {PREFIX}")
        data = base64url_decode(text[len(PREFIX) :])
        if len(data) != _BYTES or data[0] != _VERSION:
            raise MalformedEncoding("not an API key of a version known here")
        body, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if _checksum(body) != checksum:
            raise MalformedEncoding("the API key is mistyped or cut off: its checksum differs")
        fields = _Reader(body[1:])
        organization = OrgId.from_uuid(fields.uuid())
        scope_kind, scope = _SCOPES.get(fields.byte()), fields.uuid()
        principal_kind, principal = _PRINCIPALS.get(fields.byte()), fields.uuid()
        if scope_kind is None or principal_kind is None or (scope_kind is OrgId and scope != organization.uuid):
            raise MalformedEncoding("the API key names a scope or a principal of no known kind")
        return cls(
            organization=organization,
            scope=scope_kind.from_uuid(scope),
            principal=principal_kind.from_uuid(principal),
            id=KeyId.from_uuid(fields.uuid()),
            secret=fields.take(SECRET_BYTES),
        )


class _Reader:
    """Takes fields off the front of bytes whose length has been checked."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def uuid(self) -> UUID:
        return UUID(bytes=self.take(_UUID_BYTES))


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
