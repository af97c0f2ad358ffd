"""Binds the vault's contracts to its use cases. No rules here."""

from __future__ import annotations

from wardmesh.contracts import secrets as contracts
from wardmesh.server.operations import Operations
from wardmesh_secrets.service import VaultService


def bind(operations: Operations, service: VaultService) -> None:
    operations.bind(contracts.SEALING_KEY, service.sealing_key)
    operations.bind(contracts.PUT, service.put)
    operations.bind(contracts.GET, service.get)
    operations.bind(contracts.LIST, service.list)
    operations.bind(contracts.GRANT, service.grant)
    operations.bind(contracts.REVOKE_GRANT, service.revoke_grant)
    operations.bind(contracts.LIST_GRANTS, service.list_grants)
