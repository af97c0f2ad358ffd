"""Offline verification of an export: entries a second on one core, and whether memory grows with the log.

The export is written by the same code that clients use, from a log of realistic entries. Verifying runs in a process of
its own, on one thread: every entry, tile and line is read, hashed and compared.
"""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.log_events import make_event, make_people
from benchmarks.report import Figure, step
from benchmarks.servers import run
from wardmesh.audit_export import export_log, verify_export
from wardmesh.contracts.audit import Checkpoint, EntryOpenings, Leaves, Opening
from wardmesh.crypto.checkpoint import Checkpoint as Head
from wardmesh.crypto.checkpoint import sign_checkpoint
from wardmesh.crypto.merkle import Frontier
from wardmesh.crypto.note import Signer
from wardmesh.ids import WorkspaceId
from wardmesh.server.publishing import encode
from wardmesh.subjects import AuditSubject
from wardmesh_audit.domain import decode_envelope

TEMPLATES: Final = 2_000
"""Different entries; they recur, which no hash is the faster for."""


class Log:
    """A log in memory, as an export reads it."""

    def __init__(self, size: int) -> None:
        rng, scope = random.Random(size), WorkspaceId.new()
        people, now = make_people(), datetime.now(UTC)
        events = [make_event(rng, people, now) for _ in range(min(size, TEMPLATES))]
        subject = AuditSubject(scope, "audit").format()
        made = [
            candidate
            for event in events
            for candidate in decode_envelope(
                subject, b'{"events":[%b]}' % encode(event), now, random=rng.randbytes
            ).candidates
        ]
        self._leaves = [(each.leaf, each.leaf_hash) for each in made]
        self._openings = [
            tuple(Opening(path=said.path, salt=salt, value=said.value) for said, salt in each.committed)
            for each in made
        ]
        templates = [each.leaf for each in made]
        self._origin = f"benchmark/{scope}"
        self._signer = Signer(self._origin, Ed25519PrivateKey.generate())
        self.size = size
        self.bytes = sum(map(len, templates)) / len(templates)

    async def checkpoint(self) -> Checkpoint:
        tree = Frontier()
        for index in range(self.size):
            tree.append(self._leaves[index % TEMPLATES][1])
        note = sign_checkpoint(Head(self._origin, self.size, tree.root()), self._signer)
        return Checkpoint(note=note.decode(), verifier_key=str(self._signer.verifier), size=self.size)

    async def leaves_page(self, *, start: int, limit: int) -> Leaves:
        page = [self._leaves[index % TEMPLATES] for index in range(start, min(start + limit, self.size))]
        openings = [
            EntryOpenings(index=index, openings=said)
            for index in range(start, start + len(page))
            if (said := self._openings[index % TEMPLATES])
        ]
        return Leaves(
            leaves=tuple(leaf for leaf, _ in page),
            hashes=tuple(digest for _, digest in page),
            openings=tuple(openings),
        )


def _verified(folder: Path) -> tuple[float, float]:
    """Return the seconds of processor time and the peak memory (MiB) of a process that verifies."""
    seconds, kib = run("benchmarks.verification", str(folder)).split()
    return float(seconds), float(kib) / 1024


async def _measure(sizes: tuple[int, int], rounds: int) -> list[Figure]:
    small, large = sizes
    with tempfile.TemporaryDirectory(prefix="wardmesh-bench-") as folder:
        log = Log(large)
        for each in (Log(small), log):
            step(f"exporting {each.size:,} entries")
            await export_log(each, Path(folder, str(each.size)))
        step("verifying")
        _, low = _verified(Path(folder, str(small)))
        runs = [_verified(Path(folder, str(large))) for _ in range(rounds)]
    seconds = statistics.median(run[0] for run in runs)
    high = max(run[1] for run in runs)
    return [
        Figure("offline verification, entries a second of a core", large / seconds, "/s", 150_000, "more",
               f"{large:,} entries of {log.bytes:.0f} bytes, with their tiles, their lines and the signature"),
        Figure("memory of offline verification, at ten times the entries", high / low, "×", 1.05, "less",
               f"{high:.0f} MiB at {large:,} entries against {low:.0f} MiB at {small:,}, peak of the process"),
    ]  # fmt: skip


def measure(*, short: bool = False) -> list[Figure]:
    return asyncio.run(_measure((1_000, 10_000) if short else (100_000, 1_000_000), 1 if short else 3))


def main(folder: Path) -> None:
    """Verify, and print the processor time and the peak memory that it took."""
    started = time.process_time()
    report = verify_export(folder)
    assert report.is_sound, str(report)
    print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
