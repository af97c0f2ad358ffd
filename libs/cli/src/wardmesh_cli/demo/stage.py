"""What the chapters share: where the mesh is, who acts in it, and what was made so far."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import wardmesh
from wardmesh.crypto.apikey import ApiKey
from wardmesh.ids import AgentId, KeyId, OrgId, Scope, WorkspaceId
from wardmesh_cli.demo.tour import NotShown, Tour
from wardmesh_cli.door import Door

T = TypeVar("T")
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Agent:
    """An AI agent with a narrow key."""

    id: AgentId
    workspace: WorkspaceId
    key_id: KeyId
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tenants:
    """An organization with two workspaces, who administers it, and an agent in the first."""

    organization: OrgId
    north: WorkspaceId
    south: WorkspaceId
    admin_key: str = field(repr=False)
    agent: Agent

    @property
    def admin(self) -> ApiKey:
        return ApiKey.parse(self.admin_key)


@dataclass
class Stage:
    """The mesh of a tour."""

    tour: Tour
    url: str
    ingest_url: str
    door: Door
    folder: Path
    """For what the tour leaves behind."""
    tls: ssl.SSLContext | None = None
    """How to know the broker, if it speaks TLS."""

    @asynccontextmanager
    async def visit(self, api_key: str, scope: Scope) -> AsyncIterator[wardmesh.Mesh]:
        """The mesh as the holder of a key, connected while the block runs."""
        async with wardmesh.connect(self.url, api_key, scope=scope, tls=self.tls, name="wardmesh-demo") as mesh:
            yield mesh


async def eventually(look: Callable[[], Awaitable[T | None]], *, seconds: float, otherwise: Callable[[], str]) -> T:
    """Return what `look` finds, looking again and again for `seconds`; then raise `NotShown`."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    while True:
        found = await look()
        if found is not None:
            return found
        if loop.time() > give_up:
            raise NotShown(f"{otherwise()}, within {seconds:g} s")
        await asyncio.sleep(POLL_SECONDS)
