"""A person acts, is erased, and is then hunted: in every row, every message, and everything that readers are given.

On real servers, with the five services as processes. A control before the erasure finds the person where the person
should be; so the hunt that finds nothing afterwards would have.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
import nats
import pyarrow.parquet as pq
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError
from tests.canary.hunt import Secret, hunt
from tests.mesh.world import Tenant

import wardmesh
from wardmesh.audit_erasure import open_certificate
from wardmesh.audit_export import export_log, verify_export
from wardmesh.audit_receipt import verify_growth, verify_receipt
from wardmesh.audit_rows import Format
from wardmesh.audit_selection import export_selection
from wardmesh.audit_selection_verify import verify_selection
from wardmesh.client.mesh import Mesh
from wardmesh.contracts.audit import Checkpoint, Filter, Leaves, NewAuditEvent
from wardmesh.contracts.operation import Category
from wardmesh.crypto.errors import BadSignature
from wardmesh.errors import NothingToErase, PermissionDenied, UnderHold
from wardmesh.ids import EventId, UserId
from wardmesh.server.broker import OWNED_STREAMS
from wardmesh.server.settings import read_seed
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.mesh import EmbeddedMesh
from wardmesh_cli.embedded.postgres import SUPERUSER

SEALED_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Hunted:
    """Somebody whose every trait is found nowhere else."""

    user: UserId
    email: str
    password: str
    user_agent: str
    login: str

    def traits(self) -> list[Secret]:
        said = {"id": self.user, "e-mail": self.login, "user agent": self.user_agent}
        return [Secret(kind, "the person", value.encode()) for kind, value in said.items()]


class Log:
    """A mesh's log as an export of all of it reads it."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def checkpoint(self) -> Checkpoint:
        return await self._mesh.audit.checkpoint()

    async def leaves(self, *, start: int, limit: int) -> Leaves:
        return await self._mesh.audit.leaves_page(start=start, limit=limit)


async def make_person(acme: Tenant) -> Hunted:
    email, password = f"{secrets.token_hex(12)}@example.com", secrets.token_urlsafe(18)
    async with await acme.connect_as_owner() as owner:
        made = await owner.auth.create_user(email=email, password=password, level="admin")
    return Hunted(
        UserId.parse(made.id), email, password, f"Hunted/{secrets.token_hex(16)}", f"{secrets.token_hex(16)}@x.test"
    )


async def act(acme: Tenant, person: Hunted) -> EventId:
    """Log in, use the gateway and the broker, and say something about oneself; return the event that says it."""
    headers = {"User-Agent": person.user_agent}
    async with httpx2.AsyncClient(base_url=acme.mesh.http_url, timeout=30, headers=headers) as http:
        credential = {"organization": acme.organization, "email": person.email, "password": person.password}
        credential["scope"] = acme.workspace
        session = (await http.post(f"/v1/{acme.organization}/auth/log_in", json=credential)).json()
        bearer = {"Authorization": f"Bearer {session['token']}"}
        answer = await http.post(f"/v1/{acme.workspace}/audit/query", json={}, headers=bearer)
        assert answer.status_code == 200, answer.text
        wrong = {**credential, "password": "wrong, and long enough"}
        # A log-in that failed is nobody's act, so its entry keeps where it came from: not from the person's browser.
        failed = await http.post(f"/v1/{acme.organization}/auth/log_in", json=wrong, headers={"User-Agent": "Other/1"})
        assert failed.status_code == 401
    async with await acme_session(acme, person) as mesh:
        await mesh.secrets.put("hunted/key", b"value")
        await mesh.audit.place_hold(reason="to see that it is kept")
        await mesh.audit.save_position(name="hunted", next_start=0)
        with pytest.raises(PermissionDenied):
            await mesh.audit.erase(subject=person.user)
        return await mesh.audit.emit(
            NewAuditEvent(
                category=Category.ADMINISTRATION,
                action="person.change",
                targets=(person.user,),
                details={"email": person.login, "approved_by": person.user},
            )
        )


async def acme_session(acme: Tenant, person: Hunted) -> Any:
    session = await acme.log_in(email=person.email, password=person.password, scope=acme.workspace)
    return wardmesh.connect(acme.mesh.nats_url, token=session["token"])


@asynccontextmanager
async def service_connection(mesh: EmbeddedMesh, service: str) -> AsyncIterator[Client]:
    seed = read_seed(mesh.layout.identities.seed_file(service))
    client = await nats.connect(mesh.nats_url, nkeys_seed_str=seed, inbox_prefix=f"_INBOX.{service}")
    try:
        yield client
    finally:
        await client.close()


async def places_in_streams(mesh: EmbeddedMesh) -> dict[str, int]:
    """Return each stream's next sequence: what others left before is nobody's we hunt."""
    found = {}
    for service, streams in OWNED_STREAMS.items():
        async with service_connection(mesh, service) as client:
            for stream in streams:
                found[stream] = (await client.jetstream().stream_info(stream)).state.last_seq + 1
    return found


async def write_messages(mesh: EmbeddedMesh, since: Mapping[str, int], folder: Path) -> int:
    """Write every message of every stream, as the API gives it out; return how many there were."""
    count = 0
    for service, streams in OWNED_STREAMS.items():
        async with service_connection(mesh, service) as client:
            for stream in streams:
                last = (await client.jetstream().stream_info(stream)).state.last_seq
                for sequence in range(since[stream], last + 1):
                    try:
                        message = await client.jetstream().get_msg(stream, sequence)
                    except NotFoundError:
                        continue
                    said = f"{message.subject}\n{message.headers}\n".encode() + (message.data or b"")
                    (folder / f"{stream}-{sequence}").write_bytes(said)
                    count += 1
    return count


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


