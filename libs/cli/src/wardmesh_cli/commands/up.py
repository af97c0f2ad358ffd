"""`wardmesh up`: a whole mesh on this machine, until Ctrl-C.

What always holds: the folder alone is the mesh. Its first start makes the first administrator, through the gateway like
anybody else, and shows the credential once; every later one finds its data and its identities.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from wardmesh.durable_files import PRIVATE_FOLDER
from wardmesh_cli import profile as profiles
from wardmesh_cli.activation import activation
from wardmesh_cli.bootstrap import Administrator, first_administrator
from wardmesh_cli.commanding import Run, local_command
from wardmesh_cli.door import open_door
from wardmesh_cli.extras import needs_embedded
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.output import Styled
from wardmesh_cli.profile import Profile

if TYPE_CHECKING:
    from wardmesh_cli.embedded.broker import Tls
    from wardmesh_cli.embedded.layout import Ports
    from wardmesh_cli.embedded.mesh import EmbeddedMesh

NATS_PORT: Final = 4222
WEBSOCKET_PORT: Final = 4223
HTTP_PORT: Final = 8080
INGEST_PORT: Final = 8081
LogLevel = Literal["debug", "info", "warning", "error"]
_OPTIONS: Final = {
    "nats": ("NATS", "--port"),
    "nats_websocket": ("NATS over WebSocket", "--websocket-port"),
    "nats_monitoring": ("NATS's monitoring", "--monitoring-port"),
    "http": ("the gateway", "--http-port"),
    "ingest": ("webhooks", "--ingest-port"),
    "postgres": ("PostgreSQL", "--postgres-port"),
}

_PortHelp = "0 takes whichever is free."


async def up(
    run: Run,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help=f"NATS. {_PortHelp}")] = NATS_PORT,
    websocket_port: Annotated[
        int, typer.Option("--websocket-port", min=0, max=65535, help="NATS over WebSocket.")
    ] = WEBSOCKET_PORT,
    http_port: Annotated[int, typer.Option("--http-port", min=0, max=65535, help="The gateway.")] = HTTP_PORT,
    ingest_port: Annotated[int, typer.Option("--ingest-port", min=0, max=65535, help="Webhooks.")] = INGEST_PORT,
    monitoring_port: Annotated[
        int, typer.Option("--monitoring-port", min=0, max=65535, help="NATS's monitoring page.")
    ] = 0,
    postgres_port: Annotated[
        int | None, typer.Option("--postgres-port", min=0, max=65535, help="Else PostgreSQL has a socket only.")
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    tls: Annotated[bool, typer.Option("--tls", help="NATS speaks TLS, with certificates made here.")] = False,
) -> None:
    """Start a mesh in one folder and stay up until Ctrl-C; nothing of it listens beyond this machine."""
    with needs_embedded("wardmesh up"):
        from wardmesh_cli.embedded.layout import Ports
        from wardmesh_cli.embedded.mesh import EmbeddedMesh
    began = time.monotonic()
    folder = run.data or run.around.folder / profiles.FOLDER
    ports = Ports(
        nats=port,
        nats_websocket=websocket_port,
        nats_monitoring=monitoring_port,
        http=http_port,
        ingest=ingest_port,
        postgres=postgres_port,
    )
    prepare(folder)
    check_ports(folder, ports)
    mesh = EmbeddedMesh(
        data_dir=folder,
        ports=ports,
        progress=lambda line: progress(run, line, began),
        log_level=log_level,
        tls=certificates(folder) if tls else None,
    )
    async with Interruption() as interruption:
        if not await interruption.or_done(mesh.start):
            return
        try:
            profile, administrator = await settle(mesh, run)
            _show(run, mesh, profile, administrator, time.monotonic() - began)
            await interruption.event.wait()
            progress(run, "stopping", began)
        finally:
            await mesh.stop()
        progress(run, f"stopped; the data is in {folder}", began)


async def settle(mesh: EmbeddedMesh, run: Run) -> tuple[Profile, Administrator | None]:
    """Write the profile of a mesh that has just started; make its first administrator if it has none."""
    file = mesh.data_dir / profiles.FILE
    before = profiles.load(file) if file.is_file() else None
    administrator = None
    if before is None or before.api_key is None:
        async with open_door(mesh.http_url, transport=run.around.http) as door:
            administrator = await first_administrator(door)
        before = Profile(
            url=mesh.nats_url,
            organization=administrator.organization,
            workspace=administrator.workspace,
            api_key=administrator.api_key,
            workspace_key=administrator.workspace_key,
        )
    profile = before.model_copy(
        update={
            "url": mesh.nats_url,
            "websocket_url": mesh.nats_websocket_url,
            "http_url": mesh.http_url,
            "ingest_url": mesh.ingest_url,
            "monitoring_url": mesh.nats_monitoring_url,
            "ca_file": None if mesh.tls is None else mesh.tls.authority.absolute(),
        }
    )
    profiles.save(file, profile)
    return profile, administrator


def prepare(folder: Path) -> None:
    """Make the data folder, closed to others and to version control."""
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Keys and data of a mesh: never to be committed.\n*\n")
    except OSError as error:
        raise CommandFailed(
            f"{folder} can't be made or written ({error.strerror}).", "Name another folder with --data."
        ) from error


def check_ports(folder: Path, ports: Ports) -> None:
    """Refuse a folder that is in use, and ports that somebody else listens on, in words that help."""
    from wardmesh_cli.embedded.files import FolderLock
    from wardmesh_cli.embedded.ports import LOOPBACK

    with FolderLock(folder):
        pass
    for name in (each.name for each in fields(ports)):
        number = getattr(ports, name)
        if not number:
            continue
        what, option = _OPTIONS[name]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, number))
            except OSError:
                raise CommandFailed(
                    f"Port {number}, meant for {what}, is in use by another program.",
                    f"Stop that one, or choose another port: {option} {number + 100}, or {option} 0 for any.",
                ) from None


def certificates(folder: Path) -> Tls:
    """Return the server certificate of this folder, made on first use and again before it expires."""
    from wardmesh_cli.embedded.certificates import server_certificate
    from wardmesh_cli.embedded.ports import LOOPBACK

    return server_certificate(folder / "tls", [LOOPBACK, "localhost"], now=datetime.now(UTC))


class Interruption:
    """Ctrl-C and SIGTERM as an event, so that stopping goes in order."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def __aenter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.event.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def or_done(self, action: Callable[[], Awaitable[None]]) -> bool:
        """Do something; if an interruption comes first, cancel it and return False."""
        doing = asyncio.ensure_future(action())
        interrupted = asyncio.ensure_future(self.event.wait())
        try:
            await asyncio.wait({doing, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                await doing
                return True
            return False
        finally:
            interrupted.cancel()
            doing.cancel()
            await asyncio.gather(doing, interrupted, return_exceptions=True)


def progress(run: Run, line: str, began: float) -> None:
    """Say what is being done, and how long after the beginning."""
    seconds = time.monotonic() - began
    if run.out.as_json:
        run.out.item({"event": "progress", "seconds": round(seconds, 3), "line": line})
    else:
        run.out.note(f"{seconds:5.1f} s  {line}", "dim")


def _show(run: Run, mesh: EmbeddedMesh, profile: Profile, administrator: Administrator | None, seconds: float) -> None:
    out = run.out
    if out.as_json:
        shown = profile.model_dump(mode="json", exclude={"api_key", "workspace_key", "login"})
        first = administrator and {
            "email": administrator.email, "password": administrator.password, "user": administrator.user
        }  # fmt: skip
        out.item({"event": "ready", "seconds": round(seconds, 3), "mesh": shown, "first_administrator": first})
        return
    out.line()
    out.line(f"The mesh is up, after {seconds:.1f} s.", "bold")
    out.facts(
        {
            "NATS": f"{mesh.nats_url}  (WebSocket {mesh.nats_websocket_url})",
            "HTTP": f"{mesh.http_url}  (what it offers: /openapi.json)",
            "webhooks": f"{mesh.ingest_url}/hooks/{profile.workspace}/SOURCE",
            "organization": profile.organization,
            "workspace": profile.workspace,
            "data": str(mesh.data_dir),
        }
    )
    if administrator is not None:
        out.line()
        out.line("The first administrator, shown this once:", "bold")
        out.facts({"email": administrator.email, "password": Styled(administrator.password, "yellow")})
        out.line(f"Commands use the API key in {mesh.data_dir / profiles.FILE}, which only you can read.")
    out.line()
    out.line("Next, in another terminal and this folder:", "bold")
    if (shown_first := activation()) is not None:
        out.line(f"  {shown_first}")
    out.line("  wardmesh whoami")
    out.line("  wardmesh secret put openai/api-key        wardmesh secret get openai/api-key")
    out.line("  wardmesh audit tail                       wardmesh status")
    out.line('  eval "$(wardmesh env)"                    then, in Python: async with wardmesh.connect() as mesh: …')
    out.line("Ctrl-C stops it; the data stays.")


def register(app: typer.Typer) -> None:
    local_command(app, "up", with_data=True)(up)
