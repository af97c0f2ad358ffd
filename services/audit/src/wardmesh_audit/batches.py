"""A batch on its way out: what it is as bytes, and when a failed one is tried again. Pure.

What always holds: a batch says which entries are in it, first and last index and how many, so that a receiver can tell
a repetition. Which lines it has depends on the log and the filter alone, never on the attempt.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wardmesh.audit_ocsf import to_ocsf
from wardmesh.contracts.audit import Entry, ForwardFormat
from wardmesh.ids import Scope

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 300.0
"""An endpoint that is back is found within this time, or at once by whoever resumes the forwarder."""
TOLD_AFTER: Final = 3
"""Failures in a row before the log says so: a single one is a restart somewhere, and not worth two entries."""
_COMPRESSION: Final = 1  # a third of the bytes of none, at a tenth of the time of the best


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one scope's log, in its order; at least one."""

    scope: Scope
    forwarder: str
    entries: Sequence[Entry]

    @property
    def first(self) -> int:
        return self.entries[0].index

    @property
    def last(self) -> int:
        return self.entries[-1].index


def line_of(entry: Entry, form: ForwardFormat) -> bytes:
    """Return an entry as one line of JSON, without its end."""
    if form is ForwardFormat.ENTRY:
        return entry.model_dump_json(exclude_defaults=True).encode()
    return json.dumps(to_ocsf(entry), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def body_of(batch: Batch, form: ForwardFormat) -> bytes:
    """Return a batch as compressed NDJSON."""
    lines = b"".join(line_of(entry, form) + b"\n" for entry in batch.entries)
    return gzip.compress(lines, _COMPRESSION, mtime=0)


def headers_of(batch: Batch) -> dict[str, str]:
    """Return what tells a receiver which batch this is."""
    return {
        "Content-Type": "application/x-ndjson",
        "Content-Encoding": "gzip",
        "User-Agent": "wardmesh-audit",
        "Wardmesh-Scope": batch.scope,
        "Wardmesh-Forwarder": batch.forwarder,
        "Wardmesh-First-Index": str(batch.first),
        "Wardmesh-Last-Index": str(batch.last),
        "Wardmesh-Entries": str(len(batch.entries)),
    }


def pause_seconds(failures: int, asked_seconds: float | None, jitter: float) -> float:
    """Return how long to wait after so many failures in a row; `jitter` is between 0 and 1.

    Twice as long after each, or as long as the endpoint asked for; `LONGEST_PAUSE_SECONDS` at the most.
    """
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(max(failures, 1) - 1, 16)
    wanted = max(doubled, asked_seconds or 0.0)
    return min(wanted, LONGEST_PAUSE_SECONDS) * (0.5 + jitter / 2)
