"""Who may do what: the one rule that turns a level and a token's list into permissions.

Pure. What always holds: a principal never holds a permission that its kind may not have, whatever its level or its
token says; a name that no contract declares grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from wardmesh.contracts import PERMISSIONS
from wardmesh.contracts.operation import Access, Credential, Level
from wardmesh.ids import Principal


@lru_cache(maxsize=4096)
def _of_level(level: Level, kind: str) -> frozenset[str]:
    return frozenset(
        name for name, permission in PERMISSIONS.items() if level >= permission.level and kind in permission.kinds
    )


def permissions_of_level(level: Level, principal: Principal) -> frozenset[str]:
    """Return what a principal of this kind holds by its level alone."""
    return _of_level(level, principal.prefix)


def effective_permissions(level: Level, listed: Iterable[str] | None, principal: Principal) -> frozenset[str]:
    """Return what a token grants: exactly what it lists if it lists anything, else what the level holds."""
    if listed is None:
        return permissions_of_level(level, principal)
    return frozenset(name for name in listed if name in PERMISSIONS and principal.prefix in PERMISSIONS[name].kinds)


def is_allowed(access: Access, permissions: frozenset[str], principal: Principal) -> bool:
    """Tell whether somebody with `permissions` may call an operation with this `access`."""
    if isinstance(access, Credential):
        return True
    return access.name in permissions and principal.prefix in access.kinds
