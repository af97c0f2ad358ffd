"""The command beside a mesh in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `fake_mesh` and `command_shell`, which are no tests

from command_shell import Shell
from fake_mesh import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def wardmesh(tmp_path: Path, world: World) -> Shell:
    """The command beside a `.wardmesh/` folder."""
    shell = Shell(tmp_path, world, environ={"HOME": str(tmp_path / "home")})
    shell.with_profile()
    return shell
