"""`wardmesh init` and `wardmesh docs`: files for others to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.extras import needs_embedded
from wardmesh_cli.failures import CommandFailed, UsageFailed

_ANYWHERE: Final = "nats://localhost:4222"


async def init(
    run: Run,
    compose: Annotated[
        Path,
        typer.Option("--compose", metavar="FOLDER", help="For docker-compose.yml: usually deploy.", file_okay=False),
    ],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A further name or address that clients reach NATS by; again and again."),
    ] = None,
) -> None:
    """Make the keys, passwords, certificates and configurations of a cluster. What is there is kept."""
    with needs_embedded("wardmesh init"):
        from wardmesh_cli.deployment import make_deployment
    try:
        make_deployment(compose, now=datetime.now(UTC), hosts=tuple(host or ()))
    except ValueError as error:
        raise UsageFailed(f"{error}.", "Give names and addresses with --host.") from error
    except OSError as error:
        raise CommandFailed(f"{compose} can't be written ({error.strerror}).", "Name another folder.") from error
    if run.out.as_json:
        run.out.document({"folder": str(compose)})
        return
    run.out.line(f"{compose} has the keys, passwords, certificates and configurations of a cluster of three.")
    run.out.line("Keep a copy of it where nobody else reads it: what it encrypts is lost with it.")
    run.out.note("next: docker compose up --build --detach", "dim")


async def docs(
    run: Run, folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to.", file_okay=False)]
) -> None:
    """Write the API's pages from the contracts: OpenAPI for HTTP, AsyncAPI for the streams."""
    with needs_embedded("wardmesh docs"):
        pages = {"openapi.json": openapi(), "asyncapi.json": asyncapi()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        (folder / name).write_text(json.dumps(page, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if run.out.as_json:
        run.out.document({"files": [str(folder / name) for name in pages]})
    else:
        for name in pages:
            run.out.line(f"wrote {folder / name}")


def openapi() -> dict[str, Any]:
    """Return the page of the gateway: every contract, over HTTP."""
    from wardmesh.contracts import ALL
    from wardmesh.server.runtime import VERSION
    from wardmesh_auth.openapi import document

    return document(ALL.values(), version=VERSION)


def asyncapi() -> dict[str, Any]:
    """Return the page of the streams: what services read from them and write to them."""
    from faststream.specification import AsyncAPI

    from wardmesh.server.nkey import Kind, new_seed
    from wardmesh.server.runtime import VERSION
    from wardmesh_audit.subscriber import sealing_broker
    from wardmesh_bridge.subscriber import verifying_broker

    async def nothing(_messages: Sequence[object]) -> None:
        pass

    async def deliver(_subject: str, _data: bytes) -> None:
        pass

    seed = new_seed(Kind.USER)  # nothing is connected
    brokers = (
        sealing_broker([_ANYWHERE], seed=seed, seal=nothing),
        verifying_broker([_ANYWHERE], seed=seed, deliver=deliver, closed=lambda: None),
    )
    page = AsyncAPI(*brokers, title="wardmesh", version=VERSION, description="What travels on the mesh's streams")
    document: dict[str, Any] = json.loads(page.to_specification().to_json())
    return document


def register(app: typer.Typer) -> None:
    local_command(app, "init")(init)
    local_command(app, "docs")(docs)
