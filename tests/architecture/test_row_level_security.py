"""Every table of every service has row-level security enabled and forced, as the catalog of a real database says."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from wardmesh.server.rls import violations
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.mesh import EmbeddedMesh


@pytest.fixture(scope="module")
async def superuser() -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to a database that has been migrated by all five services."""
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-rls-"))
    async with EmbeddedMesh(data_dir=folder / "data", services=()) as mesh:
        connection = await asyncpg.connect(mesh.database_url())
        yield connection
        await connection.close()
    shutil.rmtree(folder)


async def test_no_table_is_without_enabled_and_forced_row_level_security(
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:
    tables = await superuser.fetch(
        "select schemaname, tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
    )
    assert {row["schemaname"] for row in tables} >= set(SERVICES)
    assert await violations(superuser) == []


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        ("create table secrets.forgotten (id int)", "drop table secrets.forgotten"),
        (
            "alter table secrets.outbox no force row level security",
            "alter table secrets.outbox force row level security",
        ),
        ("alter table auth.outbox disable row level security", "alter table auth.outbox enable row level security"),
        (
            "create view secrets.all_of_it as select * from secrets.outbox;"
            " grant select on secrets.all_of_it to wardmesh_secrets",
            "drop view secrets.all_of_it",
        ),
        (
            "grant truncate on secrets.outbox to wardmesh_secrets",
            "revoke truncate on secrets.outbox from wardmesh_secrets",
        ),
        ("alter role wardmesh_secrets bypassrls", "alter role wardmesh_secrets nobypassrls"),
    ],
    ids=["no policy", "not forced", "disabled", "superuser's view", "truncate", "bypassing role"],
)
async def test_the_check_finds_what_is_not_protected(
    superuser: asyncpg.Connection[asyncpg.Record], spoil: str, mend: str
) -> None:
    await superuser.execute(spoil)
    try:
        assert await violations(superuser)
    finally:
        await superuser.execute(mend)
    assert await violations(superuser) == []
