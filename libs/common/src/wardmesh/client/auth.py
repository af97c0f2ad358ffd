"""`mesh.auth`: organizations, workspaces, principals, keys, tokens."""

from __future__ import annotations

from wardmesh.client.methods import Surface, method
from wardmesh.contracts import auth


class Auth(Surface):
    """The auth service."""

    sign_up = method(auth.SIGN_UP)
    log_in = method(auth.LOG_IN)
    refresh = method(auth.REFRESH)
    exchange_key = method(auth.EXCHANGE_KEY)
    who_am_i = method(auth.WHO_AM_I)
    create_workspace = method(auth.CREATE_WORKSPACE)
    list_workspaces = method(auth.LIST_WORKSPACES)
    create_user = method(auth.CREATE_USER)
    create_agent = method(auth.CREATE_AGENT)
    create_service_account = method(auth.CREATE_SERVICE_ACCOUNT)
    list_principals = method(auth.LIST_PRINCIPALS)
    set_level = method(auth.SET_LEVEL)
    create_key = method(auth.CREATE_KEY)
    list_keys = method(auth.LIST_KEYS)
    revoke_key = method(auth.REVOKE_KEY)
    revoke_principal = method(auth.REVOKE_PRINCIPAL)
