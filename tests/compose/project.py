"""The compose project: built, brought up, looked at, broken and taken down, by the commands that a person would use.

What always holds: a project of its own name, deploy folder and ports, so that one that runs already is left alone; what
`down` is called on is gone with its volumes. Every command is bounded.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from wardmesh_cli.deployment import make_deployment
from wardmesh_cli.embedded.ports import LOOPBACK, free_ports

FILE: Final = Path(__file__).parents[2] / "docker-compose.yml"
SERVICES: Final = ("audit", "auth", "bridge", "secrets", "webhooks")
NODES: Final = ("nats-1", "nats-2", "nats-3")
LASTING: Final = (*NODES, "postgres", *SERVICES)
"""What stays up; the others prepare, and end."""

COMMAND_SECONDS: Final = 120.0
BUILD_SECONDS: Final = 900.0
HEALTHY_SECONDS: Final = 150.0
POLL_SECONDS: Final = 0.5
_PROJECT: Final = "com.docker.compose.project"
_SERVICE: Final = "com.docker.compose.service"


class Unavailable(Exception):
    """There is no Docker here, or no compose."""


class CommandFailed(Exception):
    """A command failed; the text has what it said."""


def compose_command() -> tuple[str, ...]:
    """Return how compose is called here; raise `Unavailable` with what is missing."""
    if shutil.which("docker") is None or _status("docker", "info") != 0:
        raise Unavailable("no Docker daemon answers")
    if _status("docker", "compose", "version") == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose") is not None:
        return ("docker-compose",)
    raise Unavailable("neither `docker compose` nor `docker-compose` is installed")


def _status(*command: str) -> int:
    quiet = subprocess.DEVNULL
    return subprocess.run(command, stdout=quiet, stderr=quiet, check=False, timeout=COMMAND_SECONDS).returncode


@dataclass
class Project:
    """One instance of docker-compose.yml."""

    compose: tuple[str, ...]
    folder: Path
    name: str = field(default_factory=lambda: f"wardmesh-test-{secrets.token_hex(3)}")

    def __post_init__(self) -> None:
        *nodes, self._http, self._ingest = free_ports(5)
        self._nodes = tuple(nodes)

    @property
    def nats_urls(self) -> tuple[str, ...]:
        return tuple(f"tls://{LOOPBACK}:{port}" for port in self._nodes)

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self._http}"

    @property
    def ingest_url(self) -> str:
        return f"http://{LOOPBACK}:{self._ingest}"

    @property
    def deploy(self) -> Path:
        return self.folder / "deploy"

    @property
    def authority(self) -> Path:
        return self.deploy / "tls" / "ca.pem"

    async def build(self) -> None:
        await self._compose("build", seconds=BUILD_SECONDS)

    async def up(self) -> None:
        """Make the deploy folder and bring everything up; return when all that lasts is healthy."""
        make_deployment(self.deploy, now=datetime.now(UTC))
        await self._compose("up", "--detach", seconds=HEALTHY_SECONDS)
        for service in LASTING:
            await self.healthy(service)

    async def down(self) -> None:
        await self._compose("down", "--volumes", "--remove-orphans")

    async def kill(self, service: str) -> None:
        """Kill what runs as `service` (SIGKILL). Docker leaves it dead until it is told to start it."""
        await _run("docker", "kill", await self.container(service))

    async def start(self, service: str) -> None:
        """Start what was killed; return when it is healthy."""
        await _run("docker", "start", await self.container(service))
        await self.healthy(service)

    async def healthy(self, service: str) -> None:
        """Wait until a container is healthy."""
        give_up = time.monotonic() + HEALTHY_SECONDS
        while True:
            state = (await self.inspect(service))["State"]
            health = state.get("Health", {}).get("Status")
            if health == "healthy":
                return
            if time.monotonic() > give_up:
                raise CommandFailed(f"{service} is {state['Status']}, {health}, and not healthy in time")
            await asyncio.sleep(POLL_SECONDS)

    async def container(self, service: str) -> str:
        """Return the id of a service's container."""
        filters = (f"label={_PROJECT}={self.name}", f"label={_SERVICE}={service}")
        found = await _run(
            "docker", "ps", "--all", "--quiet", *(part for each in filters for part in ("--filter", each))
        )
        ids = found.split()
        if len(ids) != 1:
            raise CommandFailed(f"there are {len(ids)} containers of {service}")
        return ids[0]

    async def inspect(self, service: str) -> dict[str, Any]:
        described: list[dict[str, Any]] = json.loads(await _run("docker", "inspect", await self.container(service)))
        return described[0]

    async def within(self, service: str, *command: str) -> str:
        """Run a command in a container and return what it printed."""
        return await _run("docker", "exec", await self.container(service), *command)

    async def jetstream(self, node: str) -> dict[str, Any]:
        """Return what a node says of its streams."""
        page = f"http://{LOOPBACK}:8222/jsz?accounts=true&streams=true&config=true"
        answer: dict[str, Any] = json.loads(await self.within(node, "wget", "-q", "-O", "-", page))
        return answer

    async def logs(self, lines: int) -> str:
        return await self._compose("logs", "--no-color", f"--tail={lines}")

    async def _compose(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        return await _run(
            *self.compose,
            *("--project-name", self.name, "--file", str(FILE)),
            *arguments,
            environment=self._environment(),
            seconds=seconds,
        )

    def _environment(self) -> Mapping[str, str]:
        ports = {f"WARDMESH_NATS_{number}_PORT": str(port) for number, port in enumerate(self._nodes, 1)}
        return {
            **os.environ,
            **ports,
            "WARDMESH_HTTP_PORT": str(self._http),
            "WARDMESH_INGEST_PORT": str(self._ingest),
            "WARDMESH_DEPLOY": str(self.deploy),
            "WARDMESH_VERSION": "test",
        }


async def _run(*command: str, environment: Mapping[str, str] | None = None, seconds: float = COMMAND_SECONDS) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        said = f"{output.decode('utf-8', 'replace')[-4000:]}{errors.decode('utf-8', 'replace')[-4000:]}"
        raise CommandFailed(f"{_shown(command)} ended with {process.returncode}:\n{said}")
    return output.decode("utf-8", "replace")


def _shown(command: Sequence[str]) -> str:
    return " ".join(command[:6])
