"""Contracts of the auth service: organizations, workspaces, principals, keys, tokens.

A user's password, an API key and a refresh token are each exchanged for an access token of ten minutes at most,
which is good for one scope. Answers that carry a credential carry it once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from wardmesh.contracts.fields import HolderPublicKey, Limit, Name, SecretText, Time
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    ORG,
    WORKSPACE,
    AnyContract,
    AuditRule,
    Category,
    Credential,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import KeyId, OrgId, PrincipalField, ScopeField, SessionId, UserId, WorkspaceId

MIN_PASSWORD_CHARACTERS: Final = 12
MAX_PASSWORD_CHARACTERS: Final = 256
"""Argon2id takes what it is given; a bound keeps a login from becoming a way to spend our CPU."""
MAX_PERMISSIONS: Final = 64
ARGON2_DEADLINE: Final = timedelta(seconds=20)
"""A login waits for its turn at the password hash, which is slow on purpose."""

Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]{1,64}@[^@\s]{1,190}$", to_lower=True)]
Password = Annotated[str, Field(min_length=MIN_PASSWORD_CHARACTERS, max_length=MAX_PASSWORD_CHARACTERS, repr=False)]


def _level(label: str) -> str:
    return Level.of(label).label


LevelName = Annotated[str, AfterValidator(_level), Field(json_schema_extra={"enum": [level.label for level in Level]})]
PermissionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+\.[a-z0-9_-]+$", max_length=129)]
Permissions = Annotated[tuple[PermissionName, ...], Field(max_length=MAX_PERMISSIONS)]


class SignUp(Message):
    """A new organization, with its first user and its first workspace."""

    organization: Name
    workspace: Name = "main"
    email: Email
    password: Password


class SignedUp(Message):
    organization: OrgId
    workspace: WorkspaceId
    user: UserId


class LogIn(Message):
    """A user's password for a session. Without `scope`, the token is good for the organization."""

    organization: OrgId
    email: Email
    password: Annotated[str, Field(min_length=1, max_length=MAX_PASSWORD_CHARACTERS, repr=False)]
    scope: ScopeField | None = None
    holder_key: HolderPublicKey | None = None


class Refresh(Message):
    """A refresh token for the next pair. The token presented is spent."""

    refresh_token: SecretText
    scope: ScopeField | None = None
    holder_key: HolderPublicKey | None = None


class ExchangeKey(Message):
    """An API key for an access token. Without `scope`, the token is good for the key's own."""

    api_key: SecretText
    scope: ScopeField | None = None
    holder_key: HolderPublicKey | None = None


class AccessToken(Message):
    """`token` is an Ed25519 JWT, to be sent as `Authorization: Bearer …`."""

    token: SecretText
    expires_at: Time
    principal: PrincipalField
    scope: ScopeField


class Session(AccessToken):
    """An access token and what gets the next one."""

    session: SessionId
    refresh_token: SecretText
    refresh_expires_at: Time


class Identity(Message):
    """Who the caller is, as the token says."""

    principal: PrincipalField
    organization: OrgId
    scope: ScopeField
    level: LevelName
    permissions: Permissions
    acting_for: PrincipalField | None = None


class CreateWorkspace(Message):
    name: Name


class Workspace(Message):
    id: WorkspaceId
    name: Name
    created_at: Time


class ListWorkspaces(Message):
    after: WorkspaceId | None = None
    limit: Limit = 100


class Workspaces(Message):
    workspaces: tuple[Workspace, ...]


class CreateUser(Message):
    """A person, who holds `level` in the scope of the request."""

    email: Email
    password: Password
    level: LevelName = "member"


class CreateAgent(Message):
    """An AI agent of this workspace."""

    name: Name
    level: LevelName = "restricted"


class CreateServiceAccount(Message):
    """A backend service, at home in the scope of the request."""

    name: Name
    level: LevelName = "member"


class PrincipalInfo(Message):
    id: PrincipalField
    name: Name
    scope: ScopeField
    level: LevelName
    created_at: Time


class ListPrincipals(Message):
    after: PrincipalField | None = None
    limit: Limit = 100


class Principals(Message):
    principals: tuple[PrincipalInfo, ...]


class SetLevel(Message):
    """What a principal may do in the scope of the request; never more than the caller may."""

    principal: PrincipalField
    level: LevelName


class CreateKey(Message):
    """An API key of an agent or a service account, good for the scope of the request.

    With `permissions` it reaches exactly those; without, it reaches what its principal does. Either way never
    more than the caller.
    """

    principal: PrincipalField
    name: Name
    permissions: Permissions | None = None
    lifetime_days: Annotated[int, Field(ge=1, le=365)] = 90


class CreatedKey(Message):
    """The only time that the key itself is shown."""

    id: KeyId
    api_key: SecretText
    expires_at: Time


class KeyInfo(Message):
    id: KeyId
    principal: PrincipalField
    name: Name
    permissions: Permissions | None
    created_at: Time
    expires_at: Time
    revoked_at: Time | None


class ListKeys(Message):
    principal: PrincipalField | None = None
    after: KeyId | None = None
    limit: Limit = 100


class Keys(Message):
    keys: tuple[KeyInfo, ...]


class RevokeKey(Message):
    key: KeyId


class RevokePrincipal(Message):
    """Refuse everything of a principal's from now on: keys, sessions, tokens."""

    principal: PrincipalField


class Revoked(Message):
    """`connections_closed` counts live connections that were dropped."""

    revoked_at: Time
    connections_closed: int


def _audit(category: Category, action: str, *targets: str, read: bool = False) -> AuditRule:
    return AuditRule(category, action, Durability.QUEUED if read else Durability.IN_TRANSACTION, targets)


