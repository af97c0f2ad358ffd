"""Contracts of the secrets service, the vault.

A value crosses the wire sealed (HPKE), in both directions: to the vault's public key when it is put, to the key that
the caller's access token names (`cnf`) when it is got. Broker, logs and disks see ciphertext only. What each seal
is bound to, byte for byte, is in `wardmesh.crypto.vault`.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from wardmesh.contracts.fields import HolderPublicKey, Limit, Time
from wardmesh.contracts.operation import (
    PEOPLE_AND_SERVICES,
    WORKSPACE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import PrincipalField

MAX_VALUE_BYTES: Final = 64 * 1024
"""A certificate chain or a service account file fits; what is larger is a file, not a secret."""
MAX_BODY_BYTES: Final = 2 * MAX_VALUE_BYTES
"""A sealed value in base64, and the rest of the request."""
MAX_PATH_CHARACTERS: Final = 256

SecretPath = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,15}$", max_length=MAX_PATH_CHARACTERS)
]
"""`openai/api-key`: up to sixteen names joined by slashes."""
PathPattern = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,15}(/\*)?$", max_length=MAX_PATH_CHARACTERS)
]
"""A path, or with a final `/*` everything below it."""
PathPrefix = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_./-]*$", max_length=MAX_PATH_CHARACTERS)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
SealedValue = Annotated[bytes, Field(min_length=1, max_length=MAX_VALUE_BYTES + 1024, repr=False)]


class SealingKey(Message):
    """The vault's present public key (X25519), to which values are sealed."""

    key_id: str
    public_key: HolderPublicKey


class PutSecret(Message):
    """A new version of the value at `path`, sealed to the vault's key `key_id`."""

    path: SecretPath
    key_id: Annotated[str, StringConstraints(max_length=64)]
    sealed: SealedValue


class SecretVersion(Message):
    path: SecretPath
    version: Version
    created_at: Time


class GetSecret(Message):
    """Without `version`, the newest."""

    path: SecretPath
    version: Version | None = None


class SealedSecret(SecretVersion):
    """The value, sealed to the caller's key for this one request."""

    sealed: SealedValue


class ListSecrets(Message):
    prefix: PathPrefix = ""
    after: SecretPath | None = None
    limit: Limit = 100


class SecretInfo(Message):
    path: SecretPath
    versions: int
    created_at: Time
    updated_at: Time


class Secrets(Message):
    secrets: tuple[SecretInfo, ...]


class GrantSecret(Message):
    """Let a principal read what matches `pattern`."""

    pattern: PathPattern
    principal: PrincipalField


class Grant(Message):
    pattern: PathPattern
    principal: PrincipalField
    granted_by: PrincipalField
    created_at: Time


class RevokeGrant(Message):
    pattern: PathPattern
    principal: PrincipalField


class ListGrants(Message):
    principal: PrincipalField | None = None
    limit: Limit = 100


class Grants(Message):
    grants: tuple[Grant, ...]


def _audit(action: str, durability: Durability, *targets: str) -> AuditRule:
    return AuditRule(Category.SECRET_ACCESS, action, durability, targets)


SEALING_KEY = operation(
    "secrets",
    "sealing_key",
    Empty,
    SealingKey,
    summary="Get the public key that values are sealed to",
    access=Permission("secret.seal", Level.VIEWER),
    scopes=WORKSPACE,
    audit=_audit("sealing_key.read", Durability.QUEUED),
    idempotent=True,
)
PUT = operation(
    "secrets",
    "put",
    PutSecret,
    SecretVersion,
    summary="Store a new version of a secret",
    access=Permission("secret.write", Level.OPERATOR),
    scopes=WORKSPACE,
    audit=_audit("secret.put", Durability.IN_TRANSACTION, "path"),
    idempotent=False,
    max_body_bytes=MAX_BODY_BYTES,
)
GET = operation(
    "secrets",
    "get",
    GetSecret,
    SealedSecret,
    summary="Read a secret, sealed to the caller",
    access=Permission("secret.read", Level.MEMBER),
    scopes=WORKSPACE,
    audit=_audit("secret.get", Durability.BEFORE_ANSWER, "path"),
    idempotent=True,
)
LIST = operation(
    "secrets",
    "list",
    ListSecrets,
    Secrets,
    summary="List the names of secrets",
    access=Permission("secret.list", Level.MEMBER),
    scopes=WORKSPACE,
    audit=_audit("secret.list", Durability.QUEUED, "prefix"),
    idempotent=True,
)
GRANT = operation(
    "secrets",
    "grant",
    GrantSecret,
    Grant,
    summary="Let a principal read secrets",
    access=Permission("secret.grant", Level.ADMIN, kinds=PEOPLE_AND_SERVICES),
    scopes=WORKSPACE,
    audit=_audit("secret.grant", Durability.IN_TRANSACTION, "pattern", "principal"),
    idempotent=True,
)
REVOKE_GRANT = operation(
    "secrets",
    "revoke_grant",
    RevokeGrant,
    Empty,
    summary="Take such a grant back",
    access=Permission("secret.grant", Level.ADMIN, kinds=PEOPLE_AND_SERVICES),
    scopes=WORKSPACE,
    audit=_audit("secret.revoke_grant", Durability.IN_TRANSACTION, "pattern", "principal"),
    idempotent=True,
)
LIST_GRANTS = operation(
    "secrets",
    "list_grants",
    ListGrants,
    Grants,
    summary="List who may read what",
    access=Permission("secret.list_grants", Level.OPERATOR),
    scopes=WORKSPACE,
    audit=_audit("secret.list_grants", Durability.QUEUED),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (SEALING_KEY, PUT, GET, LIST, GRANT, REVOKE_GRANT, LIST_GRANTS)
