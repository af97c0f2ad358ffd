"""A mesh that says all that it can: every log at its most talkative, traces and metrics exported.

PostgreSQL logs every statement, nats-server its debug lines, the services theirs. None of it is a mesh's default, and
all of it is what an operator turns on when something is wrong.

A tap hears what is published into streams: a message that was acknowledged may be gone from the disk before anybody
looks, and was there all the same.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from nats.aio.msg import Msg

from wardmesh.durable_files import write_private
from wardmesh.server.broker import ACCOUNT
from wardmesh.server.nkey import Kind, new_seed, public_key
from wardmesh_cli.embedded.mesh import EmbeddedMesh, migrate_all

_TALKATIVE: Final = {
    "log_statement": "all",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_duration": "on",
    "log_connections": "on",
    "log_disconnections": "on",
}


STORED: Final = ("evt.>", "audit.>", "sealed.>", "dead.>", "bridge.>", "inbox.>", "$KV.>")
"""What streams and buckets take."""


class LoudMesh(EmbeddedMesh):
    """An embedded mesh with a collector, loud from before its database has its first table."""

    def __init__(self, *, data_dir: Path, collector: str) -> None:
        super().__init__(data_dir=data_dir, log_level="debug", migrations=self._migrate_loudly)
        self._collector = collector
        self._tap_seed = new_seed(Kind.USER)

    @property
    def temporary(self) -> Path:
        """Where what the services write beside their data would lie."""
        return self.data_dir / "tmp"

    def environment(self, service: str, *, health_port: int = 0) -> dict[str, str]:
        self.temporary.mkdir(exist_ok=True)
        return (
            super().environment(service, health_port=health_port)
            | {
                "WARDMESH_OTLP_ENDPOINT": self._collector,
                "TMPDIR": str(self.temporary),
                # Thousands of requests come from one address here.
                "WARDMESH_AUTH_LOGINS_PER_SECOND": "10000",
                "WARDMESH_AUTH_LOGINS_BURST": "100000",
                "WARDMESH_CALLS_PER_SECOND": "100000",
                "WARDMESH_CALLS_BURST": "100000",
            }
            | (self._as_witness() if service == "audit" else {})
        )

    @property
    def witnessed_logs(self) -> Path:
        """The list of logs that this mesh cosigns as their witness."""
        return self.data_dir / "witnessed"

    def _as_witness(self) -> dict[str, str]:
        key_file = self.layout.identities.folder / "witness.pem"
        if not key_file.exists():
            key = Ed25519PrivateKey.generate()
            write_private(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            self.witnessed_logs.write_text("logs/v0\n")
        return {
            "WARDMESH_AUDIT_WITNESS_KEY_FILE": str(key_file),
            "WARDMESH_AUDIT_WITNESSED_LOGS_FILE": str(self.witnessed_logs),
        }

    @asynccontextmanager
    async def tapped(self, file: Path) -> AsyncIterator[None]:
        """Write to `file` whatever is published into a stream or a bucket while the block runs."""
        with file.open("ab") as handle:

            async def hear(message: Msg) -> None:
                handle.write(f"{message.subject} {message.headers}\n".encode() + message.data + b"\n")

            client = await nats.connect(self.nats_url, nkeys_seed_str=self._tap_seed, inbox_prefix="_INBOX.tap")
            for subject in STORED:
                await client.subscribe(subject, cb=hear)
            await client.flush()
            try:
                yield
            finally:
                await client.drain()

    async def _migrate_loudly(self, database_url: str, passwords: Mapping[str, str]) -> None:
        connection = await asyncpg.connect(database_url, database="postgres")
        try:
            for name, value in _TALKATIVE.items():
                await connection.execute(f"alter system set {name} = '{value}'")
            await connection.execute("select pg_reload_conf()")
        finally:
            await connection.close()
        config = self.layout.broker_config
        write_private(config, json.dumps(_with_tap(json.loads(config.read_text()), self._tap_seed)).encode())
        await self.restart("nats")
        await migrate_all(database_url, passwords)


def _with_tap(config: dict[str, Any], seed: str) -> dict[str, Any]:
    """Return a broker's configuration with a user that may listen, and with its debug lines."""
    nkey = public_key(Kind.USER, seed)
    tap = {"nkey": nkey, "permissions": {"publish": {"deny": [">"]}, "subscribe": {"allow": list(STORED)}}}
    config["accounts"][ACCOUNT]["users"].append(tap)
    config["authorization"]["auth_callout"]["auth_users"].append(nkey)
    return config | {"debug": True}
