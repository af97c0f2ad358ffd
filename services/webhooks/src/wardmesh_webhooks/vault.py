"""Signing secrets at rest: sealed under the service's own key, each bound to its source.

What always holds: a signing secret is in the database as ciphertext only, and opens for the workspace, the name and
the scheme that it was given for. It is opened for one verification at a time and kept nowhere.

On failure: `SourceUnusable` if a stored secret does not open, as after the key file was exchanged.
"""

from __future__ import annotations

import os

from wardmesh.contracts.webhooks import Scheme
from wardmesh.crypto import aead
from wardmesh.crypto.aead import Random
from wardmesh.crypto.errors import Undecryptable
from wardmesh.ids import WorkspaceId
from wardmesh_webhooks.domain import StoredSource, secret_context
from wardmesh_webhooks.errors import SourceUnusable
from wardmesh_webhooks.scheme import read_secrets
from wardmesh_webhooks.schemes import SCHEMES


class SecretVault:
    """Seals and opens under one key encryption key of 32 bytes."""

    def __init__(self, key: bytes, *, random: Random = os.urandom) -> None:
        self._key = key
        self._random = random

    def seal(self, workspace: WorkspaceId, name: str, scheme: Scheme, secret: str) -> bytes:
        """Return a signing secret sealed; raise `SecretRefused` if it can't be one of the scheme's."""
        read_secrets(SCHEMES[scheme], secret)
        context = secret_context(workspace, name, scheme)
        return aead.seal(self._key, secret.encode(), context, random=self._random)

    def open(self, source: StoredSource) -> tuple[bytes, ...]:
        """Return the keys that the source signs with."""
        context = secret_context(source.workspace, source.name, source.scheme)
        try:
            secret = aead.open_(self._key, source.sealed_secret, context)
        except Undecryptable as error:
            raise SourceUnusable from error
        return read_secrets(SCHEMES[source.scheme], secret.decode())