SIGN_UP = operation(
    "auth",
    "sign_up",
    SignUp,
    SignedUp,
    summary="Create an organization with its first user and workspace",
    access=Credential("nobody is known before the first user is; the password becomes theirs"),
    scopes=ORG,
    audit=_audit(Category.ADMINISTRATION, "organization.create"),
    idempotent=False,
    deadline=ARGON2_DEADLINE,
)
LOG_IN = operation(
    "auth",
    "log_in",
    LogIn,
    Session,
    summary="Exchange a password for a session",
    access=Credential("the password"),
    scopes=ORG,
    audit=_audit(Category.AUTHENTICATION, "session.create", "organization"),
    idempotent=True,
    deadline=ARGON2_DEADLINE,
)
REFRESH = operation(
    "auth",
    "refresh",
    Refresh,
    Session,
    summary="Exchange a refresh token for the next pair",
    access=Credential("the refresh token"),
    scopes=ANY_SCOPE,
    audit=_audit(Category.AUTHENTICATION, "session.refresh"),
    idempotent=False,
)
EXCHANGE_KEY = operation(
    "auth",
    "exchange_key",
    ExchangeKey,
    AccessToken,
    summary="Exchange an API key for an access token",
    access=Credential("the API key"),
    scopes=ANY_SCOPE,
    audit=AuditRule(Category.AUTHENTICATION, "token.issue", Durability.QUEUED),
    idempotent=True,
)
WHO_AM_I = operation(
    "auth",
    "who_am_i",
    Empty,
    Identity,
    summary="Say who the caller is",
    access=Permission("identity.read", Level.VIEWER),
    scopes=ANY_SCOPE,
    audit=_audit(Category.AUTHENTICATION, "identity.read", read=True),
    idempotent=True,
)
CREATE_WORKSPACE = operation(
    "auth",
    "create_workspace",
    CreateWorkspace,
    Workspace,
    summary="Create a workspace",
    access=Permission("workspace.create", Level.ADMIN, kinds=frozenset({"usr", "svc"})),
    scopes=ORG,
    audit=_audit(Category.ADMINISTRATION, "workspace.create", "name"),
    idempotent=False,
)
LIST_WORKSPACES = operation(
    "auth",
    "list_workspaces",
    ListWorkspaces,
    Workspaces,
    summary="List the organization's workspaces",
    access=Permission("workspace.list", Level.VIEWER),
    scopes=ORG,
    audit=_audit(Category.ADMINISTRATION, "workspace.list", read=True),
    idempotent=True,
)
CREATE_USER = operation(
    "auth",
    "create_user",
    CreateUser,
    PrincipalInfo,
    summary="Create a user",
    access=Permission("user.create", Level.ADMIN, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "user.create", "level"),
    idempotent=False,
    deadline=ARGON2_DEADLINE,
)
CREATE_AGENT = operation(
    "auth",
    "create_agent",
    CreateAgent,
    PrincipalInfo,
    summary="Create an agent in the workspace",
    access=Permission("agent.create", Level.OPERATOR, kinds=frozenset({"usr", "svc"})),
    scopes=WORKSPACE,
    audit=_audit(Category.ADMINISTRATION, "agent.create", "name", "level"),
    idempotent=False,
)
CREATE_SERVICE_ACCOUNT = operation(
    "auth",
    "create_service_account",
    CreateServiceAccount,
    PrincipalInfo,
    summary="Create a service account",
    access=Permission("service_account.create", Level.ADMIN, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "service_account.create", "name", "level"),
    idempotent=False,
)
LIST_PRINCIPALS = operation(
    "auth",
    "list_principals",
    ListPrincipals,
    Principals,
    summary="List who can act in the scope, and at which level",
    access=Permission("principal.list", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "principal.list", read=True),
    idempotent=True,
)
SET_LEVEL = operation(
    "auth",
    "set_level",
    SetLevel,
    PrincipalInfo,
    summary="Set what a principal may do in the scope",
    access=Permission("principal.set_level", Level.ADMIN, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "principal.set_level", "principal", "level"),
    idempotent=True,
)
CREATE_KEY = operation(
    "auth",
    "create_key",
    CreateKey,
    CreatedKey,
    summary="Create an API key for an agent or a service account",
    access=Permission("key.create", Level.OPERATOR, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "key.create", "principal", "name"),
    idempotent=False,
)
LIST_KEYS = operation(
    "auth",
    "list_keys",
    ListKeys,
    Keys,
    summary="List API keys, without the keys themselves",
    access=Permission("key.list", Level.OPERATOR),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "key.list", read=True),
    idempotent=True,
)
REVOKE_KEY = operation(
    "auth",
    "revoke_key",
    RevokeKey,
    Revoked,
    summary="Revoke an API key and drop its live connections",
    access=Permission("key.revoke", Level.OPERATOR, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "key.revoke", "key"),
    idempotent=True,
)
REVOKE_PRINCIPAL = operation(
    "auth",
    "revoke_principal",
    RevokePrincipal,
    Revoked,
    summary="Revoke a principal with everything of its own, and drop its live connections",
    access=Permission("principal.revoke", Level.ADMIN, kinds=frozenset({"usr", "svc"})),
    scopes=ANY_SCOPE,
    audit=_audit(Category.ADMINISTRATION, "principal.revoke", "principal"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (
    SIGN_UP,
    LOG_IN,
    REFRESH,
    EXCHANGE_KEY,
    WHO_AM_I,
    CREATE_WORKSPACE,
    LIST_WORKSPACES,
    CREATE_USER,
    CREATE_AGENT,
    CREATE_SERVICE_ACCOUNT,
    LIST_PRINCIPALS,
    SET_LEVEL,
    CREATE_KEY,
    LIST_KEYS,
    REVOKE_KEY,
    REVOKE_PRINCIPAL,
)
