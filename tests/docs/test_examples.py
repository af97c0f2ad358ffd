"""Every example of the documents runs, on a mesh, and prints what the page says it prints."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from docs.generate import ROOT
from tests.docs.examples import Example, is_as_expected, programs, sessions

from wardmesh_cli import profile as profiles
from wardmesh_cli.bootstrap import first_administrator
from wardmesh_cli.door import open_door
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.profile import Profile

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*/*/README.md"))]
PROGRAMS = [program for document in DOCUMENTS for program in programs(document)]
SESSIONS = [session for document in DOCUMENTS for session in sessions(document)]
SECONDS = 60


@pytest.fixture(scope="module")
async def place(running_mesh: EmbeddedMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile in it, as `wardmesh up` would have left it."""
    folder = tmp_path_factory.mktemp("examples")
    async with open_door(running_mesh.http_url) as door:
        administrator = await first_administrator(door)
    (folder / profiles.FOLDER).mkdir(mode=0o700)
    profile = Profile(
        url=running_mesh.nats_url,
        http_url=running_mesh.http_url,
        ingest_url=running_mesh.ingest_url,
        monitoring_url=running_mesh.nats_monitoring_url,
        organization=administrator.organization,
        workspace=administrator.workspace,
        api_key=administrator.api_key,
        workspace_key=administrator.workspace_key,
    )
    profiles.save(folder / profiles.FOLDER / profiles.FILE, profile)
    (folder / profiles.FOLDER / "identities").symlink_to(running_mesh.layout.identities.folder)
    return folder


def as_a_backend(place: Path) -> dict[str, str]:
    """Return what `wardmesh env` prints."""
    profile = profiles.load(place / profiles.FOLDER / profiles.FILE)
    return {"WARDMESH_URL": profile.url, "WARDMESH_API_KEY": profile.workspace_key or ""}


async def run(place: Path, *command: str, **environment: str) -> tuple[int, str]:
    """Return the exit status, and what was said on both streams."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=place,
        env={"PATH": path, "HOME": str(place), "COLUMNS": "200", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
async def test_a_program_runs_and_prints_what_the_page_says(place: Path, program: Example) -> None:
    if "def test_" in program.text:
        (place / "test_example.py").write_text(program.text)
        options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"]
        command = ["-m", "pytest", *(f"-o{option}" for option in options), "-p", "no:cacheprovider", "test_example.py"]
    else:
        command = ["-c", program.text]
    status, said = await run(place, sys.executable, "-W", "error", *command, **as_a_backend(place))
    assert status == 0, said
    assert program.expected is None or is_as_expected(program.expected, said), said


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: str(session[0]))
async def test_commands_say_what_the_page_says(place: Path, session: list[Example]) -> None:
    for example in session:
        _status, said = await run(place, "bash", "-c", example.text)
        assert example.expected is not None
        assert is_as_expected(example.expected, said), f"$ {example.text}\n{said}"


def test_there_are_examples() -> None:
    assert PROGRAMS
    assert SESSIONS


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("stored a, version 1", "stored a, version 1\n", True),
        ("stored a, version 1", "stored a, version 2\n", False),
        ("id  agt_…\nname x", "id      agt_01h\nname    x\n", True),
        ("id  agt_…\nname x", "id      agt_01h\nlevel   x\n", False),
        ("…\nsound", "log\nkey\nsound\n", True),
        ("…\nsound", "log\nkey\n", False),
        ("first", "first\nsecond\n", True),
        ("second", "first\nsecond\n", False),
    ],
)
def test_what_counts_as_the_same(expected: str, output: str, same: bool) -> None:
    assert is_as_expected(expected, output) is same
