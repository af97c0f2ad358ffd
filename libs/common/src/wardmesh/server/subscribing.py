"""What FastStream is told of the broker's security; the same as `messaging` tells nats-py.

Apart from `messaging`, because only the services that read streams pay for importing FastStream.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faststream.nats.security import NatsNKey

from wardmesh.server.messaging import tls_options


def nkey_security(servers: Sequence[str], seed: str, ca_file: Path | None) -> NatsNKey:
    """Return how the nkey user of `seed` connects."""
    options = tls_options(servers, ca_file)
    return NatsNKey.from_seed(
        seed, ssl_context=options.get("tls"), tls_handshake_first=options.get("tls_handshake_first", False)
    )
