"""What is shown of a running project, one scene after the other. A scene that returns was shown; its text says what."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from tests.compose.project import LASTING, NODES, SERVICES, CommandFailed, Project
from tests.compose.traffic import Traffic

import wardmesh
from wardmesh import Mesh
from wardmesh.audit_export import export_log, verify_export
from wardmesh.server.broker import BUCKETS, STREAMS
from wardmesh_cli.bootstrap import Administrator, first_administrator
from wardmesh_cli.commands.demo import chapters
from wardmesh_cli.demo.stage import Stage
from wardmesh_cli.demo.tour import Tour
from wardmesh_cli.door import open_door
from wardmesh_cli.output import Output

PUBLISHED: Final = {*NODES, "auth", "webhooks"}
"""Whose ports anybody outside may reach: NATS and the two HTTP doors."""
AGAIN_SECONDS: Final = 90.0
"""How long work may stand still around a kill; a client gives up a call after at most thirty."""
WITHOUT_A_NODE: Final = 20
"""Rounds of everything that are acknowledged while a node is away."""
DOWN_SECONDS: Final = 4.0
"""How long what was killed stays dead."""


class NotShown(Exception):
    """A scene did not show what it must."""


@dataclass
class Play:
    """What scenes share."""

    project: Project
    tls: ssl.SSLContext
    traffic: Traffic | None = None
    mesh: Mesh | None = None

    @property
    def flowing(self) -> Traffic:
        assert self.traffic is not None
        return self.traffic


Scene = Callable[[Play], Awaitable[str]]


async def closed_to_others(play: Play) -> str:
    """Nobody runs as root, can write, or holds a capability; only the doors and NATS are published; no secret shows."""
    texts = {file.read_bytes() for file in (play.project.deploy / "identities").iterdir() if file.suffix != ".kek"}
    words = [text.decode().strip() for text in texts if len(text) < 100]
    for service in LASTING:
        about = await play.project.inspect(service)
        host = about["HostConfig"]
        _must(about["Config"]["User"].split(":")[0] not in {"", "0", "root"}, f"{service} runs as root")
        _must(host["ReadonlyRootfs"] is True, f"{service} can write its root file system")
        _must(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{service} holds capabilities")
        _must("no-new-privileges:true" in host["SecurityOpt"], f"{service} may gain privileges")
        published = {port for port, bound in (about["NetworkSettings"]["Ports"] or {}).items() if bound}
        _must(len(published) == (service in PUBLISHED), f"{service} publishes {published}")
        described = json.dumps(about)
        _must(not any(word in described for word in words), f"a secret shows in what Docker says of {service}")
    for service in SERVICES:
        if await _succeeds(play.project.within(service, "python", "-c", "import pip")):
            raise NotShown(f"the image of {service} has pip")
        others = [other for other in SERVICES if other != service]
        for other in others:
            found = await _succeeds(play.project.within(service, "python", "-c", f"import wardmesh_{other}"))
            _must(not found, f"the image of {service} holds {other}")
    return f"{len(LASTING)} containers; published: {', '.join(sorted(PUBLISHED))}"


async def three_copies(play: Play) -> str:
    """Every stream has three replicas."""
    said = await play.project.jetstream(NODES[0])
    streams = [stream for account in said["account_details"] for stream in account.get("stream_detail", ())]
    replicas = {stream["name"]: stream["config"]["num_replicas"] for stream in streams}
    wanted = {*STREAMS, *(f"KV_{bucket}" for bucket in BUCKETS)}
    _must(wanted <= replicas.keys(), f"there is no stream {', '.join(sorted(wanted - replicas.keys()))}")
    _must(set(replicas.values()) == {3}, f"replicas: {replicas}")
    return f"{len(replicas)} streams and buckets"


async def toured(play: Play) -> str:
    """The tour of `wardmesh demo`, through the doors."""
    told = io.StringIO()
    tour = Tour(Output(out=Console(file=told, width=140), err=Console(file=told, width=140)))
    try:
        async with open_door(play.project.http_url) as door:
            project = play.project
            await chapters(Stage(tour, project.nats_urls[0], project.ingest_url, door, project.folder, play.tls))
    except BaseException:
        print(told.getvalue())
        raise
    return f"{tour.steps} steps of {tour.chapters} chapters showed what they must"


def killed(service: str) -> Scene:
    """Return the scene in which a service is killed while work goes on."""

    async def scene(play: Play) -> str:
        traffic, account = play.flowing, play.flowing.account
        await traffic.progress(AGAIN_SECONDS)
        account.forget_gaps()
        failures = account.failures.total()
        await play.project.kill(service)
        await asyncio.sleep(DOWN_SECONDS)
        await play.project.start(service)
        await traffic.progress(AGAIN_SECONDS)
        failed = account.failures.total() - failures
        return f"work goes on; without an acknowledgement at the longest: {account.gaps()}; calls that failed: {failed}"

    return scene


async def a_node_killed(play: Play) -> str:
    """The node that leads EVENTS is killed; work goes on while it is away."""
    said = await play.project.jetstream(NODES[0])
    streams = [stream for account in said["account_details"] for stream in account.get("stream_detail", ())]
    leader = next(stream["cluster"]["leader"] for stream in streams if stream["name"] == "EVENTS")
    traffic, account = play.flowing, play.flowing.account
    await traffic.progress(AGAIN_SECONDS)
    account.forget_gaps()
    await play.project.kill(leader)
    for _ in range(WITHOUT_A_NODE):
        await traffic.progress(AGAIN_SECONDS)
    gaps = account.gaps()
    await play.project.start(leader)
    await traffic.progress(AGAIN_SECONDS)
    return f"{leader}; work went on without it; without an acknowledgement at the longest: {gaps}"


async def nothing_missing(play: Play) -> str:
    """Whatever was acknowledged is there."""
    traffic, account = play.flowing, play.flowing.account
    await traffic.stop_writing()
    events, entries, stored = (
        await traffic.missing_events(),
        await traffic.missing_entries(),
        await traffic.missing_secrets(),
    )
    counts = {name: len(kind.acknowledged) for name, kind in account.kinds.items()}
    _must(not events, f"{len(events)} of {counts['events']} acknowledged events never arrived")
    _must(not entries, f"{len(entries)} of {counts['audit events']} acknowledged audit events are not in the log")
    _must(not stored, f"{len(stored)} of {counts['secrets']} acknowledged secrets are not there")
    again = account.received.total() - len(account.received)
    acknowledged = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{acknowledged}; events that came twice: {again}; calls that failed: {dict(account.failures) or 'none'}"


async def log_verifies(play: Play) -> str:
    """The workspace's log, after all that, verified offline."""
    assert play.mesh is not None
    folder = play.project.folder / "log"
    done = await export_log(play.mesh.audit, folder)
    report = await asyncio.to_thread(verify_export, folder)
    _must(report.is_sound, f"it is damaged: {report.damage.what if report.damage else ''}")
    return f"{done.size} entries, {report.tiles_checked} tiles, the root, the signature"


def connected(play: Play, administrator: Administrator) -> AbstractAsyncContextManager[Mesh]:
    """Connect to all three nodes, as a backend does."""
    return wardmesh.connect(
        ",".join(play.project.nats_urls), administrator.api_key, scope=administrator.workspace, tls=play.tls
    )


async def signed_up(play: Play) -> Administrator:
    """Make an organization of this test's own."""
    async with open_door(play.project.http_url) as door:
        return await first_administrator(door, organization="compose")


async def _succeeds(action: Awaitable[object]) -> bool:
    try:
        await action
    except CommandFailed:
        return False
    return True


def _must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NotShown(otherwise)
