"""A batch on its way out: what it is as bytes, and when a failed one is tried again. Pure.

What always holds: a batch says which entries are in it, first and last index and how many, so that a receiver can tell
a repetition. Which lines it has depends on the log and the filter alone, never on the attempt.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from wardmesh.audit_ocsf import to_ocsf
from wardmesh.audit_rows import one_line
from wardmesh.contracts.audit import Entry, ForwardFormat, Outcome
from wardmesh.ids import Scope

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 300.0
"""An endpoint that is back is found within this time, or at once by whoever resumes the forwarder."""
TOLD_AFTER: Final = 3
"""Failures in a row before the log says so: a single one is a restart somewhere, and not worth two entries."""
_LOG_AUDIT: Final = 13
_SEVERITIES: Final = {Outcome.SUCCESS: 6, Outcome.REFUSED: 4, Outcome.FAILED: 3}
"""Informational, warning, error."""
_APPLICATION: Final = "wardmesh-audit"
_STRUCTURED_DATA: Final = "wardmesh@32473"
"""Names of one's own need an enterprise number; this one is the RFCs' example, and collides with nobody's."""
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
    return one_line(to_ocsf(entry)).encode()


def body_of(batch: Batch, form: ForwardFormat) -> bytes:
    """Return a batch as compressed NDJSON."""
    lines = b"".join(line_of(entry, form) + b"\n" for entry in batch.entries)
    return gzip.compress(lines, _COMPRESSION, mtime=0)


def syslog_of(entry: Entry, form: ForwardFormat) -> bytes:
    """Return an entry as an RFC 5424 message, whose text is the JSON line; without a frame.

    Of facility 13 (log audit). The text has no byte order mark, which the RFC wants for UTF-8 and which parsers of JSON
    stumble over, so it counts as of an unknown encoding.
    """
    event = entry.event
    priority = _LOG_AUDIT * 8 + _SEVERITIES[event.outcome]
    time = event.occurred_at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    # None of these values can have a quote, a backslash or a bracket.
    data = f'[{_STRUCTURED_DATA} scope="{entry.scope}" index="{entry.index}" event="{event.id}"]'
    head = f"<{priority}>1 {time} {entry.scope} {_APPLICATION} - {event.category} {data} "
    return head.encode("ascii") + line_of(entry, form)


def frames_of(batch: Batch, form: ForwardFormat) -> bytes:
    """Return a batch as syslog messages, each with its length before it (RFC 5425, and RFC 6587's octet counting)."""
    messages = (syslog_of(entry, form) for entry in batch.entries)
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


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

    Twice as long after each, but not shorter than the endpoint asked for; `LONGEST_PAUSE_SECONDS` at the most.
    """
    doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(max(failures, 1) - 1, 16)
    spread = min(doubled, LONGEST_PAUSE_SECONDS) * (0.5 + jitter / 2)
    return max(spread, min(asked_seconds or 0.0, LONGEST_PAUSE_SECONDS))
