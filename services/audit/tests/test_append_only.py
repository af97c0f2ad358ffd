"""The tables on a real server: who may do what to them, as the service, as the owner and as a superuser."""

from __future__ import annotations

import asyncpg
import pytest
from makers import Person, candidates, event

from wardmesh.ids import OrgId, ServiceId, WorkspaceId
from wardmesh.server.database import Database
from wardmesh.server.database_errors import DatabaseRefused
from wardmesh.server.rls import violations
from wardmesh.server.tenant import TenantContext
from wardmesh_audit.behalf import SEAL, the_log
from wardmesh_audit.store import PostgresStore

CHANGES = {
    "logs": ["delete from audit.logs", "truncate audit.logs", "update audit.logs set size = 0",
             "update audit.logs set root = sha256('x')"],
    "publications": ["delete from audit.publications", "truncate audit.publications",
                     "update audit.publications set published_size = published_size - 1"],
    "leaves": ["delete from audit.leaves", "truncate audit.leaves", "update audit.leaves set leaf_hash = leaf_hash"],
    "entries": ["delete from audit.entries", "truncate audit.entries", "update audit.entries set leaf = leaf"],
    "entries_for_ever": ["delete from audit.entries_for_ever", "truncate audit.entries_for_ever",
                         "update audit.entries_for_ever set leaf = leaf"],
    "tiles": ["delete from audit.tiles", "truncate audit.tiles", "update audit.tiles set root = root"],
}  # fmt: skip
STATEMENTS = [statement for statements in CHANGES.values() for statement in statements]
# The service may move a head forward; that it cannot move it back is the trigger's to say, for everybody alike.
FORWARD = ("update audit.logs", "update audit.publications")
OF_THE_SERVICE = [each for each in STATEMENTS if not each.startswith(FORWARD)]


@pytest.fixture
async def written(database: Database, operator: Person) -> Person:
    """Somebody whose log has enough for every table."""
    store = PostgresStore(database)
    for _ in range(2):
        await store.seal(operator.scope, candidates(operator.scope, *[event() for _ in range(200)]))
    async with store.publication(operator.scope, limit=400) as publication:
        publication.upto = 400
    return operator


