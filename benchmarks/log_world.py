"""A broker, a database and copies of the audit service, without the rest of the mesh."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from wardmesh.server.messages import OutboundMessage
from wardmesh.server.messaging import Messaging
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.settings import read_seed
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.ports import LOOPBACK, free_ports
from wardmesh_cli.embedded.processes import Launch, ProcessSpec, http_ready
from wardmesh_cli.embedded.supervisor import Supervisor

PUBLISH_MESSAGES = 32
"""Published before their acknowledgements are waited for."""


@asynccontextmanager
async def log_world() -> AsyncIterator[EmbeddedMesh]:
    """Yield a broker and a database with the audit service's schema, and no service."""

    async def schema(url: str, passwords: Mapping[str, str]) -> None:
        await migrate(url, {"audit": migrations_of("audit")}, passwords)

    folder = Path(tempfile.mkdtemp(prefix="wardmesh-log-"))
    try:
        async with EmbeddedMesh(data_dir=folder, services=(), migrations=schema, log_level="warning") as mesh:
            yield mesh
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def sealers(mesh: EmbeddedMesh, count: int) -> AsyncIterator[Supervisor]:
    """Run copies of the audit service, `sealer-0` and so on; each is started again if it dies."""
    async with Supervisor(mesh.layout.run / "sealers.pids") as supervisor:
        ports = free_ports(count, avoid=mesh.ports.taken())
        await supervisor.start(*(_sealer(mesh, f"sealer-{number}", port) for number, port in enumerate(ports)))
        yield supervisor


def _sealer(mesh: EmbeddedMesh, name: str, port: int) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        launch=Launch(
            command=(sys.executable, "-P", "-m", "wardmesh_audit"),
            environment=mesh.environment("audit", health_port=port),
            folder=mesh.data_dir,
        ),
        log_file=mesh.layout.log(name),
        ready=http_ready(f"http://{LOOPBACK}:{port}/ready"),
    )


@asynccontextmanager
async def broker_as_audit(mesh: EmbeddedMesh) -> AsyncIterator[Messaging]:
    """Yield a connection as the audit service has it."""
    messaging = Messaging("audit")
    await messaging.connect([mesh.nats_url], seed=read_seed(mesh.layout.identities.seed_file("audit")))
    try:
        yield messaging
    finally:
        await messaging.drain()


async def publish(messaging: Messaging, messages: Sequence[OutboundMessage]) -> None:
    """Publish in order, so many at once that the broker's disk is not what is waited for."""
    for start in range(0, len(messages), PUBLISH_MESSAGES):
        await messaging.publish(messages[start : start + PUBLISH_MESSAGES])
