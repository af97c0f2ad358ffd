from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

_spec = importlib.util.spec_from_file_location("nats_server", Path(__file__).with_name("nats_server.py"))
assert _spec is not None
assert _spec.loader is not None
nats_server_module: Any = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("nats_server", nats_server_module)
_spec.loader.exec_module(nats_server_module)


@pytest.fixture(scope="session")
def bare_nats() -> Iterator[Any]:
    """A broker that knows no accounts."""
    server = nats_server_module.NatsServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def nats_client(bare_nats: Any) -> AsyncIterator[Client]:
    client = await nats.connect(bare_nats.url)
    yield client
    await client.close()
