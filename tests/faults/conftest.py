"""A mesh to break, and how often to break it: `--rounds=50` (`make faults`); one round in `make test`.

One round is a slice: every process is killed once, and the rest is cut short (`at_length` is false).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.faults.load import ARRIVALS, TOTALS
from tests.faults.world import House, build_house

from wardmesh_cli.embedded.mesh import EmbeddedMesh

sys.path.insert(0, str(Path(__file__).parents[2] / "services/audit/tests"))  # for what its `makers` are made of

TOKEN_SECONDS = 6
"""Tokens and connections expire all the time here, so that no fault is met by a credential that is fresh by chance."""

LOG_ROUNDS_EACH = 4
"""Rounds of the log alone for each round of the whole mesh: they are shorter, and fifty make two hundred."""


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults")
    faults.addoption("--rounds", type=int, default=1, help="rounds of kill -9 under load (tests/faults)")
    faults.addoption("--seed", type=int, default=1, help="seed of the first round; each further one counts up by one")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds, most of it waiting")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        # Without the default: when the whole suite runs, this file is read after the command line was.
        first, rounds = metafunc.config.getoption("--seed", 1), metafunc.config.getoption("--rounds", 1)
        metafunc.parametrize("seed", range(first, first + rounds))
    if "log_seed" in metafunc.fixturenames:
        first, rounds = metafunc.config.getoption("--seed", 1), metafunc.config.getoption("--rounds", 1)
        metafunc.parametrize("log_seed", range(first, first + (rounds * LOG_ROUNDS_EACH if rounds > 1 else 1)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOTALS:
        terminalreporter.section("calls under load, by what they ended in")
        for line in ARRIVALS:
            terminalreporter.write_line(line)
        for kind, outcomes in sorted(TOTALS.items()):
            shown = ", ".join(f"{count} {code}" for code, count in outcomes.most_common())
            terminalreporter.write_line(f"  {kind:<14} {outcomes.total():>7}: {shown}")
        total = sum(outcomes.total() for outcomes in TOTALS.values())
        terminalreporter.write_line(f"  {'all':<14} {total:>7}")


class ReportedMesh(EmbeddedMesh):
    """An embedded mesh that keeps what it reported: which process died, and which had to be forced."""

    reports: list[str]


def _command(service: str) -> Sequence[str]:
    return ("env", f"WARDMESH_AUTH_TOKEN_SECONDS={TOKEN_SECONDS}", sys.executable, "-P", "-m", f"wardmesh_{service}")


@pytest.fixture(scope="session")
async def breakable(request: pytest.FixtureRequest) -> AsyncIterator[ReportedMesh]:
    """A mesh of this suite's own: nothing else should run on one whose servers are killed."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-faults-"))
    reports: list[str] = []
    mesh = ReportedMesh(data_dir=folder / "data", command=_command, progress=reports.append)
    mesh.reports = reports
    async with mesh:
        yield mesh
    if request.session.testsfailed:
        print(f"the logs of the mesh that was broken are in {mesh.layout.logs}")
    else:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def at_length(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for more than a slice."""
    return bool(request.config.getoption("--rounds", 1) > 1)


@pytest.fixture
async def house(breakable: EmbeddedMesh) -> House:
    """Two workspaces that agreed to talk, an open door, and keys to work with."""
    return await build_house(breakable)
