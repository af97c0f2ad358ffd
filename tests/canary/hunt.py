"""The hunt: look for secrets, in every form that software gives to text and bytes, in any number of files.

What always holds:
- One pass over what is searched, in bounded memory, whatever the number of secrets: each needle is at least
  `MIN_NEEDLE_BYTES` long, so any occurrence covers a whole eight-byte block at a multiple of eight. Such blocks are
  looked up in a set; only where one is found are the few needles that contain it looked for.
- A part is found too: of every secret, its first and its last `FRAGMENT_BYTES` are needles, so that a log that cuts
  values short hides nothing.
- A hunt that could find nothing fails: no secrets, no places, a place without a byte (`EmptyHunt`).

A finding shows what stands before a secret, not the secret; the secrets are of one run, and mean nothing after it.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

FRAGMENT_BYTES: Final = 16
"""Of a random secret: too many to be there by chance, few enough to survive being cut short."""
BLOCK_BYTES: Final = 8
MIN_NEEDLE_BYTES: Final = 2 * BLOCK_BYTES - 1
CHUNK_BYTES: Final = 4 * 1024 * 1024
CONTEXT_BYTES: Final = 80


class EmptyHunt(Exception):
    """There was nothing to look for, or nowhere to look."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Something that must not be found, or (as a control) must."""

    kind: str
    origin: str
    """Where it was pushed in, or what handed it out."""
    value: bytes = field(repr=False)
    may_rest_in: frozenset[str] = frozenset()
    """Places where it may be found all the same; `table` says why."""

    def fragments(self) -> frozenset[bytes]:
        if len(self.value) < FRAGMENT_BYTES:
            raise ValueError(f"{self.kind} of {self.origin} is too short to be told from chance")
        return frozenset({self.value[:FRAGMENT_BYTES], self.value[-FRAGMENT_BYTES:]})


@dataclass(frozen=True, slots=True)
class Finding:
    secret: Secret
    form: str
    place: str
    file: Path
    offset: int
    around: str

    def __str__(self) -> str:
        where = f"{self.place}: {self.file.name}@{self.offset}"
        return f"{self.secret.kind} of {self.secret.origin}, {self.form}, in {where}: {self.around}"


@dataclass(frozen=True, slots=True)
class Report:
    findings: list[Finding]
    searched: Mapping[str, int]
    """Bytes, by place."""

    def leaks(self) -> list[Finding]:
        """Return what was found where it must not be."""
        return [finding for finding in self.findings if finding.place not in finding.secret.may_rest_in]

    def places_of(self, secret: Secret) -> set[str]:
        return {finding.place for finding in self.findings if finding.secret == secret}


