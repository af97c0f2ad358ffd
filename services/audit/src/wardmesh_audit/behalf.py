"""On whose behalf the log is read and written: a tenant's, or its own.

The log itself acts as `ServiceId.nil()` of the scope with the permission `audit.seal`, which no token can carry. The
organization of a workspace is not known to the log; the nil organization stands in its place, and policies look at the
workspace alone.
"""

from __future__ import annotations

from typing import Final

from wardmesh.ids import OrgId, Scope, ServiceId, WorkspaceId
from wardmesh.server.tenant import TenantContext

SEAL: Final = "audit.seal"
COSIGN: Final = "audit.cosign"
"""Of the witness, who keeps its books of other people's logs in the mesh's own scope; no token can carry it either."""


def the_log(scope: Scope) -> TenantContext:
    """Return on whose behalf the log itself acts."""
    if isinstance(scope, WorkspaceId):
        return TenantContext(OrgId.nil(), scope, ServiceId.nil(), frozenset({SEAL}))
    return TenantContext(OrgId.parse(scope), None, ServiceId.nil(), frozenset({SEAL}))


def scope_of(tenant: TenantContext) -> Scope:
    """Return whose log a tenant reads: the same that app.scope_id() says."""
    return tenant.org_id if tenant.workspace_id is None else tenant.workspace_id
