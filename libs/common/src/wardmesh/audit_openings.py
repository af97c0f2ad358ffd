"""What a log commits to instead of saying it, and how an export says it all the same.

    leaf, version 2            {"committed":{"/actor":"…"},"event":…,"received_at":…,"scope":…,"source":…,"version":2}
    openings.ndjson            {"index":7,"openings":[{"path":"/actor","salt":"…","value":"usr_…"}]}   an entry a line

`committed` has, by its path in the event, the commitment to each value that identifies a person, in hexadecimal. A line
of openings has the values and salts that the log gave out with the entry; there is none for what was erased.

What always holds: an opening counts only if it makes the very commitment that was sealed; one that does not, one of
another entry, and one of a path that is not committed to, are damage. What is not opened is withheld, which is none.

On failure: `NotOpened` for openings that are not the leaf's; `OpeningsCheck` remembers what is wrong first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Final

from pydantic import ValidationError
from pydantic_core import from_json

from wardmesh.contracts.audit.entries import Entry
from wardmesh.contracts.audit.personal import EntryOpenings, Opening, reveal
from wardmesh.crypto.commitment import is_opened_by

OPENINGS: Final = "openings.ndjson"
MAX_LINE_BYTES: Final = 512 * 1024
"""Every value is in a leaf's worth of bytes, each with a salt; escaped, six times as much at the most."""
COMMITTING: Final = b'{"committed":'
"""How a leaf begins that commits to something."""
EVENT: Final = b',"event":{'
"""Where the event begins in such a leaf; no path before it has these bytes, because JSON escapes quotes."""


class NotOpened(ValueError):
    """An opening is not of what the leaf commits to."""


def committed_of(leaf: bytes) -> Mapping[str, bytes]:
    """Return the commitments of a leaf by path: none, for most leaves. Raise `NotOpened` if they cannot be read."""
    if not leaf.startswith(COMMITTING):
        return {}
    end = leaf.find(EVENT)
    try:
        document = from_json(leaf[len(COMMITTING) : end])
        return {path: bytes.fromhex(said) for path, said in document.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise NotOpened("its commitments cannot be read") from error


def check_openings(leaf: bytes, openings: Sequence[Opening]) -> int:
    """Return how many fields stay withheld; raise `NotOpened` unless every opening is one of the leaf's."""
    committed = committed_of(leaf)
    if len({opening.path for opening in openings}) != len(openings):
        raise NotOpened("a field is opened twice")
    for opening in openings:
        commitment = committed.get(opening.path)
        if commitment is None or not is_opened_by(commitment, opening.path, opening.salt, opening.value):
            raise NotOpened("an opening is not of what was sealed")
    return len(committed) - len(openings)


def opened(entry: Entry, openings: Sequence[Opening]) -> Entry:
    """Return an entry with what `check_openings` found good; raise `NotOpened` for what its field can't have."""
    if not openings:
        return entry
    shown = {opening.path for opening in openings}
    try:
        event = reveal(entry.event, openings)
    except ValueError as error:
        raise NotOpened("an opening is of no field of an event") from error
    return entry.model_copy(
        update={"event": event, "withheld": tuple(path for path in entry.withheld if path not in shown)}
    )


def lines(openings: Iterable[EntryOpenings]) -> Iterable[bytes]:
    """Return `openings.ndjson`, line by line."""
    return (each.model_dump_json(exclude_defaults=True).encode() + b"\n" for each in openings)


class OpeningsCheck:
    """Checks an export's openings beside its entries, which come in order, a bundle at a time.

    `file` is `openings.ndjson`, or None.
    """

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self.opened = 0
        self.withheld = 0
        self.damaged: tuple[str, int] | None = None
        """What is wrong first, and from which entry on."""
        self._line = self._next(-1)

    def bundle(self, first: int, entries: Sequence[bytes]) -> None:
        """Check the openings of these entries."""
        for index, leaf in enumerate(entries, first):
            said: Sequence[Opening] = ()
            if self._line is not None and self._line.index == index:
                said = self._line.openings
                if self._line.unopenable:
                    self._fail(f"entry {index}: what opens its fields was changed", index)
                self._line = self._next(index)
            if not said and not leaf.startswith(COMMITTING):
                continue
            try:
                self.withheld += check_openings(leaf, said)
                self.opened += len(said)
            except NotOpened as error:
                self._fail(f"entry {index}: {error}", index)

    def end(self, size: int) -> None:
        """Say that there are no more entries."""
        if self._line is not None:
            self._fail(f"{OPENINGS} goes on after the last entry", size)

    def _next(self, after: int) -> EntryOpenings | None:
        line = b"" if self._file is None else self._file.readline(MAX_LINE_BYTES)
        if not line:
            return None
        try:
            said = EntryOpenings.model_validate_json(line)
        except ValidationError:
            said = None
        if said is None or said.index <= after:
            self._fail(f"{OPENINGS} has a line that is none, after entry {after}", max(after, 0))
            self._file = None
            return None
        return said

    def _fail(self, what: str, entry: int) -> None:
        if self.damaged is None or entry < self.damaged[1]:
            self.damaged = what, entry
