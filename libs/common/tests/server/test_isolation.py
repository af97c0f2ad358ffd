"""One tenant against another, on a real PostgreSQL: every way around the settings that we could think of."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from wardmesh.ids import AgentId, EventId, Id, OrgId, RequestId, ServiceId, UserId, WorkspaceId
from wardmesh.server.database import Connection, Database, DatabaseDefect, DatabaseRefused, TenantContext
from wardmesh.server.outbox import Outbox

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
OUTBOX = Outbox("secrets")


async def put_note(database: Database, tenant: TenantContext, path: str = "a") -> None:
    async with database.transaction(tenant) as connection:
        await connection.execute("insert into note (path) values ($1)", path)


async def run(database: Database, tenant: TenantContext, *statements: str) -> None:
    async with database.transaction(tenant) as connection:
        for statement in statements:
            await connection.execute(statement)


async def paths(connection: Connection) -> list[str]:
    return [row["path"] for row in await connection.fetch("select path from note order by path")]


async def test_a_tenant_sees_its_own_rows_alone(database: Database, acme: TenantContext, rival: TenantContext) -> None:
    await put_note(database, acme, "ours")
    await put_note(database, rival, "theirs")
    async with database.transaction(acme) as connection:
        assert await paths(connection) == ["ours"]
        assert await connection.execute("update note set body = 'x'") == "UPDATE 1"
        assert await connection.execute("delete from note") == "DELETE 1"
    async with database.transaction(rival) as connection:
        assert await paths(connection) == ["theirs"]


async def test_two_tenants_may_use_the_same_key(database: Database, acme: TenantContext, rival: TenantContext) -> None:
    await put_note(database, acme, "same")
    await put_note(database, rival, "same")  # would be an existence oracle if it conflicted


@pytest.mark.parametrize("missing", ["org_id", "workspace_id"])
async def test_half_a_tenant_sees_nothing(
    database: Database, acme: TenantContext, rival: TenantContext, missing: str
) -> None:
    await put_note(database, acme)
    half = replace(acme, workspace_id=None) if missing == "workspace_id" else replace(acme, org_id=rival.org_id)
    async with database.transaction(half) as connection:
        assert await paths(connection) == []


async def test_unset_settings_mean_no_rows(database: Database, acme: TenantContext) -> None:
    await put_note(database, acme)
    async with database._begun("BEGIN", None, ()) as connection:
        assert await paths(connection) == []
        unset = await connection.fetchrow(
            "select app.org_id(), app.workspace_id(), app.principal_id(), app.scope_id(), app.allows('secrets.read')"
        )
        assert unset is not None
        assert tuple(unset.values()) == (None, None, None, None, False)
    with pytest.raises(DatabaseRefused):
        async with database._begun("BEGIN", None, ()) as connection:
            await connection.execute("insert into note (path) values ('x')")


async def test_nothing_of_a_tenant_is_left_on_the_pooled_connection(database: Database, acme: TenantContext) -> None:
    await put_note(database, acme)
    async with database.transaction(acme) as connection:
        backend = await connection.fetchval("select pg_backend_pid()")
        # Not only what we set: what a careless statement sets for the session goes too.
        await connection.execute("select set_config('app.org_id', $1, false)", acme.org_id)
        await connection.execute("select set_config('app.workspace_id', $1, false)", acme.workspace_id)
        await connection.execute("select set_config('app.permissions', 'secrets.read', false)")
        await connection.execute("set search_path = pg_catalog")
        await connection.execute("select pg_advisory_lock(7)")
        await connection.execute("listen something")
    with pytest.raises(DatabaseDefect):
        await run(database, acme, f"select set_config('app.org_id', '{acme.org_id}', false)", "select 1 / 0")
    async with database._begun("BEGIN", None, ()) as connection:
        assert await connection.fetchval("select pg_backend_pid()") == backend
        assert await paths(connection) == []
        assert await connection.fetchval("select coalesce(current_setting('app.permissions', true), '')") == ""
        assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert await connection.fetchval("select count(*) from pg_listening_channels()") == 0


@pytest.mark.parametrize("role", ["wardmesh_secrets_relay", "none"])
async def test_a_role_that_was_taken_on_is_left_behind(database: Database, acme: TenantContext, role: str) -> None:
    async with database.transaction(acme) as connection:
        await connection.execute(f"set role {role}")
    async with database.transaction(acme) as connection:
        assert await connection.fetchval("select current_user") == "wardmesh_secrets"


@pytest.mark.parametrize(
    "statement",
    [
        "insert into note (org_id, workspace_id, path) values ($1, $2, 'planted')",
        "update note set org_id = $1, workspace_id = $2",
    ],
)
async def test_a_row_cannot_be_put_into_another_tenant(
    database: Database, acme: TenantContext, rival: TenantContext, statement: str
) -> None:
    await put_note(database, acme)
    with pytest.raises(DatabaseRefused):
        async with database.transaction(acme) as connection:
            await connection.execute(statement, rival.org_id, rival.workspace_id)


async def test_a_message_cannot_be_put_into_another_tenants_outbox(
    database: Database, acme: TenantContext, rival: TenantContext
) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(acme) as connection:
            await connection.execute(
                "insert into outbox (id, org_id, subject, payload) values ($1, $2, 'a.b', '')",
                EventId.new(), rival.org_id,
            )  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "truncate note",
        "truncate outbox",
        "select * from outbox",
        "delete from outbox",
        "insert into outbox (position, id, subject, payload) overriding system value values (1, 'x', 'a.b', '')",
        "update pinned set path = 'x'",
        "select * from schema_migrations",
        "select * from app.schema_migrations",
        "select * from auth.outbox",
        "create table mine (x int)",
        "create temporary table note (path text)",
        "create schema mine",
        "create function app.org_id(text) returns text language sql as 'select $1'",
        "alter table note no force row level security",
        "alter table note disable row level security",
        "drop policy tenant on note",
        "set role wardmesh_owner",
        "set role wardmesh_auth",
        "set role wardmesh_auth_relay",
        "set session authorization postgres",
        "set log_error_verbosity = verbose",
        "set log_parameter_max_length = -1",
        "select app.create_service('x')",
        "select app.protect('secrets.note', 'org', 'select')",
    ],
)
async def test_what_a_services_role_may_not_do(database: Database, acme: TenantContext, statement: str) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(acme) as connection:
            await connection.execute(statement)


async def test_row_security_off_is_an_error_not_a_way_out(database: Database, acme: TenantContext) -> None:
    await put_note(database, acme)
    with pytest.raises(DatabaseRefused):
        await run(database, acme, "set local row_security = off", "select * from note")


@pytest.mark.parametrize("role", ["wardmesh_secrets_relay", "wardmesh_auth"])
@pytest.mark.parametrize("table", ["secrets.note", "secrets.pinned", "secrets.schema_migrations"])
async def test_no_other_role_reads_a_services_tables(superuser: Superuser, role: str, table: str) -> None:
    async with superuser.transaction():
        await superuser.execute(f"set local role {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.fetch("table " + table)


async def test_the_relay_reads_the_outbox_and_can_only_delete(
    database: Database, superuser: Superuser, acme: TenantContext, rival: TenantContext
) -> None:
    for tenant in (acme, rival):
        async with database.transaction(tenant) as connection:
            await OUTBOX.put(connection, "evt.a", b"", message_id=EventId.new())
    async with database.relay_transaction(OUTBOX.relay_role) as connection:
        assert await connection.fetchval("select count(*) from outbox") == 2
        assert len(await connection.fetch("select * from outbox for update skip locked")) == 2
    for statement in ("update outbox set id = id", "update outbox set subject = 'x.y'", "select * from note"):
        with pytest.raises(DatabaseRefused):
            async with database.relay_transaction(OUTBOX.relay_role) as connection:
                await connection.execute(statement)
    with pytest.raises(DatabaseRefused):
        async with database.relay_transaction("wardmesh_auth_relay"):
            pass


async def test_the_service_does_not_read_as_its_relay_unless_it_says_so(
    database: Database, superuser: Superuser
) -> None:
    assert not await superuser.fetchval("select pg_has_role('wardmesh_secrets', 'wardmesh_secrets_relay', 'USAGE')")
    assert await superuser.fetchval("select pg_has_role('wardmesh_secrets', 'wardmesh_secrets_relay', 'SET')")


async def test_the_owner_is_bound_too(database: Database, superuser: Superuser, acme: TenantContext) -> None:
    await put_note(database, acme)
    async with superuser.transaction():
        await superuser.execute("set local role wardmesh_owner")
        await superuser.execute("select set_config('app.org_id', $1, true)", acme.org_id)
        assert await superuser.fetch("select * from secrets.note") == []
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(
                "insert into secrets.note (org_id, workspace_id, path) values ($1, $2, 'x')",
                acme.org_id, acme.workspace_id,
            )  # fmt: skip


async def test_no_schema_of_the_callers_can_lend_the_functions_another_meaning(
    database: Database, superuser: Superuser, acme: TenantContext
) -> None:
    async with superuser.transaction():  # give the role more than it ever has, then let it try
        await superuser.execute("create schema evil authorization wardmesh_secrets")
        await superuser.execute("set local role wardmesh_secrets")
        await superuser.execute(
            """
            create function evil.string_to_array(text, text) returns text[] language sql return '{a.b}'::text[];
            create function evil.current_setting(text, boolean) returns text language sql return 'a.b';
            create function evil.always(text, text) returns boolean language sql return true;
            create operator evil.= (leftarg = text, rightarg = text, function = evil.always);
            set local search_path = evil, pg_catalog
            """
        )
        assert await superuser.fetchval("select string_to_array('', '')") == ["a.b"]
        await superuser.execute("select set_config('app.permissions', 'c.d', true)")
        assert await superuser.fetchval("select app.allows('a.b')") is False
        assert await superuser.fetchval("select app.allows('c.d')") is True
        assert await superuser.fetchval("select app.org_id()") is None
        await superuser.execute("reset role; drop schema evil cascade")


@pytest.mark.parametrize(
    ("held", "statement", "answer"),
    [
        ("secrets.write", "select path from note", []),
        ("secrets.read", "select path from note", ["a"]),
        ("secrets.read", "update note set body = 'x' returning path", []),
        ("secrets.readx", "select path from note", []),
        ("x.secrets", "select path from note", []),
    ],
)
async def test_a_permission_is_asked_for_in_the_policy_too(
    database: Database, acme: TenantContext, held: str, statement: str, answer: list[str]
) -> None:
    await put_note(database, acme)
    async with database.transaction(replace(acme, permissions=frozenset({held}))) as connection:
        assert [row["path"] for row in await connection.fetch(statement)] == answer


async def test_without_the_permission_nothing_is_written(database: Database, acme: TenantContext) -> None:
    with pytest.raises(DatabaseRefused):
        await put_note(database, replace(acme, permissions=frozenset({"secrets.read"})))


async def test_a_principals_rows_are_its_own(database: Database, acme: TenantContext) -> None:
    async with database.transaction(acme) as connection:
        await connection.execute("insert into pinned (path) values ('mine')")
    async with database.transaction(replace(acme, principal_id=UserId.new())) as connection:
        assert await connection.fetch("select * from pinned") == []


async def test_a_read_only_transaction_writes_nothing(database: Database, acme: TenantContext) -> None:
    with pytest.raises(DatabaseRefused):
        async with database.transaction(acme, read_only=True) as connection:
            await connection.execute("insert into note (path) values ('x')")


async def test_a_hostile_id_reaches_no_sql(database: Database, acme: TenantContext) -> None:
    with pytest.raises(ValueError, match="expected"):
        async with database.transaction(replace(acme, org_id=OrgId("x', true); drop table secrets.note; --"))):
            pytest.fail("the block was entered")


async def test_columns_take_ids_of_their_kind_only(database: Database, superuser: Superuser) -> None:
    for kind, text in (
        ("org_id", "ws_01h455vb4pex5vsknk084sn02q"),
        ("event_id", "*"),
        ("org_id", OrgId.new() + "\n"),
        ("principal_id", ""),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await superuser.fetchval(f"select '{text}'::app.{kind}")
    assert await superuser.fetchval(f"select '{UserId.new()}'::app.principal_id is not null")


_SCOPES = {OrgId, WorkspaceId}
_PRINCIPALS = {UserId, AgentId, ServiceId}


@pytest.mark.parametrize("kind", [OrgId, WorkspaceId, UserId, AgentId, ServiceId, EventId, RequestId])
async def test_an_id_is_the_same_to_the_database_as_to_us(
    database: Database, acme: TenantContext, kind: type[Id]
) -> None:
    """`app.*_id` and `wardmesh.ids` are two spellings of one rule."""
    domains = [f"app.{kind.__name__.removesuffix('Id').lower()}_id"]
    domains += ["app.scope_id"] if kind in _SCOPES else ["app.principal_id"] if kind in _PRINCIPALS else []
    good = kind.new()
    prefix, suffix = good.split("_")
    bad = ["", "_", suffix, f"{prefix}_", good[:-1], f"{good}0", f"{good}\n", f"\n{good}", good.upper(), f"x{good}",
           f"{prefix}__{suffix[1:]}", f"{prefix}_8{suffix[1:]}", f"{prefix}_{suffix[:-1]}u", f"{prefix}_{suffix[:-1]}*",
           f"{prefix}é{suffix}"]  # fmt: skip
    for domain in domains:
        async with database.transaction(acme) as connection:
            assert await connection.fetchval(f"select $1::text::{domain}", good) == good
        for text in bad:
            with pytest.raises(ValueError, match="expected"):
                kind.parse(text)
            with pytest.raises(DatabaseDefect):
                await run(database, acme, f"select $id${text}$id$::text::{domain}")