def base64_forms(data: bytes) -> Iterator[bytes]:
    """Yield what any base64 that contains `data` contains, wherever in it `data` begins."""
    for lead, clouded in ((0, 0), (1, 2), (2, 3)):  # characters that also carry bits of what comes before
        encoded = base64.b64encode(bytes(lead) + data)
        part = encoded[clouded : (lead + len(data)) * 8 // 6]
        yield part
        yield part.translate(bytes.maketrans(b"+/", b"-_"))


def _twice(data: bytes) -> Iterator[bytes]:
    for once in base64_forms(data):
        yield from base64_forms(once)


def _hex(data: bytes) -> Iterator[bytes]:
    yield data.hex().encode()
    yield data.hex().upper().encode()


def _hex_of_base64(data: bytes) -> Iterator[bytes]:
    for once in base64_forms(data):
        yield from _hex(once)


def _url(data: bytes) -> Iterator[bytes]:
    yield quote(data, safe="").encode()
    yield "".join(f"%{byte:02x}" for byte in data).encode()
    yield "".join(f"%{byte:02X}" for byte in data).encode()


def _json(data: bytes) -> Iterator[bytes]:
    text = data.decode("latin-1")
    yield json.dumps(text)[1:-1].encode()
    yield "".join(f"\\u{ord(character):04x}" for character in text).encode()
    yield "".join(f"\\u{ord(character):04X}" for character in text).encode()


def _utf16(data: bytes) -> Iterator[bytes]:
    yield data.decode("latin-1").encode("utf-16-le")
    yield data.decode("latin-1").encode("utf-16-be")


def _literal(data: bytes) -> Iterator[bytes]:
    yield repr(data)[2:-1].encode()
    yield "".join(f"\\x{byte:02x}" for byte in data).encode()


FORMS: Final[Mapping[str, Callable[[bytes], Iterator[bytes]]]] = {
    "raw": lambda data: iter((data,)),
    "base64": base64_forms,
    "base64 of base64": _twice,
    "hex": _hex,
    "hex of base64": _hex_of_base64,
    "URL-escaped": _url,
    "JSON-escaped": _json,
    "UTF-16": _utf16,
    "a literal of bytes": _literal,
}


class Needles:
    """What to look for. Made once for any number of places."""

    def __init__(self, secrets: Collection[Secret]) -> None:
        if not secrets:
            raise EmptyHunt("there is nothing to look for")
        # Of two secrets that share a fragment each is reported; of two forms that look the same, the first.
        self._owners: dict[bytes, dict[Secret, str]] = defaultdict(dict)
        for secret in secrets:
            for fragment in secret.fragments():
                for form, encode in FORMS.items():
                    for needle in encode(fragment):
                        if len(needle) < MIN_NEEDLE_BYTES:
                            raise ValueError(f"{form}: a needle of {len(needle)} bytes would be missed")
                        self._owners[needle].setdefault(secret, form)
        self._by_block: dict[int, list[bytes]] = defaultdict(list)
        for needle in self._owners:
            for start in range(len(needle) - BLOCK_BYTES + 1):
                self._by_block[int.from_bytes(needle[start : start + BLOCK_BYTES], sys.byteorder)].append(needle)
        self._blocks = frozenset(self._by_block)
        self._overlap = max(map(len, self._owners)) - 1

    def search(self, file: Path) -> Iterator[tuple[Secret, str, int, bytes]]:
        """Yield secret, form, offset and surroundings of every occurrence; some may come twice."""
        with file.open("rb", buffering=0) as handle:
            chunk, start = b"", 0
            while more := handle.read(CHUNK_BYTES):
                chunk += more
                for found in self._in_chunk(chunk):
                    yield found[0], found[1], start + found[2], found[3]
                kept = min(self._overlap, len(chunk))
                start += len(chunk) - kept
                chunk = chunk[len(chunk) - kept :]

    def _in_chunk(self, chunk: bytes) -> Iterator[tuple[Secret, str, int, bytes]]:
        blocks = memoryview(chunk)[: len(chunk) // BLOCK_BYTES * BLOCK_BYTES].cast("Q")
        suspects = {needle for block in self._blocks.intersection(blocks) for needle in self._by_block[block]}
        for needle in suspects:
            at = chunk.find(needle)
            while at >= 0:
                before = chunk[max(0, at - CONTEXT_BYTES) : at]
                for secret, form in self._owners[needle].items():
                    yield secret, form, at, before
                at = chunk.find(needle, at + len(needle))


def hunt(secrets: Collection[Secret], places: Mapping[str, Collection[Path]]) -> Report:
    """Search every file of every place; raise `EmptyHunt` if that could find nothing."""
    needles = Needles(secrets)
    if not places:
        raise EmptyHunt("there is nowhere to look")
    fragments = frozenset(fragment for secret in secrets for fragment in secret.fragments())
    findings: dict[tuple[Secret, str, Path], Finding] = {}
    searched: dict[str, int] = {}
    for place, files in places.items():
        searched[place] = sum(file.stat().st_size for file in files)
        if not searched[place]:
            raise EmptyHunt(f"{place}: there is nothing to search")
        for file in files:
            for secret, form, offset, before in needles.search(file):
                key = (secret, form, file)
                if key not in findings:  # the first occurrence in a file says enough
                    around = _shown(before, fragments)
                    findings[key] = Finding(secret, form, place, file, offset, around)
    return Report(list(findings.values()), searched)


def _shown(before: bytes, fragments: frozenset[bytes]) -> str:
    """Return what stands before an occurrence; parts of secrets that stand there are not shown either."""
    for fragment in fragments:
        before = before.replace(fragment, b"***")
    return f"{before.decode('ascii', 'backslashreplace')!r} and then ***"
