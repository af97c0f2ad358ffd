"""What every stream of the mesh has in common."""

from __future__ import annotations

import pytest
from nats.js.api import StorageType

from wardmesh.server.streams import Choices, declared


@pytest.mark.parametrize("name", declared(Choices()))
def test_a_stream_outlives_its_server(name: str) -> None:
    """One in memory is gone after a crash, and nobody but an operator would declare it again."""
    assert declared(Choices())[name].storage is StorageType.FILE
