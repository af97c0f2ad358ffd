"""A log that was pruned, read by HTTP: every layer of a mesh, and a superuser who passes a deletion off as that."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
import pytest
from tests.mesh.world import Tenant
from typer.testing import CliRunner

from wardmesh.audit_export import export_log
from wardmesh.audit_pruning import KEPT
from wardmesh.contracts.audit import AuditEnvelope, AuditEvent, NewAuditEvent, Outcome
from wardmesh.contracts.operation import Category
from wardmesh.ids import AgentId, EventId
from wardmesh.server.database import Database
from wardmesh.server.outbox import Outbox
from wardmesh.server.runtime import OutboxAudit
from wardmesh.subjects import AuditSubject
from wardmesh_audit.domain import decode_envelope
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_cli.application import build
from wardmesh_cli.embedded.postgres import SUPERUSER

LONG_AGO: Final = datetime(2021, 7, 15, tzinfo=UTC)
SIZE: Final = 300
PRUNED_SECONDS: Final = 30.0
NEWS: Final = NewAuditEvent(category=Category.ADMINISTRATION, action="test.news")


@dataclass
class Log:
    """A workspace's log of which every second of 300 entries was pruned, and who may read it."""

    tenant: Tenant
    token: Path
    key: str
    first: int
    """The first of the 300."""

    @property
    def url(self) -> str:
        return f"{self.tenant.mesh.http_url}/v1/{self.tenant.workspace}/log"

    async def verify(self, place: str, *, json_too: bool = True) -> tuple[int, Any]:
        words = ["--key", self.key, "--token-file", str(self.token), *(["--json"] if json_too else [])]
        ran = await asyncio.to_thread(CliRunner().invoke, build(), ["audit", "verify", place, *words])
        return ran.exit_code, json.loads(ran.stdout) if json_too else ran.output

    async def get(self, path: str, token: str | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token or self.token.read_text()}"}
        async with httpx2.AsyncClient(timeout=20) as http:
            return await http.get(f"{self.url}/{path}", headers=headers)

    async def tamper(self, statement: str, *values: object) -> None:
        connection = await asyncpg.connect(self.tenant.mesh.database_url(SUPERUSER))
        try:
            async with connection.transaction():
                await connection.execute("set local session_replication_role = replica")  # no triggers
                done = await connection.execute(statement, self.tenant.workspace, *values)
                assert not done.endswith(" 0")
        finally:
            await connection.close()


@pytest.fixture
async def log(acme: Tenant, tmp_path: Path) -> Log:
    scope = acme.workspace
    async with (
        await acme.connect_as_owner() as owner,
        Database(acme.mesh.database_url("wardmesh_audit"), application="audit") as database,
    ):
        await owner.audit.set_retention(category=Category.TOOL_CALL, days=30)
        store = PostgresStore(database)
        categories = (Category.TOOL_CALL, Category.MODEL_USAGE)
        old = AuditEnvelope(events=tuple(_old(categories[index % 2]) for index in range(SIZE)))
        subject = AuditSubject(scope, "secrets").format()
        made = decode_envelope(subject, old.model_dump_json().encode(), LONG_AGO, random=os.urandom)
        sealed = await store.seal(scope, made.candidates)
        await owner.audit.receipt(event_id=await owner.audit.emit(NEWS))  # and everybody was told of what came before
        pruner = Pruner(PostgresRetention(database, OutboxAudit(Outbox("audit"))), lambda: datetime.now(UTC))
        async with asyncio.timeout(PRUNED_SECONDS):
            while not any(each.pruned for each in (await owner.audit.prunings()).prunings):
                await pruner.round()
                await asyncio.sleep(0.1)
        key = (await owner.audit.checkpoint()).verifier_key
    token = tmp_path / "token"
    token.write_text((await acme.log_in(scope=scope))["token"])
    return Log(acme, token, key, sealed.first)


def _old(category: Category) -> AuditEvent:
    return AuditEvent(
        id=EventId.new(),
        occurred_at=LONG_AGO,
        category=category,
        action="tool.call",
        outcome=Outcome.SUCCESS,
        actor=AgentId.new(),
    )


async def test_a_pruned_log_verifies_by_http_as_its_export_does(log: Log, tmp_path: Path) -> None:
    status, said = await log.verify(log.url)
    assert (status, said["sound"], said["pruned"]) == (0, True, SIZE // 2), said
    assert said["announced_by"]
    _, words = await log.verify(log.url, json_too=False)
    assert f"pruned     {SIZE // 2} of them, as the log says in entry {said['announced_by'][0]}" in words

    async with await log.tenant.connect_as_owner() as owner:
        await export_log(owner.audit, tmp_path / "export")
    status, exported = await log.verify(str(tmp_path / "export"))
    assert (status, exported["pruned"], exported["announced_by"]) == (0, said["pruned"], said["announced_by"])
    served = (await log.get(f"{KEPT}?size={exported['size']}")).text.splitlines()
    assert _by_entry(served) == _by_entry((tmp_path / "export" / KEPT).read_text().splitlines())


async def test_a_deletion_that_is_no_announced_pruning_is_named_by_http(log: Log) -> None:
    victim = log.first + SIZE - 1
    await log.tamper("delete from audit.entries where scope_id = $1 and index = $2", victim)
    status, said = await log.verify(log.url)
    assert (status, said["damage"]["entry"]) == (1, victim), said
    assert f"entry {victim} is missing, and was to be kept" in said["damage"]["what"]
    # Passed off as one that was kept to the same day: what the log announced was without it.
    await log.tamper(
        "update audit.leaves set kept_to = (select pruned_to from audit.logs where scope_id = $1) "
        "where scope_id = $1 and index = $2",
        victim,
    )
    status, said = await log.verify(log.url)
    assert (status, said["damage"]["entry"]) == (1, log.first), said
    assert "does not say that it was pruned" in said["damage"]["what"]


async def test_days_are_read_by_who_may_and_in_their_own_scope(log: Log, rival: Tenant) -> None:
    _, key = await log.tenant.agent("audit.read")
    reading = (await log.tenant.exchange(key.api_key, log.tenant.workspace))["token"]
    _, key = await log.tenant.agent("audit.write", name="other")
    writing = (await log.tenant.exchange(key.api_key, log.tenant.workspace))["token"]
    foreign = (await rival.log_in(scope=rival.workspace))["token"]
    assert (await log.get(KEPT, reading)).status_code == 200
    assert len((await log.get(f"{KEPT}?size={log.first + 3}", reading)).text.splitlines()) == 2
    for token in (writing, foreign, "x"):
        assert (await log.get(KEPT, token)).status_code in {401, 403}
    assert (await log.get(f"{KEPT}?size=999999", reading)).status_code == 404


def _by_entry(lines: list[str]) -> dict[int, str]:
    runs = map(json.loads, lines)
    return {index: run["kept_to"] for run in runs for index in range(run["first"], run["last"] + 1)}
