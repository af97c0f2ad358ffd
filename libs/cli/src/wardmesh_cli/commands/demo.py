"""`wardmesh demo`: start a mesh, do the main job, show the evidence, stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import typer

from wardmesh_cli import profile as profiles
from wardmesh_cli.activation import typed
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.commands.up import Interruption, check_ports, prepare, progress
from wardmesh_cli.door import open_door
from wardmesh_cli.extras import needs_embedded
from wardmesh_cli.failures import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from wardmesh_cli.demo.stage import Stage
    from wardmesh_cli.demo.tour import Tour

FOLDER: Final = "demo"


async def demo(run: Run) -> None:
    """Take a tour: each step is really done, on servers of its own, and shows its evidence. Fails if one does not."""
    with needs_embedded("wardmesh demo"):
        from wardmesh_cli.demo.stage import Stage
        from wardmesh_cli.demo.tour import Tour
        from wardmesh_cli.embedded.layout import Ports
        from wardmesh_cli.embedded.mesh import EmbeddedMesh
    began = time.monotonic()
    folder = run.data or run.around.folder / profiles.FOLDER / FOLDER
    prepare(folder)
    check_ports(folder, Ports())
    mesh = EmbeddedMesh(data_dir=folder, progress=lambda line: progress(run, line, began))
    tour = Tour(run.out)
    async with Interruption() as interruption, AsyncExitStack() as stack:
        stack.push_async_callback(mesh.stop)
        if not await interruption.or_done(mesh.start):
            raise typer.Exit(INTERRUPTED)
        door = await stack.enter_async_context(open_door(mesh.http_url))
        stage = Stage(tour, mesh.nats_url, mesh.ingest_url, door, folder)
        outcome = await played(tour, lambda: chapters(stage), interruption)
        if outcome is not None:
            raise typer.Exit(outcome)
        progress(run, "stopping", began)
    seconds = time.monotonic() - began
    if run.out.as_json:
        run.out.item({"shown": tour.steps, "chapters": tour.chapters, "seconds": round(seconds, 3)})
    else:
        run.out.line()
        run.out.line(f"All {tour.steps} steps showed what they must, in {seconds:.1f} s.", "bold")
        run.out.line(f"The data and the export are in {folder}. Your own mesh: {typed('wardmesh up')}")


async def played(tour: Tour, play: Callable[[], Awaitable[None]], interruption: Interruption) -> int | None:
    """Play the tour; return the exit status that it ends with, or None if everything was shown."""
    try:
        return None if await interruption.or_done(play) else INTERRUPTED
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, the step it happened in is what to tell
        tour.failed(error)
        return FAILED


async def chapters(stage: Stage) -> None:
    """Play every chapter, in order."""
    from wardmesh_cli.demo import broker, crossing, hooks, log, revocation, tenants, vault

    who = await tenants.play(stage)
    await broker.play(stage, who)
    await vault.play(stage, who)
    await hooks.play(stage, who)
    await crossing.play(stage, who)
    await revocation.play(stage, who)
    await log.play(stage, who)


def register(app: typer.Typer) -> None:
    local_command(app, "demo", with_data=True)(demo)
