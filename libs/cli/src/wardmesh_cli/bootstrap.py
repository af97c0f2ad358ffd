"""The first administrator of a mesh, made as anybody would make one: by the gateway's public operations.

Sign up, log in, create a service account at the organization's highest level and a key for it, and a second one that
administers the first workspace, for backends that are being developed. No file, no table, no special user.

What always holds: whoever can reach an open sign-up could do the same for an organization of their own, and nothing
more; nothing here reaches another organization. Credentials are returned, never written or logged.

On failure: the error of the operation that failed. What was made before it stays, without a use; doing it again makes
another organization.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

from wardmesh.contracts import auth
from wardmesh.contracts.operation import Level
from wardmesh.ids import OrgId, Scope, ServiceId, UserId, WorkspaceId
from wardmesh_cli.door import Door

EMAIL: Final = "admin@wardmesh.local"
ORGANIZATION: Final = "wardmesh"
PASSWORD_BYTES: Final = 18
KEY_DAYS: Final = 365


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who was made, and every credential of theirs."""

    organization: OrgId
    workspace: WorkspaceId
    user: UserId
    email: str
    password: str = field(repr=False)
    api_key: str = field(repr=False)
    """Owns the organization, and reaches all its workspaces."""
    workspace_key: str = field(repr=False)
    """Administers the first workspace."""


async def first_administrator(
    door: Door, *, organization: str = ORGANIZATION, workspace: str = "main", email: str = EMAIL
) -> Administrator:
    """Make an organization with an owner, and the keys to work with it."""
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    made = await door.call(
        auth.SIGN_UP, auth.SignUp(organization=organization, workspace=workspace, email=email, password=password)
    )
    session = await door.call(auth.LOG_IN, auth.LogIn(organization=made.organization, email=email, password=password))
    api_key = await _key_of_new_account(door, made.organization, session.token, "administrator", Level.OWNER)
    # An organization's key reaches its workspaces; a token is for one scope.
    in_workspace = await door.call(auth.EXCHANGE_KEY, auth.ExchangeKey(api_key=api_key, scope=made.workspace))
    workspace_key = await _key_of_new_account(door, made.workspace, in_workspace.token, "developer", Level.ADMIN)
    return Administrator(
        made.organization, made.workspace, made.user, email, password, api_key=api_key, workspace_key=workspace_key
    )


async def _key_of_new_account(door: Door, scope: Scope, token: str, name: str, level: Level) -> str:
    account = await door.call(
        auth.CREATE_SERVICE_ACCOUNT,
        auth.CreateServiceAccount(name=name, level=level.label),
        scope=scope,
        token=token,
    )
    key = await door.call(
        auth.CREATE_KEY,
        auth.CreateKey(principal=ServiceId.parse(account.id), name=name, lifetime_days=KEY_DAYS),
        scope=scope,
        token=token,
    )
    return key.api_key
