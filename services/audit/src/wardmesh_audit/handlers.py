"""Binds the log's contracts to its use cases. No rules here."""

from __future__ import annotations

from wardmesh.contracts import audit as contracts
from wardmesh.server.operations import Operations
from wardmesh_audit.service import AuditService


def bind(operations: Operations, service: AuditService) -> None:
    operations.bind(contracts.EMIT, service.emit)
    operations.bind(contracts.QUERY, service.query)
    operations.bind(contracts.TAIL, service.tail)
    operations.bind(contracts.CHECKPOINT, service.checkpoint)
    operations.bind(contracts.LEAVES, service.leaves)
    operations.bind(contracts.PROVE, service.prove)
