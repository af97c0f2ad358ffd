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
    from wardmesh.client.usage import ModelUsage
    from wardmesh.client.webhooks import ReceivedEvent
    from wardmesh.contracts.audit import NewAuditEvent, Outcome
    from wardmesh.contracts.operation import Category
    from wardmesh.crypto.sealing import HolderKey
    from wardmesh.errors import WardmeshError

__all__ = [
    "Category",
    "HolderKey",
    "Mesh",
    "ModelUsage",
    "NewAuditEvent",
    "Outcome",
    "ReceivedEvent",
    "ReceivedMessage",
    "WardmeshError",
    "connect",
]

# Imported when first used: a service that needs `wardmesh.ids` does not load the client with it.
_HOMES: Final = {
    "Category": "wardmesh.contracts.operation",
    "HolderKey": "wardmesh.crypto.sealing",
    "Mesh": "wardmesh.client.mesh",
    "ModelUsage": "wardmesh.client.usage",
    "NewAuditEvent": "wardmesh.contracts.audit",
    "Outcome": "wardmesh.contracts.audit",
    "ReceivedEvent": "wardmesh.client.webhooks",
    "ReceivedMessage": "wardmesh.client.bridge",
    "WardmeshError": "wardmesh.errors",
    "connect": "wardmesh.client.mesh",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
