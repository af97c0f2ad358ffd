"""Binds the bridge's contracts to its use cases, and its stream to the deliverer. No rules here."""

from __future__ import annotations

from wardmesh.contracts import bridge as contracts
from wardmesh.server.operations import Operations
from wardmesh_bridge.service import BridgeService


def bind(operations: Operations, service: BridgeService) -> None:
    operations.bind(contracts.PROPOSE, service.propose)
    operations.bind(contracts.ACCEPT, service.accept)
    operations.bind(contracts.REVOKE, service.revoke)
    operations.bind(contracts.LIST, service.list)
    operations.bind(contracts.KEY, service.key)
    operations.bind(contracts.SEND, service.send)
    operations.bind(contracts.FETCH, service.fetch)
