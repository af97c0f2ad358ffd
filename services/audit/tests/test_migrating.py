"""A database with a log from before retention: nothing is lost, nothing is rewritten, and the log goes on."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from keeper import Keeper, Outbox, reader
from makers import event, make_person

from wardmesh.contracts.operation import Category, Level
from wardmesh.ids import WorkspaceId
from wardmesh.server.database import Database
from wardmesh.server.migrate import migrate, migrations_of
from wardmesh.server.rls import violations
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_retention import PostgresRetention
from wardmesh_cli.embedded.mesh import EmbeddedMesh

ROWS = 500
SCOPE = WorkspaceId.new()
# As the service of that time wrote them; what the tree says of them does not matter here.
FILL = """
    insert into audit.logs (scope_id, size, frontier, root, published_size) values
        ('SCOPE', 500, array_fill(sha256('x'), array[bit_count(int8send(500))]::int[]), sha256('x'), 500);
    insert into audit.leaves (scope_id, index, event_id, leaf_hash)
        select 'SCOPE', i, 'evt_' || lpad(i::text, 26, '0'), sha256('\\x007b7d') from generate_series(0, 499) i;
    insert into audit.entries (scope_id, index, received_at, leaf, source, occurred_at, category, action, outcome,
                               actor)
        select 'SCOPE', i, now(), '{}', 'secrets', now(), 'tool_call', 'a.b', 'success', 'svc_' || repeat('0', 26)
          from generate_series(0, 499) i;
""".replace("SCOPE", SCOPE)


def of_another_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.mark.parametrize("before", ["0001_", "0006_"], ids=["only the first", "all before it"])
async def test_a_log_from_before_is_kept_for_ever_and_goes_on(
    servers: EmbeddedMesh, tmp_path: Path, before: str
) -> None:
    name = f"old_{before.strip('_')}"
    url = of_another_database(servers.database_url(), name)
    old = tmp_path / "migrations"
    old.mkdir()
    for file in sorted(migrations_of("audit").glob("*.sql")):
        if file.name < before or file.name.startswith("0001_"):
            shutil.copy(file, old)
    await migrate(url, {"audit": old}, {})
    superuser = await asyncpg.connect(url)
    try:
        await superuser.execute(FILL)
        files = "select pg_relation_filenode(to_regclass($1))"
        filenode = await superuser.fetchval(files, "audit.entries_default")
        async with superuser.transaction():
            # Somebody reads meanwhile, and is done before the swap.
            assert await superuser.fetchval("select count(*) from audit.entries") == ROWS
        await migrate(url, {"audit": migrations_of("audit")}, {})
        await migrate(url, {"audit": migrations_of("audit")}, {})
        if before == "0006_":  # others may add columns that cost that
            assert await superuser.fetchval(files, "audit.entries_for_ever") == filenode, "the table was written anew"
        assert await superuser.fetchval("select count(*) from audit.entries where kept_to = 'infinity'") == ROWS
        assert await violations(superuser) == []
        # What the old table had, the new one has: a partition each.
        lacking = await superuser.fetch(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
            "where i.inhparent = 'audit.entries'::regclass and (select count(*) from pg_index x "
            "where x.indrelid = c.oid) <= (select count(*) from pg_index x where x.indrelid = i.inhparent)"
        )
        traces = (
            "select count(*) from pg_indexes where schemaname = 'audit' and tablename = 'entries' and indexdef ~ 'hash'"
        )
        assert await superuser.fetchval(traces) == 1, "that of what was sealed before has taken the place of the other"
        assert lacking == [], "each partition has the parent's indexes, and a key"
        await goes_on(of_another_database(servers.database_url("wardmesh_audit"), name))
    finally:
        await superuser.close()


async def goes_on(url: str) -> None:
    owner = make_person(SCOPE, Level.OWNER)
    outbox = Outbox()
    async with Database(url, application="audit") as database:
        keeper = Keeper(PostgresStore(database), PostgresRetention(database, outbox), outbox)
        assert await keeper.readable(owner) == list(range(ROWS))
        await keeper.keep(owner, {Category.TOOL_CALL: 30})
        other = make_person(level=Level.OWNER)
        await keeper.keep(other, {Category.TOOL_CALL: 30})
        await keeper.seal(other.scope, event(category=Category.TOOL_CALL), at=datetime(2022, 1, 1, tzinfo=UTC))
        for _ in range(4):
            await Pruner(keeper.retention, lambda: datetime.now(UTC)).round()
            await keeper.relay()
        assert await keeper.readable(owner) == list(range(ROWS)), "what was sealed before has no end"
        assert await keeper.readable(other) == [1]
        assert (await keeper.log.kept(reader(owner), start=0, end=ROWS)).runs == ()
