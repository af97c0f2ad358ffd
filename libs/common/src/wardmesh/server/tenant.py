"""On whose behalf a transaction runs, and the one statement that tells PostgreSQL so.

What always holds: everything that goes into the statement is a parsed id or a permission's name, neither of which
can contain a quote, a backslash or a comma. All four settings are always sent, so nothing of an earlier transaction
shows through, and all are local to the transaction.

On failure: `InvalidIdError` or `InvalidPermissionError`, both `ValueError`, before any SQL exists.

What it is no defence against: SQL injected into a service. The service's role may set these settings; that is why
statements are constants and values are parameters, everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wardmesh.ids import OrgId, Principal, WorkspaceId, parse_principal

MAX_PERMISSIONS: Final = 256
"""Of one service's vocabulary; the settings travel with every BEGIN, so pass only what its policies ask for."""

_PERMISSION = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\.[a-z0-9][a-z0-9_-]{0,63}")
_RELAY_ROLE = re.compile(r"wardmesh_[a-z]{1,32}_relay")
_CACHED_STATEMENTS = 4_096  # the same few callers come again and again


class InvalidPermissionError(ValueError):
    """Something that is not the name of a permission stood among the permissions."""


@dataclass(frozen=True, slots=True)
class TenantContext:
    """Who is asking, as the verified token says; a service acting by itself is `ServiceId.nil()` of the tenant."""

    org_id: OrgId
    workspace_id: WorkspaceId | None
    principal_id: Principal
    permissions: frozenset[str] = frozenset()


@lru_cache(maxsize=_CACHED_STATEMENTS)
def begin_as_tenant(tenant: TenantContext, *, read_only: bool = False) -> str:
    """Return BEGIN and the tenant's settings as one simple query."""
    if len(tenant.permissions) > MAX_PERMISSIONS:
        raise InvalidPermissionError(f"at most {MAX_PERMISSIONS} permissions, not {len(tenant.permissions)}")
    for permission in tenant.permissions:
        if _PERMISSION.fullmatch(permission) is None:
            raise InvalidPermissionError("a permission is named resource.action, in lower case")
    settings = {
        "app.org_id": OrgId.parse(tenant.org_id),
        "app.workspace_id": "" if tenant.workspace_id is None else WorkspaceId.parse(tenant.workspace_id),
        "app.principal_id": parse_principal(tenant.principal_id),
        "app.permissions": ",".join(sorted(tenant.permissions)),
    }
    begin = "BEGIN READ ONLY" if read_only else "BEGIN"
    return f"{begin}; SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())


def begin_as_relay(role: str) -> str:
    """Return BEGIN and SET LOCAL ROLE as one simple query; `role` is a service's outbox relay."""
    if _RELAY_ROLE.fullmatch(role) is None:
        raise ValueError("a relay's role is named wardmesh_{service}_relay")
    return f"BEGIN; SET LOCAL ROLE {role}"
