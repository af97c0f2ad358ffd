"""Brings a database to the present schema: roles, schema app, then each service's migrations.

Used by `wardmesh up`, by the test fixtures, and as a one-shot container (`python -m wardmesh.server.migrate`).
Runs as a superuser; services' migrations run with the role wardmesh_owner, so what they create belongs to it. That
role sees no rows either: a migration that fills in a column says `set local role none;` before and `reset role;` after.

What always holds: it may run any number of times and at once with others (dbmate takes a lock); it ends with the
catalog check of `wardmesh.server.rls`, so a database that it called good has no table without forced row-level
security. Passwords reach PostgreSQL as SCRAM verifiers, and neither they nor the URL are ever on a command line.

On failure: `MigrationError`, with what dbmate said. A migration that fails is rolled back whole.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import importlib.util
import os
import secrets
import shutil
import sys
import sysconfig
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from wardmesh.server.rls import violations
from wardmesh.server.settings import with_password
from wardmesh.subjects import SERVICES

SHARED_MIGRATIONS: Final = Path(__file__).parent / "migrations"
OWNER: Final = "wardmesh_owner"
_SCRAM_ITERATIONS: Final = 4_096  # PostgreSQL's default; our passwords are random, stretching adds nothing
_RUN_SECONDS: Final = 300.0
_WAIT_SECONDS: Final = 60


class MigrationError(Exception):
    """The database is not at the present schema."""


def migrations_of(service: str) -> Path:
    """Return the folder of a service's migrations: inside its package when installed, beside `src/` in a checkout."""
    spec = importlib.util.find_spec(f"wardmesh_{service}")
    if spec is None or spec.origin is None:
        raise MigrationError(f"wardmesh-{service} is not installed")
    package = Path(spec.origin).parent
    for folder in (package / "migrations", package.parent.parent / "migrations"):
        if folder.is_dir():
            return folder
    raise MigrationError(f"wardmesh-{service} has no migrations")


async def migrate(database_url: str, migrations: Mapping[str, Path], passwords: Mapping[str, str]) -> None:
    """Create the database if need be, apply what is pending, and set the services' passwords.

    `database_url` is a superuser's, with `sslmode` where the server is reached by TCP. `migrations` and `passwords`
    are by service; a role without a password cannot log in with one.
    """
    unknown = (migrations.keys() | passwords.keys()) - set(SERVICES)
    if unknown:
        raise MigrationError(f"not services: {', '.join(sorted(unknown))}")
    await _dbmate(database_url, "app", SHARED_MIGRATIONS, "up")
    as_owner = _with_setting(database_url, "role", OWNER)
    for service, folder in migrations.items():
        await _dbmate(as_owner, service, folder, "migrate")
    connection = await asyncpg.connect(database_url)
    try:
        for service, password in passwords.items():
            await connection.execute(f"alter role wardmesh_{service} password '{scram_verifier(password)}'")
        found = await violations(connection)
    finally:
        await connection.close()
    if found:
        raise MigrationError("row-level security has gaps:\n  " + "\n  ".join(found))


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """Return what PostgreSQL stores for `password` (RFC 5803), so that the password itself is never in a statement."""
    if not password.isascii() or not password.isprintable() or not password:
        raise MigrationError("a password is printable ASCII")
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


async def _dbmate(database_url: str, schema: str, folder: Path, command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        _dbmate_path(),
        *("--env-file", os.devnull),  # else a .env in the working folder would name the database
        *("--wait", "--wait-timeout", f"{_WAIT_SECONDS}s", "--migration-lock", "--no-dump-schema"),
        *("--migrations-table", f"{schema}.schema_migrations", "--migrations-dir", str(folder), command),
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _RUN_SECONDS)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise MigrationError(f"{schema}: {output.decode(errors='replace').strip()}")


def _dbmate_path() -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / "dbmate"
    found = shutil.which(beside_python) or shutil.which("dbmate")
    if found is None:
        raise MigrationError("dbmate is not installed; it comes with wardmesh[server]")
    return found


def _with_setting(database_url: str, name: str, value: str) -> str:
    """Add a run-time setting, as PostgreSQL's drivers take it: in the query of the URL."""
    parts = urlsplit(database_url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), (name, value)])
    return urlunsplit(parts._replace(query=query))


def main(arguments: Sequence[str] | None = None) -> int:
    """Migrate the database that the environment names."""
    parser = argparse.ArgumentParser(
        prog="python -m wardmesh.server.migrate",
        description="Bring a wardmesh database to the present schema.",
        epilog="Environment: WARDMESH_MIGRATE_DATABASE_URL (a superuser's), WARDMESH_MIGRATE_DATABASE_PASSWORD if the "
        "URL has none, and for each service that logs in with a password, WARDMESH_AUTH_DATABASE_PASSWORD and so on. "
        "Each may be given as …_FILE instead.",
    )
    parser.add_argument("services", nargs="*", default=SERVICES, help="default: all five")
    chosen = parser.parse_args(arguments)
    try:
        database_url = _required("WARDMESH_MIGRATE_DATABASE_URL")
        if password := _from_environment("WARDMESH_MIGRATE_DATABASE_PASSWORD"):
            database_url = with_password(database_url, password)
        migrations = {service: migrations_of(service) for service in chosen.services}
        found = {service: _from_environment(f"WARDMESH_{service.upper()}_DATABASE_PASSWORD") for service in migrations}
        passwords = {service: password for service, password in found.items() if password}
        asyncio.run(migrate(database_url, migrations, passwords))
    except (MigrationError, OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"migrate: {error}\n")
        return 1
    sys.stdout.write(f"migrated: app, {', '.join(migrations)}\n")
    return 0


def _required(name: str) -> str:
    value = _from_environment(name)
    if not value:
        raise MigrationError(f"set {name} or {name}_FILE")
    return value


def _from_environment(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get(name)


if __name__ == "__main__":
    sys.exit(main())