async def everything_is_sealed(mesh: EmbeddedMesh) -> None:
    """Wait until nothing is in an outbox, or in the stream before the log."""
    database = await asyncpg.connect(mesh.database_url(SUPERUSER))
    waiting = " + ".join(f"(select count(*) from {service}.outbox)" for service in SERVICES)  # noqa: S608 - constants
    async with asyncio.timeout(SEALED_SECONDS), service_connection(mesh, "audit") as client:
        while (
            await database.fetchval(f"select {waiting}")
            or (await client.jetstream().stream_info("AUDIT")).state.messages
        ):
            await asyncio.sleep(0.05)
    await database.close()


async def what_readers_get(mesh: Mesh, folder: Path, person: Hunted, event: EventId) -> None:
    """Write exports of every form, and every answer that shows entries."""
    await export_log(Log(mesh), folder / "whole")
    for kind in Format:
        await export_selection(mesh.audit, folder / kind, kind, Filter())
    answers: list[object] = [await mesh.audit.receipt(event_id=event), await mesh.audit.holds()]
    answers += [entry async for entry in mesh.audit.search(Filter())]
    answers += [entry async for entry in mesh.audit.search(Filter(actor=person.user))]
    answers += [await mesh.audit.tail_page(start=0, limit=500, wait_seconds=0), await mesh.audit.erasures()]
    (folder / "answers").write_text("\n".join(each.model_dump_json() for each in answers))  # type: ignore[attr-defined]


def files_in(folder: Path) -> list[Path]:
    for file in folder.rglob("*.parquet"):  # which is compressed: what is in it is what is hunted in
        file.with_suffix(".rows").write_text(str(pq.read_table(file).to_pylist()))
    return [file for file in folder.rglob("*") if file.is_file()]


def found_in(person: Hunted, place: str, files: Collection[Path]) -> set[str]:
    return {finding.secret.kind for finding in hunt(person.traits(), {place: files}).findings}


async def test_somebody_who_is_erased_is_found_nowhere_and_every_proof_holds(acme: Tenant, tmp_path: Path) -> None:
    mesh = acme.mesh
    for name in ("rows before", "rows", "messages", "before", "after"):
        (tmp_path / name).mkdir()
    since = await places_in_streams(mesh)
    person = await make_person(acme)
    event = await act(acme, person)
    await everything_is_sealed(mesh)

    async with await acme.connect_as_owner() as owner, await acme.connect_as_owner(acme.organization) as owner_of_all:
        # The control: readers see the person, and rows have nobody even now.
        assert found_in(person, "rows", await write_rows(mesh, tmp_path / "rows before")) == set()
        await what_readers_get(owner, tmp_path / "before", person, event)
        for export in ("whole", *Format):
            assert found_in(person, export, files_in(tmp_path / "before" / export)) == {"id", "e-mail", "user agent"}
        assert found_in(person, "answers", [tmp_path / "before" / "answers"]) == {"id", "e-mail", "user agent"}
        receipt = await owner.audit.receipt(event_id=event)
        kept = await owner.audit.checkpoint()
        async with await acme_session(acme, person) as hunted:
            mine = await hunted.audit.mine()
            assert {entry.event.actor for entry in mine.entries} == {person.user}
            assert "person.change" in {entry.event.action for entry in mine.entries}
        await everything_is_sealed(mesh)

        with pytest.raises(UnderHold):
            await owner.audit.erase(subject=person.user)
        await owner.audit.lift_hold(number=1, reason="it was")
        erased = [await each.audit.erase(subject=person.user) for each in (owner, owner_of_all)]
        await everything_is_sealed(mesh)

        with pytest.raises(NothingToErase):
            await owner.audit.erase(subject=person.user)
        await everything_is_sealed(mesh)
        await what_readers_get(owner, tmp_path / "after", person, event)
        await export_log(Log(owner_of_all), tmp_path / "after" / "organization")
        rows = await write_rows(mesh, tmp_path / "rows")
        assert await write_messages(mesh, since, tmp_path / "messages") > 10
        places = {"rows": rows, "messages": files_in(tmp_path / "messages"), "given": files_in(tmp_path / "after")}
        leaks = hunt(person.traits(), places).findings
        assert [str(each) for each in leaks] == []

        # What was kept from before verifies as it did, and the log grew from it.
        assert verify_export(tmp_path / "before" / "whole", kept.verifier_key).is_sound
        report = verify_export(tmp_path / "after" / "whole", kept.verifier_key, kept={"kept": kept.note.encode()})
        assert report.is_sound, str(report)
        assert report.withheld > 0
        for kind in Format:
            assert verify_selection(tmp_path / "before" / kind, kept.verifier_key).is_sound
            assert verify_selection(tmp_path / "after" / kind, kept.verifier_key).withheld > 0
        assert verify_receipt(receipt.proof.encode(), kept.verifier_key, openings=receipt.openings).withheld == 0
        present = await owner.audit.checkpoint()
        growth = await owner.audit.consistency(old_size=kept.size, size=present.size)
        verify_growth(kept.note.encode(), present.note.encode(), growth.hashes, kept.verifier_key)
        for each in erased:
            certificate = open_certificate(each.certificate.encode(), each.verifier_key)
            assert certificate.entries == each.entries > 0
            assert person.user not in each.certificate
            with pytest.raises(BadSignature):
                open_certificate(each.certificate.replace(f"entries {each.entries}", "entries 1").encode(),
                                 each.verifier_key)  # fmt: skip
        told = [entry async for entry in owner.audit.search(Filter(action="audit.subject_erased"))]
        assert [entry.event.id for entry in told] == [erased[0].erasure_id]
        assert person.user not in json.dumps([entry.model_dump(mode="json") for entry in told])
