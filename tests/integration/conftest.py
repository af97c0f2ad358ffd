"""The integration suite sees a mesh as its users do, through `wardmesh.testing`, and runs on either of its backends.

    pytest tests/integration                                     # servers from wheels
    pytest tests/integration --wardmesh-backend=containers       # servers in containers: make test-containers

Tests share one mesh and make workspaces of their own in it. What looks into a mesh's insides is in `tests/mesh`.
"""

from __future__ import annotations

import pytest

from wardmesh.ids import WorkspaceId
from wardmesh.testing import RunningMesh


@pytest.fixture
async def workspace(mesh: RunningMesh) -> WorkspaceId:
    """A workspace of this test's own."""
    return await mesh.workspace()
