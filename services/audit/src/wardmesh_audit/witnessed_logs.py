"""The list of logs that this mesh witnesses: a file in the public witness network's form, read again when it changes.

    logs/v0
    vkey example.com/log+8d66cf3f+AQ…
    origin example.com/log

A log is its `vkey`, and what follows it; `origin` is the key's name unless it is said. What else a list says of a log
(`qpd`, `contact`) is not for us. Two entries of one origin are two keys of one log.

What always holds: a list is taken whole or not at all. One that cannot be read does not replace the one before.

On failure: `ValueError` naming the line, at the start; later a line in the service's log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wardmesh.crypto.errors import InvalidKey
from wardmesh.crypto.mldsa import MldsaKey
from wardmesh.crypto.note import VerifierKey
from wardmesh_audit.witness_rules import LogKey, Logs

LIST_HEADER: Final = "logs/v0"
MAX_LOGS: Final = 10_000
MAX_KEYS: Final = 8
MAX_ORIGIN_BYTES: Final = 255
"""What an ML-DSA-44 cosignature can name."""
MAX_LIST_BYTES: Final = 8 * 1024 * 1024
_log = logging.getLogger(__name__)


class LogsFile:
    """A list of logs in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()
        self._logs = self._read()

    def current(self) -> Logs:
        """Return what the file says, or said when it could last be read."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._logs = self._read()
            except (OSError, ValueError):
                _log.error("the list of witnessed logs cannot be read; the one before stays in force")
            else:
                _log.info("the list of witnessed logs has %d logs now", len(self._logs))
        return self._logs

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self) -> Logs:
        with self._path.open("rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise ValueError(f"{self._path}: a list of logs has at most {MAX_LIST_BYTES} bytes")
        try:
            return read_list(data)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from error


def read_list(data: bytes) -> Logs:
    """Return the logs of a list; raise `ValueError` naming a line."""
    entries = list(_entries(data))
    found: dict[str, tuple[LogKey, ...]] = {}
    for number, key, origin in entries:
        keys = (*found.get(origin, ()), key)
        if len(origin.encode()) > MAX_ORIGIN_BYTES:
            raise ValueError(f"line {number}: an origin has at most {MAX_ORIGIN_BYTES} bytes")
        if len(keys) > MAX_KEYS or len({each.identity for each in keys}) < len(keys):
            raise ValueError(f"line {number}: a log has at most {MAX_KEYS} keys, each once")
        found[origin] = keys
        if len(found) > MAX_LOGS:
            raise ValueError(f"line {number}: a witness has at most {MAX_LOGS} logs")
    return found


def _entries(data: bytes) -> Iterable[tuple[int, LogKey, str]]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError("a list of logs is UTF-8") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    said = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not said or said[0][1] != LIST_HEADER:
        raise ValueError(f"a list of logs begins with the line {LIST_HEADER}")
    pending: tuple[int, LogKey, str] | None = None
    for number, line in said[1:]:
        word, _, value = line.partition(" ")
        if word == "vkey":
            if pending is not None:
                yield pending
            key = _log_key(number, value.strip())
            pending = (number, key, key.name)
        elif pending is None:
            raise ValueError(f"line {number}: a log begins with its vkey")
        elif word == "origin":
            if re.search(r"[\x00-\x1f]", value) or not value.strip():
                raise ValueError(f"line {number}: an origin is one line of text")
            pending = (number, pending[1], value.strip())
    if pending is not None:
        yield pending


def _log_key(number: int, vkey: str) -> LogKey:
    try:
        return VerifierKey.parse(vkey)
    except InvalidKey:
        pass
    try:
        return MldsaKey.parse(vkey)
    except InvalidKey as error:
        raise ValueError(f"line {number}: not the verifier key of a log") from error
