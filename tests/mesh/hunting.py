"""Where somebody may be found who was erased: every row, message and key, and everything that readers are given.

What always holds: no stream, bucket or object store is passed over. Buckets and object stores are streams (`KV_…`,
`OBJ_…`), so the broker is asked for all that it has, and one that nobody here can read fails the hunt.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import httpx2
import nats
import pyarrow.parquet as pq
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from tests.canary.hunt import Secret

from wardmesh.audit_export import export_log
from wardmesh.audit_rows import Format
from wardmesh.audit_selection import export_selection
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import Filter
from wardmesh.ids import EventId, UserId
from wardmesh.server.broker import BUCKETS, OWNED_STREAMS, PRIVATE_BUCKETS, stream_of_bucket
from wardmesh.server.settings import read_seed
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER

SEALED_SECONDS: Final = 20.0
BUCKET_STREAMS: Final = {stream_of_bucket(bucket): owner for bucket, owner in {**BUCKETS, **PRIVATE_BUCKETS}.items()}
READERS: Final = {stream: service for service, owned in OWNED_STREAMS.items() for stream in owned} | BUCKET_STREAMS
"""Who may fetch a message of each stream by its number."""


@asynccontextmanager
async def service_connection(mesh: EmbeddedMesh, service: str) -> AsyncIterator[Client]:
    seed = read_seed(mesh.layout.identities.seed_file(service))
    client = await nats.connect(mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{service}")
    try:
        yield client
    finally:
        await client.close()


async def streams_there(mesh: EmbeddedMesh) -> dict[str, int]:
    """Return every stream that the broker has, whatever it keeps, and the number of its last message."""
    async with httpx2.AsyncClient() as http:
        said = (await http.get(f"{mesh.nats_monitoring_url}/jsz?streams=true&accounts=true")).json()
    streams = [stream for account in said["account_details"] for stream in account.get("stream_detail", ())]
    return {stream["name"]: stream["state"]["last_seq"] for stream in streams}


async def places_in_streams(mesh: EmbeddedMesh) -> dict[str, int]:
    """Return where to begin in each stream: what others left before is nobody's we hunt. Buckets are read whole."""
    there = await streams_there(mesh)
    return {stream: 1 if stream in BUCKET_STREAMS else last + 1 for stream, last in there.items()}


async def write_messages(mesh: EmbeddedMesh, since: Mapping[str, int], folder: Path) -> dict[str, list[Path]]:
    """Write every message of every stream and bucket, as the API gives it out; return the files of each."""
    last = await streams_there(mesh)
    assert last.keys() == READERS.keys(), "a stream, a bucket or an object store that nobody hunts in"
    files: dict[str, list[Path]] = {stream: [] for stream in last}
    for service in set(READERS.values()):
        async with service_connection(mesh, service) as client:
            for stream in (stream for stream, reader in READERS.items() if reader == service):
                for sequence in range(since[stream], last[stream] + 1):
                    try:
                        message = await client.jetstream().get_msg(stream, sequence)
                    except NotFoundError:
                        continue
                    file = folder / f"{stream}-{sequence}"
                    said = f"{message.subject}\n{message.headers}\n".encode() + (message.data or b"")
                    await asyncio.to_thread(file.write_bytes, said)
                    files[stream].append(file)
    return files


def files_of_buckets(mesh: EmbeddedMesh) -> list[Path]:
    """Return what the broker's disk has of every bucket and object store: what was replaced may still be there."""
    folders = [folder for kind in ("KV_*", "OBJ_*") for folder in mesh.layout.jetstream.rglob(kind)]
    assert {folder.name for folder in folders} == BUCKET_STREAMS.keys()
    return [file for folder in folders for file in folder.rglob("*") if file.is_file()]


async def write_rows(mesh: EmbeddedMesh, folder: Path) -> list[Path]:
    """Write every column of every table of the audit service, and of every outbox, in text and in binary."""
    database = await asyncpg.connect(mesh.database_url(SUPERUSER))
    tables = await database.fetch(
        "select c.oid::regclass::text as name from pg_class c where c.relkind = 'r' and "
        "(c.relnamespace = 'audit'::regnamespace or c.relname = 'outbox')"
    )
    assert {"audit.entries_for_ever", "audit.erasures", *(f"{name}.outbox" for name in SERVICES)} <= {
        table["name"] for table in tables
    }
    files = []
    for table in tables:
        for form in ("text", "binary"):
            file = folder / f"{table['name']}.{form}"
            await database.copy_from_query(f"select * from {table['name']}", output=file, format=form)  # type: ignore[arg-type]  # noqa: S608
            files.append(file)
    await database.close()
    return files


def keys_of(mesh: EmbeddedMesh, person: UserId) -> list[Secret]:
    """Return the keys that the audit service has for somebody, in all scopes."""
    # A file has keys that were made at once, and a name for each.
    lines = {line for file in key_files(mesh) for line in file.read_bytes().splitlines() if person.encode() in line}
    said = [json.loads(line) for line in lines]
    return [Secret("key", each["scope"], bytes.fromhex(each["key"])) for each in said]


def key_files(mesh: EmbeddedMesh) -> list[Path]:
    return files_in(mesh.layout.subject_keys)


async def everything_is_sealed(mesh: EmbeddedMesh, seconds: float = SEALED_SECONDS) -> None:
    """Wait until nothing is in an outbox, or in the stream before the log."""
    database = await asyncpg.connect(mesh.database_url(SUPERUSER))
    waiting = " + ".join(f"(select count(*) from {service}.outbox)" for service in SERVICES)  # noqa: S608 - constants
    async with asyncio.timeout(seconds), service_connection(mesh, "audit") as client:
        while (
            await database.fetchval(f"select {waiting}")
            or (await client.jetstream().stream_info("AUDIT")).state.messages
        ):
            await asyncio.sleep(0.05)
    await database.close()


async def what_readers_get(mesh: Mesh, folder: Path, person: UserId, event: EventId) -> None:
    """Write exports of every form, and every answer that shows entries."""
    await export_log(mesh.audit, folder / "whole")
    for kind in Format:
        await export_selection(mesh.audit, folder / kind, kind, Filter())
    answers: list[object] = [await mesh.audit.receipt(event_id=event), await mesh.audit.holds()]
    answers += [entry async for entry in mesh.audit.search(Filter())]
    answers += [entry async for entry in mesh.audit.search(Filter(actor=person))]
    answers += [await mesh.audit.tail_page(start=0, limit=500, wait_seconds=0), await mesh.audit.erasures()]
    (folder / "answers").write_text("\n".join(each.model_dump_json() for each in answers))  # type: ignore[attr-defined]


def files_in(folder: Path) -> list[Path]:
    for file in folder.rglob("*.parquet"):  # which is compressed: what is in it is what is hunted in
        file.with_suffix(".rows").write_text(str(pq.read_table(file).to_pylist()))
    return [file for file in folder.rglob("*") if file.is_file()]
