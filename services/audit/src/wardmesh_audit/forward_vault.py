"""What a forwarder must not show, at rest: its path, its secret and its key, sealed under the service's own key.

What always holds: they are in the database as ciphertext only, and open for the scope, the name, the address and the
header that they were given for. Whoever changes a row so that it points elsewhere gets nothing sent there.

On failure: `Undecryptable` if they do not open, as after the key file was exchanged.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Final

from wardmesh.crypto import aead
from wardmesh.crypto.aead import Random
from wardmesh.ids import Scope
from wardmesh_audit.client_certificates import ClientCertificate

_LABEL: Final = b"wardmesh/audit/forwarder/v1"


@dataclass(frozen=True, slots=True)
class Hidden:
    """What only the endpoint gets to see."""

    path: str
    secret: str | None = None
    client: ClientCertificate | None = None

    def __repr__(self) -> str:
        return "Hidden(…)"


class ForwardVault:
    """Seals and opens under one key of 32 bytes."""

    def __init__(self, key: bytes, *, random: Random = os.urandom) -> None:
        self._key = key
        self._random = random

    def seal(self, scope: Scope, name: str, address: str, header: str | None, hidden: Hidden) -> bytes:
        """Return what is hidden, sealed for this place."""
        said: dict[str, object] = {"path": hidden.path, "secret": hidden.secret}
        if hidden.client is not None:
            said["client"] = asdict(hidden.client)
        content = json.dumps(said).encode()
        return aead.seal(self._key, content, _context(scope, name, address, header), random=self._random)

    def open(self, scope: Scope, name: str, address: str, header: str | None, sealed: bytes) -> Hidden:
        """Return what was sealed for this place."""
        said = json.loads(aead.open_(self._key, sealed, _context(scope, name, address, header)))
        client = said.get("client")
        return Hidden(said["path"], said["secret"], None if client is None else ClientCertificate(**client))


def _context(scope: Scope, name: str, address: str, header: str | None) -> list[bytes]:
    return [_LABEL, scope.encode(), name.encode(), address.encode(), (header or "").encode()]
