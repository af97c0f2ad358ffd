"""Contracts of the auth service: organizations, workspaces, principals, keys, tokens.

A user's password, an API key and a refresh token are each exchanged for an access token of ten minutes at most,
which is good for one scope. Answers that carry a credential carry it once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from wardmesh.contracts.fields import HolderPublicKey, Limit, Name, SecretText, Time
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    DEFAULT_DEADLINE,
    ORG,
    PEOPLE_AND_SERVICES,
    WORKSPACE,
    AnyContract,
    AuditRule,
    Category,
    Contract,
    Credential,
    Durability,
    Empty,
    Level,
    Message,
    P,
    Permission,
    RequestT,
    ResponseT,
    ScopeKind,
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


LevelName = Annotated[
    str,
    AfterValidator(lambda label: Level.of(label).label),
    Field(json_schema_extra={"enum": [level.label for level in Level]}),
]
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


def _credential(
    name: str,
    request: Callable[P, RequestT],
    response: type[ResponseT],
    summary: str,
    *,
    carries: str,
    audit: AuditRule,
    scopes: frozenset[ScopeKind],
    idempotent: bool,
    deadline: timedelta = DEFAULT_DEADLINE,
) -> Contract[P, RequestT, ResponseT]:
    """Declare an operation that carries its own credential."""
    return operation(
        "auth", name, request, response, summary=summary, access=Credential(carries), scopes=scopes, audit=audit,
        idempotent=idempotent, deadline=deadline,
    )  # fmt: skip


def _reading(
    name: str,
    request: Callable[P, RequestT],
    response: type[ResponseT],
    summary: str,
    *,
    permission: str,
    level: Level,
    scopes: frozenset[ScopeKind] = ANY_SCOPE,
) -> Contract[P, RequestT, ResponseT]:
    """Declare an operation that changes nothing."""
    audit = AuditRule(Category.ADMINISTRATION, permission, Durability.QUEUED)
    return operation(
        "auth", name, request, response, summary=summary, access=Permission(permission, level), scopes=scopes,
        audit=audit, idempotent=True,
    )  # fmt: skip


def _changing(
    name: str,
    request: Callable[P, RequestT],
    response: type[ResponseT],
    summary: str,
    *,
    permission: str,
    level: Level,
    targets: tuple[str, ...],
    scopes: frozenset[ScopeKind] = ANY_SCOPE,
    idempotent: bool = False,
    deadline: timedelta = DEFAULT_DEADLINE,
) -> Contract[P, RequestT, ResponseT]:
    """Declare an operation that changes who may do what."""
    audit = AuditRule(Category.ADMINISTRATION, permission, Durability.IN_TRANSACTION, targets)
    return operation(
        "auth", name, request, response, summary=summary, access=Permission(permission, level, PEOPLE_AND_SERVICES),
        scopes=scopes, audit=audit, idempotent=idempotent, deadline=deadline,
    )  # fmt: skip


SIGN_UP = _credential(
    "sign_up", SignUp, SignedUp, "Create an organization with its first user and workspace",
    carries="nobody is known before the first user is; the password becomes theirs",
    audit=AuditRule(Category.ADMINISTRATION, "organization.create", Durability.IN_TRANSACTION),
    scopes=ORG, idempotent=False, deadline=ARGON2_DEADLINE,
)  # fmt: skip
LOG_IN = _credential(
    "log_in", LogIn, Session, "Exchange a password for a session",
    carries="the password",
    audit=AuditRule(Category.AUTHENTICATION, "session.create", Durability.IN_TRANSACTION, ("organization",)),
    scopes=ORG, idempotent=True, deadline=ARGON2_DEADLINE,
)  # fmt: skip
REFRESH = _credential(
    "refresh", Refresh, Session, "Exchange a refresh token for the next pair",
    carries="the refresh token",
    audit=AuditRule(Category.AUTHENTICATION, "session.refresh", Durability.IN_TRANSACTION),
    scopes=ANY_SCOPE, idempotent=False,
)  # fmt: skip
EXCHANGE_KEY = _credential(
    "exchange_key", ExchangeKey, AccessToken, "Exchange an API key for an access token",
    carries="the API key",
    audit=AuditRule(Category.AUTHENTICATION, "token.issue", Durability.QUEUED),
    scopes=ANY_SCOPE, idempotent=True,
)  # fmt: skip
WHO_AM_I = _reading(
    "who_am_i", Empty, Identity, "Say who the caller is", permission="identity.read", level=Level.VIEWER
)
CREATE_WORKSPACE = _changing(
    "create_workspace", CreateWorkspace, Workspace, "Create a workspace",
    permission="workspace.create", level=Level.ADMIN, targets=("name",), scopes=ORG,
)  # fmt: skip
LIST_WORKSPACES = _reading(
    "list_workspaces", ListWorkspaces, Workspaces, "List the organization's workspaces",
    permission="workspace.list", level=Level.VIEWER, scopes=ORG,
)  # fmt: skip
CREATE_USER = _changing(
    "create_user", CreateUser, PrincipalInfo, "Create a user",
    permission="user.create", level=Level.ADMIN, targets=("level",), deadline=ARGON2_DEADLINE,
)  # fmt: skip
CREATE_AGENT = _changing(
    "create_agent", CreateAgent, PrincipalInfo, "Create an agent in the workspace",
    permission="agent.create", level=Level.OPERATOR, targets=("name", "level"), scopes=WORKSPACE,
)  # fmt: skip
CREATE_SERVICE_ACCOUNT = _changing(
    "create_service_account", CreateServiceAccount, PrincipalInfo, "Create a service account",
    permission="service_account.create", level=Level.ADMIN, targets=("name", "level"),
)  # fmt: skip
LIST_PRINCIPALS = _reading(
    "list_principals", ListPrincipals, Principals, "List who can act in the scope, and at which level",
    permission="principal.list", level=Level.OPERATOR,
)  # fmt: skip
SET_LEVEL = _changing(
    "set_level", SetLevel, PrincipalInfo, "Set what a principal may do in the scope",
    permission="principal.set_level", level=Level.ADMIN, targets=("principal", "level"), idempotent=True,
)  # fmt: skip
CREATE_KEY = _changing(
    "create_key", CreateKey, CreatedKey, "Create an API key for an agent or a service account",
    permission="key.create", level=Level.OPERATOR, targets=("principal", "name"),
)  # fmt: skip
LIST_KEYS = _reading(
    "list_keys",
    ListKeys,
    Keys,
    "List API keys, without the keys themselves",
    permission="key.list",
    level=Level.OPERATOR,
)
REVOKE_KEY = _changing(
    "revoke_key", RevokeKey, Revoked, "Revoke an API key and drop its live connections",
    permission="key.revoke", level=Level.OPERATOR, targets=("key",), idempotent=True,
)  # fmt: skip
REVOKE_PRINCIPAL = _changing(
    "revoke_principal", RevokePrincipal, Revoked,
    "Revoke a principal with everything of its own, and drop its live connections",
    permission="principal.revoke", level=Level.ADMIN, targets=("principal",), idempotent=True,
)  # fmt: skip

CONTRACTS: tuple[AnyContract, ...] = (
    SIGN_UP, LOG_IN, REFRESH, EXCHANGE_KEY, WHO_AM_I,
    CREATE_WORKSPACE, LIST_WORKSPACES, CREATE_USER, CREATE_AGENT, CREATE_SERVICE_ACCOUNT, LIST_PRINCIPALS, SET_LEVEL,
    CREATE_KEY, LIST_KEYS, REVOKE_KEY, REVOKE_PRINCIPAL,
)  # fmt: skip
