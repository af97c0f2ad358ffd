"""The pytest plugin. Importing it starts nothing; a mesh is started by the first test that asks for one.

What always holds: fixtures are a session's, and start once in each process (pytest-xdist's workers have one each). They
work in tests of any event loop, and in tests without one. What was started is stopped at the end, its files removed.

On failure: a test that needs what can't be had here fails with a sentence that says what to do. A failing test of a
mesh shows what the services logged meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from wardmesh.testing import options

if TYPE_CHECKING:
    from wardmesh.testing.background import Background
    from wardmesh.testing.running import BareServer, RunningMesh

SHOWN_LINES: Final = 20
"""Of each process's log, for a test that failed."""

_MESH: Final = pytest.StashKey["RunningMesh"]()
_SIZES: Final = pytest.StashKey[dict[Path, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    options.chosen(config)  # a wrong backend is told before any test runs


@pytest.fixture(scope="session")
def _wardmesh_background() -> Iterator[Background]:
    with _needs_extra():
        from wardmesh.testing.background import Background
    with Background() as background:
        yield background


@pytest.fixture(scope="session")
def nats_server(_wardmesh_background: Background, request: pytest.FixtureRequest) -> Iterator[BareServer]:
    """A NATS server with JetStream and without accounts: its `url`."""
    chosen = options.chosen(request.config)
    with _folder() as folder, _told():
        with _needs_extra():
            from wardmesh.testing import running

            if chosen.backend == options.CONTAINERS:
                from wardmesh.testing import containers

                server = containers.nats_server(chosen.nats_image)
            else:
                from wardmesh.testing import bare

                server = bare.nats_server(folder)
        with _wardmesh_background.opened(server) as url:
            yield running.BareServer(url)


@pytest.fixture(scope="session")
def postgres(_wardmesh_background: Background, request: pytest.FixtureRequest) -> Iterator[BareServer]:
    """A PostgreSQL server: its superuser's `url`."""
    chosen = options.chosen(request.config)
    with _folder() as folder, _told():
        with _needs_extra():
            from wardmesh.testing import running

            if chosen.backend == options.CONTAINERS:
                from wardmesh.testing import containers

                server = containers.postgres(chosen.postgres_image)
            else:
                from wardmesh.testing import bare

                server = bare.postgres(folder)
        with _wardmesh_background.opened(server) as url:
            yield running.BareServer(url)


@pytest.fixture(scope="session")
def mesh(_wardmesh_background: Background, request: pytest.FixtureRequest) -> Iterator[RunningMesh]:
    """A whole mesh, with an organization in it: see `wardmesh.testing.RunningMesh`."""
    chosen = options.chosen(request.config)
    with _folder() as folder, _told():
        with _needs_extra():
            from wardmesh.testing import running
            from wardmesh_cli.embedded.servers import EmbeddedServers, Servers

            servers: Servers = EmbeddedServers()
            if chosen.backend == options.CONTAINERS:
                from wardmesh.testing import containers

                servers = containers.ContainerServers(chosen.nats_image, chosen.postgres_image)
        with _wardmesh_background.opened(running.running(folder, servers, _wardmesh_background)) as started:
            request.config.stash[_MESH] = started
            try:
                yield started
            finally:
                del request.config.stash[_MESH]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    running = item.config.stash.get(_MESH, None)
    item.stash[_SIZES] = {} if running is None else {file: file.stat().st_size for file in running.logs.values()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = item.config.stash.get(_MESH, None)
    if report.failed and running is not None and "mesh" in getattr(item, "fixturenames", ()):
        sizes = item.stash.get(_SIZES, {})
        for process, file in running.logs.items():
            with file.open("rb") as log:
                log.seek(sizes.get(file, 0))
                lines = log.read().decode("utf-8", "replace").splitlines()
            if lines:
                report.sections.append((f"wardmesh {process} logged", "\n".join(lines[-SHOWN_LINES:])))
    return report


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is removed at the end. Not pytest's own: a socket's path in it would be too long."""
    with tempfile.TemporaryDirectory(prefix="wardmesh-test-") as folder:
        yield Path(folder)


@contextmanager
def _needs_extra() -> Iterator[None]:
    """Import what the extra brings inside this block."""
    try:
        yield
    except ImportError as error:
        pytest.fail(
            f"this fixture needs {error.name or 'a module'}, which is not installed: pip install 'wardmesh[testing]'",
            pytrace=False,
        )


@contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong with a mesh into its sentence, without our own frames above it."""
    with _needs_extra():
        from wardmesh_cli.embedded.errors import EmbeddedError
    try:
        yield
    except EmbeddedError as error:
        pytest.fail(str(error), pytrace=False)