@pytest.mark.parametrize("statement", OF_THE_SERVICE)
async def test_the_service_lacks_the_privilege(database: Database, written: Person, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(the_log(written.scope)) as connection:
            await connection.execute(statement)


@pytest.mark.parametrize("statement", ["update audit.logs set size = 0",
                                       "update audit.publications set published_size = 1",
                                       "update audit.logs set root = sha256('x')"])  # fmt: skip
async def test_the_service_cannot_turn_a_head_back(database: Database, written: Person, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(the_log(written.scope)) as connection:
            await connection.execute(statement)


@pytest.mark.parametrize("statement", OF_THE_SERVICE)
async def test_the_owner_is_refused(
    superuser: asyncpg.Connection[asyncpg.Record], written: Person, statement: str
) -> None:
    await superuser.execute("set role wardmesh_owner")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await superuser.execute(statement)


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_a_superuser_has_to_go_out_of_their_way(
    superuser: asyncpg.Connection[asyncpg.Record], written: Person, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await superuser.execute(statement)


CHANGING = {
    "logs": "heads move forward; a trigger holds that",
    "publications": "how far each was published moves forward; a trigger holds that",
    "positions": "a reader's own, who may set them anywhere",
    "witnessed": "what we cosigned of other logs moves forward; a trigger holds that (test_witness_store)",
    "forwarders": "how far each is, and whose turn it is; they are no part of the log",
    "outbox": "the relay deletes what the broker has",
    "schema_migrations": "the ledger of migrations",
}
"""What is not append-only, and why. Whatever else is in the schema must be."""
TABLES = (
    "select c.oid::regclass::text from pg_class c where relnamespace = 'audit'::regnamespace and relkind in ('r', 'p')"
)


@pytest.fixture
async def tables(superuser: asyncpg.Connection[asyncpg.Record], written: Person) -> list[str]:
    """Every table there is, with a partition that was made just now."""
    assert await superuser.fetchval("select audit.open_month('2031-05-01')")
    found = [row[0] for row in await superuser.fetch(TABLES)]
    assert {"audit.entries", "audit.entries_2031_05", "audit.holds", "audit.prunings"} <= set(found)
    return found


async def test_every_table_is_closed(superuser: asyncpg.Connection[asyncpg.Record], tables: list[str]) -> None:
    assert await violations(superuser) == []
    strangers = await superuser.fetch(
        "select c.relname, g.grantee::regrole::text, g.privilege_type from pg_class c, "
        "aclexplode(coalesce(relacl, acldefault('r', relowner))) g where relnamespace = 'audit'::regnamespace "
        "and relkind in ('r', 'p') and g.grantee <> relowner "
        "and g.grantee::regrole::text not in ('wardmesh_audit', 'wardmesh_audit_relay')"
    )
    assert strangers == []


async def test_every_table_takes_inserts_alone(
    superuser: asyncpg.Connection[asyncpg.Record], tables: list[str]
) -> None:
    """As the catalog has it, for tables that nobody thought of here too."""
    for table in tables:
        if table.removeprefix("audit.") in CHANGING:
            continue
        allowed = await superuser.fetchrow(
            "select has_any_column_privilege('wardmesh_audit', $1::text, 'update') or "
            "has_table_privilege('wardmesh_audit', $1::text, 'delete, truncate'), relforcerowsecurity "
            "from pg_class where oid = $1::text::regclass",
            table,
        )
        assert tuple(allowed or ()) == (False, True), table
        for change in ("update {} set scope_id = scope_id", "delete from {}", "truncate {}"):
            for role in ("wardmesh_owner", "none"):
                await superuser.execute(f"set role {role}")
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                    await superuser.execute(change.format(table))


async def test_every_table_keeps_tenants_apart(
    superuser: asyncpg.Connection[asyncpg.Record], database: Database, tables: list[str]
) -> None:
    """A partition by itself is nobody's; what the service may read, it reads one scope of."""
    for table in tables:
        async with database.transaction(the_log(WorkspaceId.new())) as connection:
            if await connection.fetchval("select has_table_privilege($1, 'select')", table):
                assert await connection.fetchval(f"select count(*) from {table}") == 0, table  # noqa: S608
            else:
                assert table.startswith("audit.entries_") or table.removeprefix("audit.") in CHANGING, table


async def test_a_callers_transaction_cannot_write(database: Database, written: Person) -> None:
    """A hole in a handler is no way into the log: no token carries `audit.seal`."""
    caller = written.caller
    tenant = TenantContext(caller.organization, caller.workspace, caller.principal, caller.permissions)
    assert SEAL not in caller.permissions
    insert = "insert into audit.leaves (index, event_id, leaf_hash) values (400, $1, sha256('x'))"
    with pytest.raises(DatabaseRefused):
        async with database.transaction(tenant) as connection:
            await connection.execute(insert, event().id)
    async with database.transaction(tenant) as connection:
        assert await connection.execute("update audit.logs set size = 1000") == "UPDATE 0"


async def test_the_log_of_one_scope_cannot_write_into_another(database: Database, written: Person) -> None:
    insert = "insert into audit.leaves (scope_id, index, event_id, leaf_hash) values ($1, 400, $2, sha256('x'))"
    with pytest.raises(DatabaseRefused):
        async with database.transaction(the_log(WorkspaceId.new())) as connection:
            await connection.execute(insert, written.scope, event().id)


async def test_without_a_permission_there_is_nothing_to_see(database: Database, written: Person) -> None:
    caller = written.caller
    blind = TenantContext(caller.organization, caller.workspace, caller.principal, frozenset({"audit.write"}))
    nobody = TenantContext(OrgId.nil(), None, ServiceId.nil(), frozenset({SEAL}))
    for tenant in (blind, nobody):
        async with database.transaction(tenant) as connection:
            for table in ("logs", "leaves", "entries", "tiles"):
                rows = await connection.fetch(f"select from audit.{table} where scope_id = $1", written.scope)
                assert rows == []
    with pytest.raises(DatabaseRefused):
        async with database.transaction(the_log(written.scope)) as connection:
            await connection.fetch("select from audit.entries_for_ever")
