"""The catalog check finds nothing in our schema, and finds each hole that is cut into it."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from wardmesh.server.database import Database, TenantContext
from wardmesh.server.rls import violations

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AS_OWNER = "set local role wardmesh_owner; "


async def test_our_schema_is_closed(superuser: Superuser) -> None:
    assert await violations(superuser) == []
    assert await superuser.fetchval("select count(*) from pg_class where relrowsecurity and relforcerowsecurity") >= 13


async def test_a_service_may_ask_too(database: Database, acme: TenantContext) -> None:
    async with database.transaction(acme) as connection:
        assert await violations(connection) == []


@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        (AS_OWNER + "create table secrets.bad (x int)", "table secrets.bad: row-level security is not enabled"),
        (
            AS_OWNER + "create table secrets.bad (x int); alter table secrets.bad enable row level security",
            "table secrets.bad: row-level security is not forced on its owner",
        ),
        ("create table public.bad (x int)", "table public.bad: row-level security is not enabled"),
        ("create table public.bad (x int)", "table public.bad: is owned by postgres, which can log in"),
        (
            "alter table secrets.note owner to wardmesh_secrets",
            "table secrets.note: is owned by wardmesh_secrets, which can log in",
        ),
        (
            AS_OWNER + "create table secrets.bad (x int) partition by list (x)",
            "table secrets.bad: row-level security is not enabled",
        ),
        (
            "create view secrets.all_notes as select * from secrets.note",
            "view secrets.all_notes: reads with the rights of postgres, which bypasses row-level security",
        ),
        (
            "create materialized view secrets.copy as select * from secrets.note",
            "materialized view secrets.copy: cannot have row-level security",
        ),
        (
            "create function secrets.f() returns int language sql security definer set search_path = '' return 1",
            "function secrets.f(): runs with the rights of postgres, which bypasses row-level security",
        ),
        (
            AS_OWNER + "create function secrets.f() returns int language sql security definer return 1",
            "function secrets.f(): runs with its owner's rights and does not pin search_path",
        ),
        (
            "grant truncate on secrets.note to wardmesh_secrets",
            "table secrets.note: TRUNCATE, which ignores row-level security, is granted to wardmesh_secrets",
        ),
        ("grant select on secrets.note to public", "table secrets.note: SELECT is granted to PUBLIC"),
        (
            "create policy everybody on secrets.note for select to wardmesh_secrets using (true)",
            "table secrets.note: policy everybody shows every row to wardmesh_secrets",
        ),
        (
            "create unique index bad on secrets.note (path)",
            "table secrets.note: unique index secrets.bad does not lead with org_id",
        ),
        ("alter role wardmesh_secrets bypassrls", "role wardmesh_secrets: bypasses row-level security"),
        ("grant wardmesh_owner to wardmesh_secrets", "role wardmesh_secrets: may become wardmesh_owner"),
    ],
)
async def test_a_hole_is_found(superuser: Superuser, hole: str, expected: str) -> None:
    transaction = superuser.transaction()
    await transaction.start()
    try:
        await superuser.execute(hole)
        await superuser.execute("reset role")
        assert expected in await violations(superuser)
    finally:
        await transaction.rollback()


async def test_a_view_with_the_readers_rights_is_no_hole(superuser: Superuser) -> None:
    transaction = superuser.transaction()
    await transaction.start()
    try:
        await superuser.execute("create view secrets.v with (security_invoker = true) as select * from secrets.note")
        assert await violations(superuser) == []
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(
    ("table", "call", "complaint"),
    [
        ("(id app.key_id primary key, org_id app.org_id)", "'org', 'select'", "lead with org_id"),
        (
            "(org_id app.org_id, id app.key_id unique, primary key (org_id, id))",
            "'org', 'select'",
            "lead with org_id",
        ),
        ("(org_id app.org_id)", "'workspace', 'select'", "workspace_id"),
        ("(org_id app.org_id)", "'tenant', 'select'", "tenant is one of"),
        ("(org_id app.org_id)", "'org', 'truncate'", "privileges are of"),
        ("(org_id app.org_id)", "'org', 'select on secrets.note to public; grant select'", "privileges are of"),
        ("(org_id app.org_id)", "'org', ''", "privileges are of"),
    ],
)
async def test_protect_refuses_what_would_leave_a_gap(
    superuser: Superuser, table: str, call: str, complaint: str
) -> None:
    transaction = superuser.transaction()
    await transaction.start()
    try:
        await superuser.execute(f"{AS_OWNER} create table secrets.bad {table}")
        with pytest.raises(asyncpg.PostgresError, match=complaint):
            await superuser.execute(f"select app.protect('secrets.bad', {call})")
    finally:
        await transaction.rollback()


async def test_protect_refuses_a_table_that_the_owner_does_not_own(superuser: Superuser) -> None:
    transaction = superuser.transaction()
    await transaction.start()
    try:
        await superuser.execute("create table secrets.bad (org_id app.org_id)")
        with pytest.raises(asyncpg.RaiseError, match="does not belong to wardmesh_owner"):
            await superuser.execute("select app.protect('secrets.bad', 'org', 'select')")
    finally:
        await transaction.rollback()


@pytest.mark.parametrize(
    "call",
    ["'select', 'secrets.*'", "'select', 'a.b'')) or true --'", "'truncate', 'a.b'", "'all', 'a.b'", "'', 'a.b'"],
)
async def test_require_refuses_what_is_no_permission_or_command(superuser: Superuser, call: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match=r"app\.require"):
        await superuser.execute(f"select app.require('secrets.note', {call})")
