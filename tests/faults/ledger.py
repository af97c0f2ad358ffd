"""What the mesh has acknowledged, what came back from it, and whether the two agree.

A worker writes into the ledger only after an answer: what is in here was promised. What was asked for and not answered
is in nobody's ledger, because it may or may not have happened.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wardmesh.audit_export import export_log, verify_export
from wardmesh.client.mesh import Mesh

ARRIVAL_SECONDS: Final = 90.0
"""Longer than a consumer waits (a minute) before it gives to another what a killed process had in hand."""


@dataclass
class Ledger:
    """Promises, by what they promise, and what arrived."""

    published: set[str] = field(default_factory=set)
    hooked: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    emitted: set[str] = field(default_factory=set)
    secrets: dict[tuple[str, int], str] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)
    """Secrets that were given out, by path: each is an entry of the log before it is an answer."""

    events_received: Counter[str] = field(default_factory=Counter)
    messages_received: Counter[str] = field(default_factory=Counter)
    tailed: Counter[str] = field(default_factory=Counter)

    def missing(self) -> dict[str, set[str]]:
        """Return what was promised and has not arrived yet."""
        found = {
            "published events": self.published - self.events_received.keys(),
            "webhooks": self.hooked - self.events_received.keys(),
            "bridge messages": self.sent - self.messages_received.keys(),
            "audit events, in the tail": self.emitted - self.tailed.keys(),
        }
        return {what: ids for what, ids in found.items() if ids}

    async def settle(self, seconds: float = ARRIVAL_SECONDS) -> tuple[float, str]:
        """Wait until everything that was promised has arrived, or as long as that; return how long, and for what."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        last = ""
        while (missing := self.missing()) and loop.time() - began < seconds:
            last = "".join(f", last {len(ids)} {what}, such as {min(ids)}" for what, ids in missing.items())
            await asyncio.sleep(0.1)
        return loop.time() - began, last

    def problems(self) -> list[str]:
        """Return what is wrong with what arrived."""
        found = [f"{len(ids)} {what} are missing, such as {min(ids)}" for what, ids in self.missing().items()]
        twice = [identifier for identifier, times in self.tailed.items() if times > 1]
        if twice:
            found.append(f"the tail showed {len(twice)} audit events more than once, such as {twice[0]}")
        return found


async def check_secrets(ledger: Ledger, mesh: Mesh) -> list[str]:
    """Read every version that was acknowledged."""
    room = asyncio.Semaphore(8)

    async def check(path: str, version: int, value: str) -> str | None:
        async with room:
            found = await mesh.secrets.get(path, version=version)
        return None if found == value else f"{path} version {version} is another value than was put"

    checks = [check(path, version, value) for (path, version), value in ledger.secrets.items()]
    return [problem for problem in await asyncio.gather(*checks) if problem is not None]


async def check_backlog(ledger: Ledger, mesh: Mesh) -> list[str]:
    """Read the streams from their beginning, as a group that has seen nothing: they hold all that was promised."""
    wanted = ledger.published | ledger.hooked
    found: set[str] = set()
    async with asyncio.timeout(30), mesh.events.subscribe(">", group="historian", prefetch=128) as subscription:
        if wanted:
            async for event in subscription:
                async with event:
                    found.add(event.id)
                if wanted <= found:
                    break
    return [f"{len(wanted - found)} events are not in the stream"] if wanted - found else []


async def check_log(mesh: Mesh, is_sealed: Callable[[Log], list[str]], seconds: float = ARRIVAL_SECONDS) -> list[str]:
    """Return what is wrong with the log of the mesh's workspace.

    What an operation leaves is committed with it, and in the log a moment later, or when the sealer that died with it
    in hand is taken for dead: what is absent is waited for. A log that does not verify, or has an event twice, is wrong
    at whatever moment it is seen; no later look makes up for it.
    """
    give_up = asyncio.get_running_loop().time() + seconds
    while True:
        log, wrong = await _export_and_verify(mesh)
        if wrong:
            return wrong
        absent = is_sealed(log)
        if not absent or asyncio.get_running_loop().time() > give_up:
            return absent
        await asyncio.sleep(1.0)


