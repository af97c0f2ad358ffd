"""wardmesh: the security control plane of platforms whose workspaces run AI agents. This is its client.

    import wardmesh

    async with wardmesh.connect() as mesh:                 # WARDMESH_URL and WARDMESH_API_KEY
        key = await mesh.secrets.get("openai/api-key")

Errors are in `wardmesh.errors`, ids in `wardmesh.ids`, requests and responses in `wardmesh.contracts`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wardmesh.client.bridge import ReceivedMessage
    from wardmesh.client.mesh import Mesh, connect
    from wardmesh.client.spool_errors import SpoolFull, SpoolUnusable
    from wardmesh.client.webhooks import ReceivedEvent
    from wardmesh.contracts.audit import (
        ActionExecution,
        Administration,
        Authentication,
        Authorization,
        BridgeExchange,
        ConfigurationChange,
        DataSync,
        ModelUsage,
        NewAuditEvent,
        Outcome,
        PrivilegedAccess,
        SecretAccess,
        ToolCall,
        WebhookReceipt,
    )
    from wardmesh.contracts.operation import Category
    from wardmesh.crypto.sealing import HolderKey
    from wardmesh.errors import WardmeshError

__all__ = [
    "ActionExecution",
    "Administration",
    "Authentication",
    "Authorization",
    "BridgeExchange",
    "Category",
    "ConfigurationChange",
    "DataSync",
    "HolderKey",
    "Mesh",
    "ModelUsage",
    "NewAuditEvent",
    "Outcome",
    "PrivilegedAccess",
    "ReceivedEvent",
    "ReceivedMessage",
    "SecretAccess",
    "SpoolFull",
    "SpoolUnusable",
    "ToolCall",
    "WardmeshError",
    "WebhookReceipt",
    "connect",
]

# Imported when first used: a service that needs `wardmesh.ids` does not load the client with it.
_HOMES: Final = {
    "ActionExecution": "wardmesh.contracts.audit",
    "Administration": "wardmesh.contracts.audit",
    "Authentication": "wardmesh.contracts.audit",
    "Authorization": "wardmesh.contracts.audit",
    "BridgeExchange": "wardmesh.contracts.audit",
    "Category": "wardmesh.contracts.operation",
    "ConfigurationChange": "wardmesh.contracts.audit",
    "DataSync": "wardmesh.contracts.audit",
    "HolderKey": "wardmesh.crypto.sealing",
    "Mesh": "wardmesh.client.mesh",
    "ModelUsage": "wardmesh.contracts.audit",
    "NewAuditEvent": "wardmesh.contracts.audit",
    "Outcome": "wardmesh.contracts.audit",
    "PrivilegedAccess": "wardmesh.contracts.audit",
    "ReceivedEvent": "wardmesh.client.webhooks",
    "ReceivedMessage": "wardmesh.client.bridge",
    "SecretAccess": "wardmesh.contracts.audit",
    "SpoolFull": "wardmesh.client.spool_errors",
    "SpoolUnusable": "wardmesh.client.spool_errors",
    "ToolCall": "wardmesh.contracts.audit",
    "WardmeshError": "wardmesh.errors",
    "WebhookReceipt": "wardmesh.contracts.audit",
    "connect": "wardmesh.client.mesh",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
