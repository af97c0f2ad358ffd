"""Bring docker-compose.yml up, show what it must show, take it down. Exits with 1 if something was not shown."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tests.compose import scenes
from tests.compose.project import Project, Unavailable, compose_command
from tests.compose.scenes import Play, Scene
from tests.compose.traffic import flowing

from wardmesh.tls import trusting

TOTAL_SECONDS: Final = 30 * 60.0
LOG_LINES: Final = 40

AT_REST: Final[tuple[tuple[str, Scene], ...]] = (
    ("nobody is root, nothing can be written, nothing else is published", scenes.closed_to_others),
    ("every stream has three copies", scenes.three_copies),
    ("the tour, through the doors", scenes.toured),
)
UNDER_LOAD: Final[tuple[tuple[str, Scene], ...]] = (
    ("a NATS node is killed", scenes.a_node_killed),
    ("webhooks is killed", scenes.killed("webhooks")),
    ("audit is killed", scenes.killed("audit")),
    ("the database is killed", scenes.killed("postgres")),
    ("nothing that was acknowledged is missing", scenes.nothing_missing),
    ("the log verifies", scenes.log_verifies),
)


async def main() -> int:
    total = 2 + len(AT_REST) + len(UNDER_LOAD)
    try:
        compose = compose_command()
    except Unavailable as missing:
        print(f"skipped: {missing}; the compose file needs both a Docker daemon and compose")
        print(f"0 passed, 0 failed, {total} skipped")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-compose-"))
    told = Told()
    project = Project(compose, folder)
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            await play(project, told)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told below, whatever it was
        told.failed(error)
        print(await _logs(project))
    finally:
        try:
            await project.down()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{told.passed} passed, {told.failures} failed, {total - told.passed - told.failures} skipped")
    return 1 if told.failures else 0


class Told:
    """Tells steps as they are done, and counts them."""

    def __init__(self) -> None:
        self.passed = 0
        self.failures = 0
        self._title = ""
        self._began = 0.0

    def begin(self, title: str) -> None:
        self._title, self._began = title, time.monotonic()

    def done(self, says: str) -> None:
        self.passed += 1
        print(f"  ok  {self._title}: {says} ({time.monotonic() - self._began:.1f} s)", flush=True)

    def failed(self, error: BaseException) -> None:
        self.failures += 1
        reason = str(error) or type(error).__name__
        print(f"  FAILED  {self._title}: {type(error).__name__}: {reason}", flush=True)


async def play(project: Project, told: Told) -> None:
    """Show everything, in order; the first that is not shown ends it."""
    told.begin("the images are built")
    await project.build()
    told.done("six, of one file")
    told.begin("everything is up and healthy")
    await project.up()
    told.done(f"with {' '.join(project.compose)}")
    stage = Play(project, trusting(project.authority))
    for title, scene in AT_REST:
        told.begin(title)
        told.done(await scene(stage))
    told.begin("work begins")
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(scenes.connected(stage, await scenes.signed_up(stage)))
        stage.mesh, stage.traffic = mesh, await stack.enter_async_context(flowing(mesh))
        for title, scene in UNDER_LOAD:
            told.begin(title)
            told.done(await scene(stage))


async def _logs(project: Project) -> str:
    try:
        return await project.logs(LOG_LINES)
    except Exception as error:  # noqa: BLE001 - what failed before matters more
        return f"(no logs: {error})"


def _interruptible() -> int:
    """Run; let Ctrl-C and SIGTERM cancel it, so that it takes down what it brought up."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            return 130


if __name__ == "__main__":
    # It warns of every TLS connection that ends in an orderly way (nats-py upgrades streams, CPython 3.11 logs it).
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    sys.exit(_interruptible())
