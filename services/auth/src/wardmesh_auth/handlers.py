"""Binds auth's contracts to its use cases. No rules here."""

from __future__ import annotations

from wardmesh.contracts import auth as contracts
from wardmesh.server.operations import Operations
from wardmesh_auth.revocation import RevocationService
from wardmesh_auth.service import IdentityService
from wardmesh_auth.sessions import SessionService


def bind(
    operations: Operations, sessions: SessionService, identities: IdentityService, revocations: RevocationService
) -> None:
    operations.bind(contracts.SIGN_UP, sessions.sign_up)
    operations.bind(contracts.LOG_IN, sessions.log_in)
    operations.bind(contracts.REFRESH, sessions.refresh)
    operations.bind(contracts.EXCHANGE_KEY, sessions.exchange_key)
    operations.bind(contracts.WHO_AM_I, identities.who_am_i)
    operations.bind(contracts.CREATE_WORKSPACE, identities.create_workspace)
    operations.bind(contracts.LIST_WORKSPACES, identities.list_workspaces)
    operations.bind(contracts.CREATE_USER, identities.create_user)
    operations.bind(contracts.CREATE_AGENT, identities.create_agent)
    operations.bind(contracts.CREATE_SERVICE_ACCOUNT, identities.create_service_account)
    operations.bind(contracts.LIST_PRINCIPALS, identities.list_principals)
    operations.bind(contracts.SET_LEVEL, identities.set_level)
    operations.bind(contracts.CREATE_KEY, identities.create_key)
    operations.bind(contracts.LIST_KEYS, identities.list_keys)
    operations.bind(contracts.REVOKE_KEY, revocations.revoke_key)
    operations.bind(contracts.REVOKE_PRINCIPAL, revocations.revoke_principal)
