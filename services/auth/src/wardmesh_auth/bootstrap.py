"""The first administrator of a mesh that has none: an organization, an owner's password and an owner's API key.

For a mesh that one person starts for themselves (`wardmesh up`). Runs once: when the file is there, nothing happens.

What always holds: the file is readable by its owner only, and appears whole, after what it opens exists. A crash in
between leaves an organization that nobody can open, and the next start makes another.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wardmesh.contracts import auth as contracts
from wardmesh.contracts.operation import AnyContract, Level
from wardmesh.ids import OrgId, Principal, Scope, UserId
from wardmesh.server.context import Call
from wardmesh.server.tokens import Caller
from wardmesh_auth.domain import Rights
from wardmesh_auth.service import IdentityService
from wardmesh_auth.sessions import SessionService

EMAIL: Final = "admin@wardmesh.local"
ORGANIZATION: Final = "wardmesh"
ACCOUNT: Final = "admin"
PASSWORD_BYTES: Final = 18
KEY_DAYS: Final = 365

NewCall = Callable[[AnyContract, Scope, Principal], Call]
"""Makes a call as the gates would, for what nobody has asked over the wire."""


async def bootstrap(path: Path, sessions: SessionService, identities: IdentityService, new_call: NewCall) -> None:
    """Make the first administrator and write its credentials to `path`, unless that is there."""
    if await asyncio.to_thread(path.exists):
        return
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    call = new_call(contracts.SIGN_UP, OrgId.nil(), UserId.nil())
    made = await sessions.sign_up(call, contracts.SignUp(organization=ORGANIZATION, email=EMAIL, password=password))
    organization, user = made.organization, made.user

    def as_owner(contract: AnyContract) -> Call:
        call = new_call(contract, organization, user)
        call.admit(_owner(organization, user))
        return call

    account = await identities.create_service_account(
        as_owner(contracts.CREATE_SERVICE_ACCOUNT),
        contracts.CreateServiceAccount(name=ACCOUNT, level=Level.OWNER.label),
    )
    key = await identities.create_key(
        as_owner(contracts.CREATE_KEY),
        contracts.CreateKey(principal=account.id, name=ACCOUNT, lifetime_days=KEY_DAYS),
    )
    _write_private(
        path,
        {
            "organization": organization,
            "workspace": made.workspace,
            "user": user,
            "email": EMAIL,
            "password": password,
            "principal": account.id,
            "api_key": key.api_key,
        },
    )


def _owner(organization: OrgId, user: UserId) -> Caller:
    rights = Rights(Level.OWNER)
    return Caller(
        principal=user,
        scope=organization,
        organization=organization,
        workspace=None,
        level=rights.level,
        permissions=rights.permissions(user),
        acting_for=None,
        holder_key=None,
        token_id="",
        credential_id="",
        issued_at=0,
        expires_at=0,
    )


def _write_private(path: Path, content: dict[str, str]) -> None:
    """Write a file that appears whole or not at all, for its owner only."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
