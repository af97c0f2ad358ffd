"""The migrate step: again and at once, refusing gaps, and with passwords that nobody sees."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest

from wardmesh.server.migrate import MigrationError, main, migrate, migrations_of, scram_verifier

SAMPLE = Path(__file__).parent / "sample_migrations"


class Server(Protocol):
    log: Path

    def url(self, database: str, user: str = ...) -> str: ...


async def test_it_may_run_again_and_at_once(postgres_server: Server) -> None:
    url = postgres_server.url(f"wardmesh_{secrets.token_hex(4)}")
    await migrate(url, {}, {})
    await asyncio.gather(*(migrate(url, {"secrets": SAMPLE}, {}) for _ in range(3)))
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("select count(*) from secrets.schema_migrations") == 1
        assert await connection.fetchval("select count(*) from app.schema_migrations") >= 2
        owners = await connection.fetch(
            "select distinct relowner::regrole::text from pg_class where relnamespace = 'secrets'::regnamespace"
        )
        assert [row[0] for row in owners] == ["wardmesh_owner"]
    finally:
        await connection.close()


async def test_two_databases_of_one_cluster_at_once(postgres_server: Server) -> None:
    urls = [postgres_server.url(f"wardmesh_{secrets.token_hex(4)}") for _ in range(2)]
    await asyncio.gather(*(migrate(url, {}, {}) for url in urls))


async def test_a_table_that_somebody_forgot_to_protect_fails_the_migration(
    postgres_server: Server, tmp_path: Path
) -> None:
    (tmp_path / "0001_bad.sql").write_text(
        "-- migrate:up\ncreate table audit.forgotten (x int);\n-- migrate:down\ndrop table audit.forgotten;\n"
    )
    url = postgres_server.url(f"wardmesh_{secrets.token_hex(4)}")
    with pytest.raises(MigrationError, match=r"table audit\.forgotten: row-level security is not enabled"):
        await migrate(url, {"audit": tmp_path}, {})


async def test_a_migration_that_fails_says_what_and_is_undone_whole(postgres_server: Server, tmp_path: Path) -> None:
    (tmp_path / "0001_bad.sql").write_text(
        "-- migrate:up\ncreate table audit.half (org_id app.org_id);\nselect nonsense();\n-- migrate:down\n"
    )
    url = postgres_server.url(f"wardmesh_{secrets.token_hex(4)}")
    with pytest.raises(MigrationError, match=r"(?s)audit: .*nonsense"):
        await migrate(url, {"audit": tmp_path}, {})
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("select to_regclass('audit.half')") is None
    finally:
        await connection.close()


async def test_a_backfill_says_that_it_means_every_row(postgres_server: Server, tmp_path: Path) -> None:
    (tmp_path / "0001_table.sql").write_text(
        "-- migrate:up\ncreate table audit.t (org_id app.org_id primary key, n int not null default 0);\n"
        "select app.protect('audit.t', 'org', 'select');\n"
        "set local role none;\ninsert into audit.t values ('org_00000000000000000000000000');\nreset role;\n"
        "update audit.t set n = n + 1;\n"  # of nobody's rows: the owner is bound too
        "set local role none;\nupdate audit.t set n = n + 10;\nreset role;\n"
        "create table audit.u (org_id app.org_id);\nselect app.protect('audit.u', 'org', 'select');\n"
        "-- migrate:down\n"
    )
    url = postgres_server.url(f"wardmesh_{secrets.token_hex(4)}")
    await migrate(url, {"audit": tmp_path}, {})
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("select n from audit.t") == 10
    finally:
        await connection.close()


async def test_a_services_password_opens_its_role_and_is_nowhere_to_be_read(
    postgres_server: Server, database_name: str
) -> None:
    password = "pw-" + secrets.token_hex(8)
    await migrate(postgres_server.url(database_name), {}, {"webhooks": password})
    url = postgres_server.url(database_name)
    connection = await asyncpg.connect(url, user="wardmesh_webhooks", password=password)
    await connection.close()
    for wrong in ("wrong", ""):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url, user="wardmesh_webhooks", password=wrong)
    assert password not in postgres_server.log.read_text()


def test_the_verifier_is_that_of_rfc_7677() -> None:
    """Its example's exchange: the server's signature follows from the key that we would store."""
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    exchange = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}"
    prefix, keys = scram_verifier("pencil", salt=b64decode(salt)).rsplit("$", 1)
    assert prefix == f"SCRAM-SHA-256$4096:{salt}"
    server_key = b64decode(keys.split(":")[1])
    signature = hmac.digest(server_key, exchange.encode(), "sha256")
    assert b64encode(signature).decode() == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("password", ["", "pass\nword", "пароль"])
def test_a_password_that_drivers_would_normalize_differently_is_refused(password: str) -> None:
    with pytest.raises(MigrationError):
        scram_verifier(password)


async def test_only_services_are_migrated(postgres_server: Server) -> None:
    with pytest.raises(MigrationError, match="not services: nosuch"):
        await migrate(postgres_server.url("x"), {"nosuch": SAMPLE}, {})


def test_the_migrations_of_what_is_not_installed_are_not_found() -> None:
    with pytest.raises(MigrationError, match="not installed"):
        migrations_of("nosuch")


def test_as_a_command(
    postgres_server: Server,
    database_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["secrets"]) == 1
    assert "WARDMESH_MIGRATE_DATABASE_URL" in capsys.readouterr().err
    url_file = tmp_path / "url"
    url_file.write_text(postgres_server.url(database_name) + "\n")
    package = tmp_path / "wardmesh_secrets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "migrations").symlink_to(SAMPLE)
    monkeypatch.setenv("WARDMESH_MIGRATE_DATABASE_URL_FILE", str(url_file))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "wardmesh.server.migrate", "secrets"], check=True, capture_output=True, text=True
    )
    assert done.stdout == "migrated: app, secrets\n"
