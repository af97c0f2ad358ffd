"""What a log says of entries whose time is over, so that a verifier can tell pruning from tampering.

    kept.ndjson of an export     {"first":0,"last":9,"kept_to":"2027-03-01"}     a run of entries a line, by index
    an entry that was pruned     an empty line of entries.ndjson, and no bytes in its bundle

Before entries are pruned, the log itself announces it: an entry of the audit service's own with the number, the place
and the digest of all of a scope's entries that are kept to the same day. Their hashes stay in the tree; so a verifier
that is told which entries are kept to which day makes the same digest from the hashes alone, and an entry that is
missing without such a word, or beside it, is damage.

What always holds: an announcement is believed only from source `audit` and the nil service, which no token can name,
and only if the broker received it when the day had come. It speaks of entries before it.

On failure: `read_announcement` returns None for what is no announcement; `KeptCheck` remembers what is wrong first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import IO, Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError

from wardmesh.contracts.audit.events import AuditEvent
from wardmesh.contracts.audit.proofs import KeptRun
from wardmesh.contracts.operation import Message
from wardmesh.crypto.log_verify import LeafHash
from wardmesh.ids import ServiceId

ACTION: Final = "retention.pruned"
SOURCE: Final = "audit"
INDEX_BYTES: Final = 8
KEPT: Final = "kept.ndjson"
MAX_LINE_BYTES: Final = 256
MAX_DAYS: Final = 20_000
"""Different days in one export, each of which costs memory: firsts of months, from any year that a date can have."""
_MARK: Final = f'"{ACTION}"'.encode()


class Announcement(Message):
    """All entries of one log that are kept to one day, and whose time is over."""

    kept_to: date
    first: Annotated[int, Field(ge=0)]
    last: Annotated[int, Field(ge=0)]
    entries: Annotated[int, Field(ge=1)]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(slots=True)
class Ending:
    """Entries that are kept to the same day, added in the order of the log."""

    entries: int = 0
    first: int = 0
    last: int = 0
    _hash: Any = field(default_factory=sha256, repr=False)

    def add(self, index: int, leaf_hash: bytes) -> None:
        if not self.entries:
            self.first = index
        self.entries += 1
        self.last = index
        self._hash.update(index.to_bytes(INDEX_BYTES, "big") + leaf_hash)

    def announcement(self, kept_to: date) -> Announcement:
        """Return what the log is to say of them."""
        return Announcement(
            kept_to=kept_to, first=self.first, last=self.last, entries=self.entries, digest=self._hash.hexdigest()
        )


def is_announcement(event: AuditEvent, source: str) -> bool:
    """Tell whether an event can be one: it is the log's own word."""
    return event.action == ACTION and source == SOURCE and event.actor == ServiceId.nil()


def read_announcement(leaf: bytes, index: int) -> Announcement | None:
    """Return what the entry at `index` announces, if it announces anything."""
    if _MARK not in leaf:  # nearly every entry
        return None
    try:
        document = json.loads(leaf)
        event = AuditEvent.model_validate_json(json.dumps(document["event"]))
        received_at = datetime.fromisoformat(document["received_at"])
        found = Announcement.model_validate_json(json.dumps(_fields(event.details)))
    except (ValueError, ValidationError, KeyError, TypeError, RecursionError):
        return None
    if not is_announcement(event, document.get("source")) or not found.first <= found.last < index:
        return None
    return found if received_at.astimezone(UTC).date() >= found.kept_to else None


def _fields(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: details[name] for name in Announcement.model_fields}


class KeptCheck:
    """Checks which entries of an export are missing, against what its log announced.

    `file` is `kept.ndjson`, or None. Entries come in order, a bundle at a time.
    """

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._endings: dict[date, Ending] = {}
        self._missing: dict[date, int] = {}
        """The first missing entry of each day."""
        self._announced: dict[date, tuple[int, Announcement]] = {}
        self.pruned = 0
        self.damaged: tuple[str, int] | None = None
        """What is wrong first, and from which entry on."""
        self.unannounced = False
        """Whether entries are missing of which it is said to when they were kept, and not that they were pruned."""
        self._run = self._next_run(-1)

    def bundle(self, first: int, entries: list[bytes], hashes: Callable[[], Sequence[bytes]]) -> list[bytes]:
        """Return the entries with the hashes of those that are missing in their places; `hashes` are the tree's."""
        end = first + len(entries)
        for index, entry in enumerate(entries, first):
            said = read_announcement(entry, index)
            if said is not None and (said.kept_to in self._announced or len(self._announced) < MAX_DAYS):
                self._announced[said.kept_to] = index, said
        if b"" not in entries and (self._run is None or self._run.first >= end):
            return entries
        known = hashes()
        if len(known) != len(entries):
            return entries  # the tree has no hashes for them, and says so
        return [self._entry(index, entry, known[index - first]) for index, entry in enumerate(entries, first)]

    def _entry(self, index: int, entry: bytes, known: bytes) -> bytes:
        while self._run is not None and self._run.last < index:
            self._run = self._next_run(self._run.last)
        day = self._run.kept_to if self._run is not None and self._run.first <= index else None
        if day is not None:
            if day not in self._endings and len(self._endings) >= MAX_DAYS:
                self._fail(f"{KEPT} has more days than a log can have", index)
                return entry
            self._endings.setdefault(day, Ending()).add(index, known)
        if entry:
            return entry
        self.pruned += 1
        if day is None:
            self._fail(f"entry {index} is missing, and was to be kept", index)
        else:
            self._missing.setdefault(day, index)
        return LeafHash(known)

    def end(self, size: int) -> tuple[int, ...]:
        """Say that there are no more entries; return the entries that announced what is missing."""
        while self._run is not None and self._run.last < size:
            self._run = self._next_run(self._run.last)
        if self._run is not None:
            self._fail(f"{KEPT} goes on after the last entry", size)
        told = []
        for day, index in self._missing.items():
            at, said = self._announced.get(day, (0, None))
            if said != self._endings[day].announcement(day):
                self.unannounced = True
                self._fail(f"entry {index} is missing, and the log does not say that it was pruned", index)
            told.append(at)
        return tuple(sorted(told))

    def _next_run(self, after: int) -> KeptRun | None:
        line = b"" if self._file is None else self._file.readline(MAX_LINE_BYTES)
        if not line:
            return None
        try:
            run = KeptRun.model_validate_json(line)
        except ValidationError:
            run = None
        if run is None or not after < run.first <= run.last:
            self._fail(f"{KEPT} has a line that is none, after entry {after}", max(after, 0))
            self._file = None
            return None
        return run

    def _fail(self, what: str, entry: int) -> None:
        if self.damaged is None or entry < self.damaged[1]:
            self.damaged = what, entry
