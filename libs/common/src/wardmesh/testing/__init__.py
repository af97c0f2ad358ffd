"""A whole mesh in a fixture, for projects that use wardmesh. Installed with the extra `testing`.

    async def test_it(mesh):                                  # from the pytest plugin, once a session
        async with mesh.connect(await mesh.agent(permissions=["event.publish"])) as agent:
            await agent.events.publish("order.shipped", {"order": 7})

Fixtures: `mesh`, `nats_server`, `postgres`. Options: `--wardmesh-backend`, `--wardmesh-nats-image`,
`--wardmesh-postgres-image`; each may be an ini option or an environment variable (see `wardmesh.testing.options`).

plugin       the hooks and fixtures; importing it starts nothing and loads nothing heavy
options      which backend and images, from command line, environment and ini
running      a mesh that runs, and what a test asks of it
background   an event loop in a thread of its own, in which it runs
bare         a broker or a database alone
containers   NATS and PostgreSQL in containers, for a mesh or alone
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wardmesh.testing.running import BareServer as BareServer
    from wardmesh.testing.running import RunningMesh as RunningMesh

__all__ = ["BareServer", "RunningMesh"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wardmesh.testing import running

    return getattr(running, name)
