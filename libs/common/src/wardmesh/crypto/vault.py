"""What a sealed value is bound to while it travels: the `info` of `wardmesh.crypto.sealing`, field by field.

    put          label ‖ workspace ‖ principal ‖ path ‖ key id ‖ request id     client → vault
    get          label ‖ workspace ‖ principal ‖ path ‖ version ‖ request id    vault → client
    bridge key   label ‖ workspace ‖ principal ‖ agreement ‖ key id ‖ request id    bridge → client

Text is UTF-8 and the version decimal ASCII; `sealing` puts a length before each field. The request id is the header
`Request-Id` of the call, the principal and the workspace are those of its subject. `path` and `key id` are
those of the request, `version` the one of the answer (a request may ask for the newest).

What always holds: a value that was sealed for one call cannot be passed off in another, be it an older answer, another
path or another tenant: it does not open. Labels differ, so neither can a value be turned back to where it came from.

On failure: these functions have none. Opening with a differing field fails as `Undecryptable`.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from wardmesh.ids import AgreementId, Principal, RequestId, WorkspaceId

Info: TypeAlias = tuple[bytes, ...]

_PUT: Final = b"wardmesh/vault/v1/put"
_GET: Final = b"wardmesh/vault/v1/get"
_BRIDGE_KEY: Final = b"wardmesh/bridge/v1/key"


def put_info(*, workspace: WorkspaceId, principal: Principal, path: str, key_id: str, request_id: RequestId) -> Info:
    """Return what a value is bound to on its way into the vault."""
    return _fields(_PUT, workspace, principal, path, key_id, request_id)


def get_info(*, workspace: WorkspaceId, principal: Principal, path: str, version: int, request_id: RequestId) -> Info:
    """Return what a value is bound to on its way out of the vault."""
    return _fields(_GET, workspace, principal, path, str(version), request_id)


def bridge_key_info(
    *, workspace: WorkspaceId, principal: Principal, agreement: AgreementId, key_id: str, request_id: RequestId
) -> Info:
    """Return what an agreement's key is bound to on its way to one of the two sides."""
    return _fields(_BRIDGE_KEY, workspace, principal, agreement, key_id, request_id)


def _fields(label: bytes, *fields: str) -> Info:
    return (label, *(field.encode() for field in fields))
