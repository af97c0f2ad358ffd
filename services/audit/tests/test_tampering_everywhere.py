"""Every table of the log, changed in every way by a superuser: an export that is verified finds it, and says where.

The tables and their columns come from the catalog, so a new one fails here until it has its cases, or until somebody
has written down why nothing of the log depends on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import asyncpg
import pytest
from fake_log import FakeLog
from fake_people import FakePeople
from fake_ports import SUBJECTS, FakeAlarm, FakeEmitter, FakeMemory, FakeWakeups
from makers import Person, candidates, event
from test_tampering import SIZE, Reader

from wardmesh.audit_export import ExportIncomplete, export_log, verify_export
from wardmesh.errors import WardmeshError
from wardmesh.server.database import Database
from wardmesh_audit.errors import LogDamaged, SigningRefused
from wardmesh_audit.proving import Prover
from wardmesh_audit.service import AuditService
from wardmesh_audit.signing import LogSigner
from wardmesh_audit.store import PostgresStore

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NO_LOG_CONTENT: Final = {
    "key_folder": "which folder of keys the service expects: another makes it refuse to start",
    "erasures": "copies of certificates, which are signed; each has an entry",
    "outbox": "events on their way to another stream; what is in the log does not come through it",
    "schema_migrations": "which migrations have run",
    "positions": "how far readers have read, which they may set anywhere",
    "retention": "for how long what is sealed next is kept; setting it leaves an entry",
    "holds": "what stops pruning; placing one leaves an entry",
    "lifted_holds": "what lets pruning go on; lifting leaves an entry",
    "cosignatures": "witnesses' lines; each is verified by its key before it is given out, and by whoever reads it",
    "witnessed": "how far other people's logs were cosigned",
    "forwarders": "where the log is sent on to, and how far; what is in it is sealed for its place (test_forwarding)",
    "publications": "how far the news are told, at least once",
    "prunings": "what was announced; the announcement itself is an entry (test_pruned_logs)",
}
"""Tables that may be changed without the log being another one."""

SEARCHED: Final = "repeats what the leaf says, to search by: a change hides an entry from a search, not from the log"
KEPT: Final = "the announcement has the digest of all that is kept to a day; verifying compares when one is missing"
OPENED: Final = "what a leaf commits to: a change opens nothing, and is named (test_people)"
NOT_PROVEN: Final = {
    "entries": dict.fromkeys(
        ("received_at", "source", "occurred_at", "category", "action", "outcome", "actor", "request_id", "targets",
         "acting_for", "trace_id", "trace_place"), SEARCHED) | {"kept_to": KEPT, "openings": OPENED},
    "leaves": {"kept_to": KEPT},
    "logs": {
        "pruning_to": "which months take nothing more",
        "pruned_to": "what is hidden without an announcement is named as missing (test_pruned_logs)",
        "signed_size": "the broker remembers it too, and a head must extend both",
        "signed_note": "the broker remembers it too, and a head must extend both",
        "sealed_at": "when, for people",
    },
    "tiles": {"filled_at": "when, for readers who begin at a time"},
}  # fmt: skip
"""Columns that no proof covers, and why that is no way into the log."""


@dataclass(frozen=True)
class Case:
    """A change, and the first entry that verifying names, or words of the refusal to sign."""

    statement: str
    entry: int | None = None
    refusal: str | None = None


FORK: Final = "not an extension"
AT_END: Final = f"at {SIZE} entries"
BEFORE_END: Final = f"before entry {SIZE}"
MOVE: Final = "update audit.{table} set {column} = {column} + 10000 where scope_id = $1 and {column} = {value}"
ELSEWHERE: Final = "update audit.{table} set scope_id = 'ws_01h455vb4pex5vsknk084sn02q' where scope_id = $1"
CASES: Final = {
    ("entries", "change"): {
        "leaf": Case("update audit.entries set leaf = '{}' where scope_id = $1 and index = 300", 300),
        "index": Case(MOVE.format(table="entries", column="index", value=300), 300),
        "scope_id": Case(ELSEWHERE.format(table="entries") + " and index = 300", 300),
    },
    ("entries", "delete"): Case("delete from audit.entries where scope_id = $1 and index = 300", 300),
    ("entries", "insert"): Case(
        "insert into audit.entries select (jsonb_populate_record(e, '{\"received_at\": \"2020-01-01T00:00:00Z\"}')).* "
        "from audit.entries e where scope_id = $1 and index = 300", 300),
    ("entries", "reorder"): Case(
        "update audit.entries a set leaf = b.leaf from audit.entries b where a.scope_id = $1 and b.scope_id = $1 "
        "and a.index in (290, 310) and b.index = 600 - a.index", 290),
    ("entries", "truncate"): Case("truncate audit.entries", 0),
    ("leaves", "change"): {
        "leaf_hash": Case("update audit.leaves set leaf_hash = sha256('x') where scope_id = $1 and index = 300", 300),
        "event_id": Case("update audit.leaves set event_id = overlay(event_id placing '0000' from 20) "
                         "where scope_id = $1 and index = 599", 599),
        "index": Case(MOVE.format(table="leaves", column="index", value=300), 300),
        "scope_id": Case(ELSEWHERE.format(table="leaves") + " and index = 300", 300),
    },
    ("leaves", "delete"): Case("delete from audit.leaves where scope_id = $1 and index = 300", 300),
    ("leaves", "insert"): Case(
        "insert into audit.leaves select scope_id, 600, overlay(event_id placing '0000' from 20), leaf_hash "
        "from audit.leaves where scope_id = $1 and index = 599", refusal="sealing stops"),
    ("leaves", "reorder"): Case(
        "update audit.leaves a set leaf_hash = b.leaf_hash from audit.leaves b where a.scope_id = $1 "
        "and b.scope_id = $1 and a.index in (290, 310) and b.index = 600 - a.index", 290),
    ("leaves", "truncate"): Case("truncate audit.leaves", refusal=BEFORE_END),
    ("tiles", "change"): {
        "hashes": Case("update audit.tiles set hashes = set_byte(hashes, 40, get_byte(hashes, 40) # 1) "
                       "where scope_id = $1 and index = 1", 257),
        "root": Case("update audit.tiles set root = sha256(root) where scope_id = $1 and index = 1", refusal=AT_END),
        "index": Case(MOVE.format(table="tiles", column="index", value=1), refusal=BEFORE_END),
        "level": Case("update audit.tiles set level = 7 where scope_id = $1 and index = 1", refusal=BEFORE_END),
        "scope_id": Case(ELSEWHERE.format(table="tiles"), refusal=BEFORE_END),
    },
    ("tiles", "delete"): Case("delete from audit.tiles where scope_id = $1 and index = 1", refusal=BEFORE_END),
    ("tiles", "insert"): Case(
        "insert into audit.tiles select (jsonb_populate_record(t, '{\"index\": 2}')).* from audit.tiles t "
        "where scope_id = $1 and index = 1", refusal=AT_END),
    ("tiles", "reorder"): Case(
        "update audit.tiles a set hashes = b.hashes, root = b.root from audit.tiles b where a.scope_id = $1 "
        "and b.scope_id = $1 and b.index = 1 - a.index", refusal=AT_END),
    ("tiles", "truncate"): Case("truncate audit.tiles", refusal=BEFORE_END),
    ("logs", "change"): {
        "size": Case("update audit.logs set size = 599, signed_size = 500, frontier = frontier || "
                     "array_fill(root, array[bit_count(int8send(599))::int - cardinality(frontier)]) "
                     "where scope_id = $1", refusal=FORK),
        "frontier": Case("update audit.logs set frontier[1] = sha256(frontier[1]) where scope_id = $1", refusal=AT_END),
        "root": Case("update audit.logs set root = sha256(root) where scope_id = $1", refusal=AT_END),
        "scope_id": Case(ELSEWHERE.format(table="logs"), refusal=FORK),
    },
    ("logs", "delete"): Case("delete from audit.logs where scope_id = $1", refusal=FORK),
    ("logs", "insert"): Case(
        "with gone as (delete from audit.logs where scope_id = $1 returning *) insert into audit.logs "
        "(scope_id, size, frontier, root) select scope_id, 1, array[sha256('x')], sha256('x') from gone",
        refusal=FORK),
    ("logs", "reorder"): Case(
        "update audit.logs set frontier = array(select node from unnest(frontier) with ordinality as f (node, place) "
        "order by place desc) where scope_id = $1",
        refusal=AT_END),
    ("logs", "truncate"): Case("truncate audit.logs", refusal=FORK),
}  # fmt: skip
WAYS: Final = ("change", "delete", "insert", "reorder", "truncate")


def _all_cases() -> list[tuple[str, Case]]:
    found = []
    for (table, way), case in CASES.items():
        columns = case if isinstance(case, dict) else {"": case}
        found += [(f"{table}-{way}-{column}".removesuffix("-"), each) for column, each in columns.items()]
    return found


async def test_every_table_and_column_has_its_cases(superuser: Superuser) -> None:
    rows = await superuser.fetch(
        """select relname, array_agg(attname::text) as columns
             from pg_class join pg_attribute on attrelid = pg_class.oid
            where relnamespace = 'audit'::regnamespace and relkind in ('r', 'p') and not relispartition
              and attnum > 0 and not attisdropped group by relname"""
    )
    columns = {row["relname"]: set(row["columns"]) for row in rows}
    assert columns.keys() == {table for table, _ in CASES} | NO_LOG_CONTENT.keys()
    for table in columns.keys() - NO_LOG_CONTENT.keys():
        assert all((table, way) in CASES for way in WAYS), table
        changed = CASES[table, "change"]
        assert isinstance(changed, dict)
        assert columns[table] == changed.keys() | NOT_PROVEN.get(table, {}).keys(), table


@pytest.fixture
async def reader(database: Database, operator: Person, signer: LogSigner) -> Reader:
    """A log that was signed, once when it was half as long."""
    store = PostgresStore(database)
    service = AuditService(store, FakeEmitter(), lambda: datetime.now(UTC), SUBJECTS, FakePeople(FakeLog()))
    reader = Reader(service, Prover(store, FakeWakeups(), signer, FakeMemory(), FakeAlarm(), SUBJECTS), operator)
    for step in (100, 400, 100):
        await store.seal(operator.scope, candidates(operator.scope, *[event() for _ in range(step)]))
        await reader.checkpoint()
    return reader


@pytest.fixture
async def restored(superuser: Superuser) -> AsyncIterator[None]:
    """Everybody's rows are back when the test has ended: some cases take all of them."""
    tables = sorted({table for table, _ in CASES})
    for table in tables:
        await superuser.execute(f"create temporary table saved_{table} as table audit.{table}")
    yield
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")
        for table in tables:
            await superuser.execute(f"delete from audit.{table}")  # noqa: S608 - a constant
            await superuser.execute(f"insert into audit.{table} table saved_{table}")


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in _all_cases()])
async def test_it_is_found_and_named(
    reader: Reader, superuser: Superuser, restored: None, database: Database, tmp_path: Path, case: Case
) -> None:
    scope = reader.person.scope
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")  # no triggers
        await superuser.execute(case.statement, *([scope] if "$1" in case.statement else []))

    if case.refusal == "sealing stops":
        with pytest.raises(WardmeshError):
            await PostgresStore(database).seal(scope, candidates(scope, event()))
    elif case.refusal is not None:
        with pytest.raises((LogDamaged, SigningRefused), match=case.refusal):
            await reader.checkpoint()
    else:
        with contextlib.suppress(ExportIncomplete):
            await export_log(reader, tmp_path / "log")
        report = verify_export(tmp_path / "log", reader.prover._signer.verifier_key(scope))
        assert report.damage is not None
        assert report.damage.entry == case.entry, str(report)
