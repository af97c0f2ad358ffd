"""The files that `docker-compose.yml` is brought up with: `wardmesh init --compose FOLDER` makes them.

    identities/      keys and passwords, one a file; each container is given those of its own only
    tls/             an authority, and a certificate for each NATS node: for its clients, and for the other nodes
    nats/            the configuration of each node; public keys only

What always holds: what was made once is never made again, so a second run leaves a running mesh its keys; only the
configurations are written anew, as they follow from the version. The folder is closed to others. The files in it that
containers are given are readable to anybody who gets that far: a container's user is another than whoever runs this,
and reaches only the files that are mounted for it. The authority's key is given to none.

On failure: `IdentityMissing` names a file that has to be restored; `ValueError` for a host that is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from wardmesh.durable_files import PRIVATE_FOLDER, write_private
from wardmesh.server.broker import static_permissions
from wardmesh_cli.embedded import broker
from wardmesh_cli.embedded.broker import BrokerConfig, PublicKeys, Tls
from wardmesh_cli.embedded.certificates import make_authority, make_server
from wardmesh_cli.embedded.identities import Identities
from wardmesh_cli.embedded.ports import LOOPBACK

NODES: Final = ("nats-1", "nats-2", "nats-3")
CLIENT_PORT: Final = 4222
CLUSTER_PORT: Final = 6222
MONITORING_PORT: Final = 8222
ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - inside a container, whose published ports decide who reaches it
STORE: Final = Path("/data")

MOUNTED_TLS: Final = Tls(
    certificate=Path("/run/secrets/nats_certificate"),
    key=Path("/run/secrets/nats_key"),
    authority=Path("/run/secrets/nats_ca"),
)
"""Where docker-compose.yml puts a node's own files."""

_READABLE = 0o644


def make_deployment(folder: Path, *, now: datetime, hosts: Sequence[str] = ()) -> None:
    """Make what isn't there. `hosts` are further names and addresses that clients reach the broker by."""
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)
    (folder / ".gitignore").write_text("# Keys of a mesh: never to be committed.\n*\n")

    identities = Identities(folder / "identities")
    identities.make()
    for file in identities.folder.iterdir():
        file.chmod(_READABLE)

    tls = folder / "tls"
    authority = make_authority(tls, now=now)
    authority.certificate.chmod(_READABLE)
    for node in NODES:
        certificate, key = tls / f"{node}.pem", tls / f"{node}-key.pem"
        if not (certificate.exists() and key.exists()):
            make_server(authority, tls, [node, "localhost", LOOPBACK, *hosts], now=now, name=node)
        certificate.chmod(_READABLE)
        key.chmod(_READABLE)

    configurations = folder / "nats"
    configurations.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    keys = identities.public_keys()
    for node in NODES:
        file = configurations / f"{node}.conf"
        write_private(file, broker.render(node_config(node, keys)).encode())
        file.chmod(_READABLE)


def node_config(node: str, keys: PublicKeys) -> BrokerConfig:
    """Return the configuration of one node of the cluster."""
    return BrokerConfig(
        keys=keys,
        permissions=static_permissions(),
        store_dir=STORE,
        host=ANYWHERE,
        port=CLIENT_PORT,
        monitoring_port=MONITORING_PORT,
        server_name=node,
        tls=MOUNTED_TLS,
        extra={"cluster": _cluster(node)},
    )


def _cluster(node: str) -> dict[str, Any]:
    return {
        "name": "wardmesh",
        "listen": f"{ANYWHERE}:{CLUSTER_PORT}",
        # By name: certificates are for names, and an address would be gossiped otherwise.
        "advertise": f"{node}:{CLUSTER_PORT}",
        "routes": [f"nats://{other}:{CLUSTER_PORT}" for other in NODES if other != node],
        # Clients outside can't reach the nodes' own addresses; they are told all three that are published.
        "no_advertise": True,
        "tls": {
            "cert_file": str(MOUNTED_TLS.certificate),
            "key_file": str(MOUNTED_TLS.key),
            "ca_file": str(MOUNTED_TLS.authority),
            "verify": True,  # the authority signs nothing but nodes, so its signature is the password
            "min_version": "1.2",
            "timeout": broker.AUTH_TIMEOUT_SECONDS,
        },
    }
