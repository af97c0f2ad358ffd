"""Binds the contracts of the webhooks service to its use cases. No rules here."""

from __future__ import annotations

from wardmesh.contracts import webhooks as contracts
from wardmesh.server.operations import Operations
from wardmesh_webhooks.service import WebhookService


def bind(operations: Operations, service: WebhookService) -> None:
    operations.bind(contracts.CREATE_SOURCE, service.create_source)
    operations.bind(contracts.LIST_SOURCES, service.list_sources)
    operations.bind(contracts.DELETE_SOURCE, service.delete_source)
    operations.bind(contracts.PUBLISH, service.publish)
    operations.bind(contracts.FETCH, service.fetch)
