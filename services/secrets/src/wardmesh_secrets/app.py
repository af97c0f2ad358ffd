"""Puts the vault together. Everything that is constructed, is constructed here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from wardmesh.server.kek import LocalKey
from wardmesh.server.runtime import Runtime
from wardmesh.server.settings import read_key
from wardmesh_secrets import handlers
from wardmesh_secrets.crypto import Keyring
from wardmesh_secrets.service import VaultService
from wardmesh_secrets.settings import Settings
from wardmesh_secrets.store import PostgresStore


@asynccontextmanager
async def build(runtime: Runtime, settings: Settings) -> AsyncIterator[None]:
    """The service, for as long as the block runs."""
    keyring = Keyring(LocalKey(read_key(settings.key_file)))
    handlers.bind(runtime.operations, VaultService(PostgresStore(runtime.database), keyring, _now))
    yield


def _now() -> datetime:
    return datetime.now(UTC)
