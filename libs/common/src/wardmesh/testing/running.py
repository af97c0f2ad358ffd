"""What the fixtures give: a mesh that runs, and servers alone.

What always holds: nothing here is bound to an event loop. `connect` and the coroutines run in the loop of the test that
awaits them; the mesh itself is watched over in the background.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import wardmesh
from wardmesh.contracts.operation import Level
from wardmesh.ids import OrgId, Scope, WorkspaceId, parse_principal
from wardmesh.testing.background import Background
from wardmesh_cli.bootstrap import Administrator, first_administrator
from wardmesh_cli.door import open_door
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.servers import Servers

READY_AGAIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class BareServer:
    """A server alone: a NATS server with JetStream, without accounts, or a PostgreSQL server as its superuser."""

    url: str = field(repr=False)


class RunningMesh:
    """NATS, PostgreSQL and the five services. One a session: tests share it, each in workspaces of its own."""

    def __init__(self, mesh: EmbeddedMesh, administrator: Administrator, background: Background) -> None:
        self._mesh = mesh
        self._background = background
        self._numbers = itertools.count(1)
        self.administrator = administrator
        """Who owns the first organization: email, password, `api_key`."""

    @property
    def nats_url(self) -> str:
        return self._mesh.nats_url

    @property
    def http_url(self) -> str:
        """The gateway."""
        return self._mesh.http_url

    @property
    def ingest_url(self) -> str:
        """The door for other people's events: `POST {ingest_url}/hooks/{workspace}/{source}`."""
        return self._mesh.ingest_url

    @property
    def organization(self) -> OrgId:
        """The first organization."""
        return self.administrator.organization

    @property
    def logs(self) -> Mapping[str, Path]:
        """The log file of each process."""
        return {file.stem: file for file in sorted(self._mesh.layout.logs.glob("*.log"))}

    def database_url(self, role: str = "postgres") -> str:
        """Return what a role connects to the database with: the superuser's, or `wardmesh_{service}`."""
        return self._mesh.database_url(role)

    def connect(
        self, api_key: str | None = None, *, scope: Scope | str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[wardmesh.Mesh]:
        """Connect, as the first organization's owner unless with another key.

        `scope` is a workspace, or the key's own if none is given. Further options are those of `wardmesh.connect`.
        """
        return wardmesh.connect(self.nats_url, api_key or self.administrator.api_key, scope=scope, **options)

    async def workspace(self, name: str | None = None) -> WorkspaceId:
        """Make a workspace in the first organization: nobody else is in it."""
        async with self.connect() as owner:
            return (await owner.auth.create_workspace(name=name or f"test-{next(self._numbers)}")).id

    async def agent(
        self,
        workspace: WorkspaceId | None = None,
        *,
        permissions: Sequence[str] | None = None,
        level: Level | str = Level.RESTRICTED,
        name: str | None = None,
    ) -> str:
        """Make an agent and return its API key, which reaches exactly `permissions`, or what its level does.

        Without a workspace, it gets a new one.
        """
        async with self.connect(scope=workspace or await self.workspace()) as owner:
            name = name or f"agent-{next(self._numbers)}"
            label = level.label if isinstance(level, Level) else level
            agent = await owner.auth.create_agent(name=name, level=label)
            reaches = None if permissions is None else tuple(permissions)
            return (await owner.auth.create_key(principal=agent.id, name=name, permissions=reaches)).api_key

    async def service_account(
        self,
        workspace: WorkspaceId | None = None,
        *,
        permissions: Sequence[str] | None = None,
        level: Level | str = Level.MEMBER,
        name: str | None = None,
    ) -> str:
        """Make a service account and return its API key; see `agent`."""
        async with self.connect(scope=workspace or await self.workspace()) as owner:
            name = name or f"service-{next(self._numbers)}"
            label = level.label if isinstance(level, Level) else level
            account = await owner.auth.create_service_account(name=name, level=label)
            reaches = None if permissions is None else tuple(permissions)
            key = await owner.auth.create_key(principal=parse_principal(account.id), name=name, permissions=reaches)
            return key.api_key

    async def sign_up(self, organization: str = "another") -> Administrator:
        """Make another organization, to test that yours can't be reached from it."""
        async with open_door(self.http_url) as door:
            return await first_administrator(
                door, organization=organization, email=f"owner-{next(self._numbers)}@example.com"
            )

    def kill(self, process: str) -> None:
        """Kill a service, `nats` or `postgres` as a crash would (SIGKILL); it comes back by itself."""
        self._background.run(self._kill(process))

    async def restart(self, process: str) -> None:
        """Stop a service, `nats` or `postgres` in good order and start it again; return when it is ready."""
        await self._there(self._mesh.restart(process))

    async def wait_ready(self, process: str, timeout_seconds: float = READY_AGAIN_SECONDS) -> None:
        """Wait until what was killed is back and ready."""
        await self._there(self._mesh.wait_ready(process, timeout_seconds))

    async def _kill(self, process: str) -> None:
        self._mesh.kill(process)

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(self._background.submit(work))


@asynccontextmanager
async def running(folder: Path, servers: Servers, background: Background) -> AsyncIterator[RunningMesh]:
    """A mesh in `folder` with its first administrator, while the block runs."""
    async with EmbeddedMesh(data_dir=folder, servers=servers) as mesh:
        async with open_door(mesh.http_url) as door:
            administrator = await first_administrator(door, organization="test")
        yield RunningMesh(mesh, administrator, background)
