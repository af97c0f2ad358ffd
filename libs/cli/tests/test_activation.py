"""What is printed for people to type can be typed."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from wardmesh_cli.activation import activation, typed


def test_a_command_that_is_not_on_the_path_is_said_how_to_get_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / ".venv/bin"
    scripts.mkdir(parents=True)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(scripts))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert activation() is None, "there is nothing to activate"
    (scripts / "activate").touch()
    assert activation() == "source .venv/bin/activate"
    assert typed("wardmesh up") == "source .venv/bin/activate && wardmesh up"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert activation() == f"source {scripts}/activate"
    command = tmp_path / "wardmesh"
    command.touch(mode=0o755)
    assert activation() is None, "it runs as it is printed"
    assert typed("wardmesh up") == "wardmesh up"
