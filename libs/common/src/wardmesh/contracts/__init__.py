"""Every operation of the mesh, by `service.operation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wardmesh.contracts import audit, auth, bridge, secrets, webhooks
from wardmesh.contracts.operation import AnyContract, Permission, index

ALL: Final[Mapping[str, AnyContract]] = index(
    auth.CONTRACTS, secrets.CONTRACTS, bridge.CONTRACTS, webhooks.CONTRACTS, audit.CONTRACTS
)

PERMISSIONS: Final[Mapping[str, Permission]] = {
    contract.access.name: contract.access for contract in ALL.values() if isinstance(contract.access, Permission)
}
"""Every permission that some operation needs, by name."""


def of_service(service: str) -> tuple[AnyContract, ...]:
    """Return the contracts that `service` answers."""
    return tuple(contract for contract in ALL.values() if contract.service == service)
