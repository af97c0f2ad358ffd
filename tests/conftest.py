"""One mesh for the whole suite, and organizations in it that no other test shares."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.mesh.witness import WitnessMesh
from tests.mesh.world import Tenant, sign_up

from wardmesh_cli.embedded.mesh import EmbeddedMesh


@pytest.fixture(scope="session")
async def running_mesh() -> AsyncIterator[WitnessMesh]:
    """NATS, PostgreSQL and the five services, as processes; the witness of others' logs too."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-mesh-"))
    async with WitnessMesh(folder, log_level="debug") as mesh:
        yield mesh
    shutil.rmtree(folder)


@pytest.fixture
async def acme(running_mesh: EmbeddedMesh) -> Tenant:
    """An organization of this test's own."""
    return await sign_up(running_mesh, "acme")


@pytest.fixture
async def rival(running_mesh: EmbeddedMesh) -> Tenant:
    """Another one."""
    return await sign_up(running_mesh, "rival")