async def _export_and_verify(mesh: Mesh) -> tuple[Log, list[str]]:
    """Export the log and verify it offline; return it, and what can never be right."""
    with tempfile.TemporaryDirectory(prefix="wardmesh-log-") as name:
        folder = Path(name) / "export"
        exported = await export_log(mesh.audit, folder)
        report = await asyncio.to_thread(verify_export, folder, exported.verifier_key)
        log = await asyncio.to_thread(Log.read, folder / "entries.ndjson")
    wrong = []
    if not report.is_sound or report.entries_checked != exported.size:
        wrong.append(f"the exported log does not verify: {report}")
    if repeated := [identifier for identifier, times in log.ids.items() if times > 1]:
        wrong.append(f"{len(repeated)} events are in the log more than once, such as {repeated[0]}")
    return log, wrong


@dataclass
class Log:
    """An exported log, read."""

    entries: list[Mapping[str, Any]]
    ids: Counter[str]

    @classmethod
    def read(cls, file: Path) -> Log:
        with file.open("rb") as lines:
            entries = [json.loads(line) for line in lines]
        return cls(entries, Counter(entry["event"]["id"] for entry in entries))

    def count(self, action: str, *, outcome: str = "success") -> Counter[str]:
        """Return how often an action is in the log, by its first target."""
        return Counter(
            (entry["event"].get("targets") or [""])[0]
            for entry in self.entries
            if entry["event"]["action"] == action and entry["event"]["outcome"] == outcome
        )

    def by_actor(self, action: str) -> Counter[str]:
        """Return how often an action is in the log, by who did it."""
        return Counter(entry["event"]["actor"] for entry in self.entries if entry["event"]["action"] == action)

    def details(self, action: str, name: str) -> set[str]:
        """Return what an action's successes say under `name`."""
        return {
            entry["event"]["details"][name]
            for entry in self.entries
            if entry["event"]["action"] == action
            and entry["event"]["outcome"] == "success"
            and name in entry["event"].get("details", {})
        }


async def read_log(mesh: Mesh) -> Log:
    """Return the mesh's workspace's log as it is now."""
    entries = [json.loads(leaf) async for leaf in mesh.audit.leaves()]
    return Log(entries, Counter(entry["event"]["id"] for entry in entries))


async def versions_of(mesh: Mesh, prefix: str) -> AsyncIterator[tuple[str, int]]:
    """Yield every path below `prefix` and how many versions it has."""
    after: str | None = None
    while True:
        page = (await mesh.secrets.list(prefix=prefix, after=after)).secrets
        for info in page:
            yield info.path, info.versions
        if not page:
            return
        after = page[-1].path


def check_here(ledger: Ledger, versions: Mapping[str, int]) -> Callable[[Log], list[str]]:
    """Return what the log of the workspace that the load works in must say."""

    def check(log: Log) -> list[str]:
        problems = []
        if absent := ledger.emitted - log.ids.keys():
            problems.append(f"{len(absent)} audit events that were acknowledged are not in the log")
        # A version and its entry commit together: one for one, also those whose answer was lost.
        if (put := log.count("secret.put")) != Counter(versions):
            problems.append(f"the log says {dict(put)}, and the vault has the versions {dict(versions)}")
        got = log.count("secret.get")
        if unrecorded := ledger.reads - got:
            problems.append(f"secrets were given out that the log does not know of: {dict(unrecorded)}")
        if unrecorded_hooks := ledger.hooked - log.details("webhook.receive", "event"):
            problems.append(f"{len(unrecorded_hooks)} webhooks were accepted that the log does not know of")
        if undelivered := ledger.sent - log.details("message.deliver", "message"):
            problems.append(f"{len(undelivered)} bridge messages were delivered that the sender's log does not know of")
        return problems

    return check


def check_there(ledger: Ledger) -> Callable[[Log], list[str]]:
    """Return what the log of the workspace at the far end of the bridge must say."""

    def check(log: Log) -> list[str]:
        unknown = ledger.sent - log.details("message.deliver", "message")
        return [f"{len(unknown)} bridge messages that the receiver's log does not know of"] if unknown else []

    return check
