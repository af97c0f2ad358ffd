"""Where the hunt goes: what a mesh has written anywhere, and what it has said to others."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import httpx2
from tests.canary.loud import LoudMesh
from tests.canary.table import ANSWERS, BROKER_LOG

LIBRARY_LOGGERS: Final = ("wardmesh", "nats", "asyncio")
"""Whose lines a program that uses the client library gets to see."""


class LibraryLog(logging.Handler):
    """All that the client library logs in this process, tracebacks included."""

    def __init__(self, file: Path) -> None:
        super().__init__(logging.DEBUG)
        self._handle = file.open("a", errors="backslashreplace")
        self._levels: dict[str, int] = {}
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._handle.write(self.format(record) + "\n")

    def __enter__(self) -> LibraryLog:
        for name in LIBRARY_LOGGERS:
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(logging.DEBUG)
            logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).setLevel(level)
        self._handle.close()


async def dump_rows(database: asyncpg.Connection, folder: Path) -> None:
    """Write every row of every table, as PostgreSQL sends it: what it keeps compressed is whole here."""
    await asyncio.to_thread(folder.mkdir)
    tables = await database.fetch(
        "select c.oid::regclass::text as name, n.nspname in ('pg_catalog', 'information_schema') as is_catalog "
        "from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'm')"
    )
    for number, table in enumerate(tables):
        # Some types of the catalog have no binary form.
        form: Literal["text", "binary"] = "text" if table["is_catalog"] else "binary"
        await database.copy_from_query(
            f"select * from {table['name']}",  # noqa: S608 - a name that PostgreSQL quoted
            output=folder / f"{number}-{table['name'].replace('/', '_')}",
            format=form,
        )


async def assert_nothing_is_compressed(mesh: LoudMesh, database: asyncpg.Connection) -> None:
    """What is compressed can't be searched: fail if a default has changed."""
    async with httpx2.AsyncClient() as http:
        streams = (await http.get(f"{mesh.nats_monitoring_url}/jsz?streams=true&config=true")).json()
    configs = [stream["config"] for account in streams["account_details"] for stream in account["stream_detail"]]
    assert {config["name"] for config in configs} >= {"EVENTS", "AUDIT", "SEALED"}
    assert {config.get("compression", "none") for config in configs} == {"none"}
    assert await database.fetchval("show wal_compression") == "off"


def places(mesh: LoudMesh, beside: Path) -> dict[str, list[Path]]:
    """Return every file, by place; what lies in the data folder and in no place is one of its own.

    The identities are left out: the keys that the mesh is made with lie there by design.
    """
    layout, taken = mesh.layout, set(_files(mesh.layout.identities.folder))
    found: dict[str, list[Path]] = {
        BROKER_LOG: [layout.log("nats")],
        "database's log": [layout.log("postgres")],
        "logs": [file for file in _files(layout.logs) if file.stem not in {"nats", "postgres"}],
        "JetStream": _files(layout.jetstream),
        "PostgreSQL's files": _files(layout.postgres),
    }
    for files in found.values():
        taken.update(files)
    found["the rest"] = [file for file in _files(mesh.data_dir) if file not in taken]
    found["published"] = [beside / "published"]
    for name in ("rows", "traces", "export"):
        found[name] = _files(beside / name)
    found[ANSWERS] = [beside / "answers"]
    found["client"] = [beside / "client"]
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def summary(places: Mapping[str, Collection[Path]], searched: Mapping[str, int]) -> str:
    """Return what was searched, a line each."""
    return "\n".join(f"{name:20} {len(files):5} files {searched[name]:12,} bytes" for name, files in places.items())


def public_key_in(config: Path) -> str:
    """Return something that is known to be in the broker's configuration."""
    document: dict[str, Any] = json.loads(config.read_text())
    issuer: str = document["authorization"]["auth_callout"]["issuer"]
    return issuer
