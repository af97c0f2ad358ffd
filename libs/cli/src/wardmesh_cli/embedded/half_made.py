"""Streams and consumers that the broker was making when it was killed.

A server writes what one is (`meta.inf`), then a checksum of that (`meta.sum`), and acknowledges. Killed in between, it
does not know the stream at its next start. Declaring it again (`wardmesh.server.provision`) brings it back, with its
messages if it had any. But a `meta.inf` that is there is not written again, nor is its checksum: the stream would be
gone once more after the next crash, which may be months away, and publishers would be refused. So a `meta.inf` without
its checksum is removed before the server starts; then declaring writes both. Measured of nats-server 2.15;
`tests/broker/test_provisioning.py` keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def forget(store_dir: Path) -> None:
    """Remove every description that has no checksum. Call only while no server uses the folder."""
    for description in _descriptions(store_dir):
        if not description.with_name("meta.sum").exists():
            description.unlink()


def _descriptions(store_dir: Path) -> Iterator[Path]:
    streams = "jetstream/*/streams/*"
    yield from store_dir.glob(f"{streams}/meta.inf")
    yield from store_dir.glob(f"{streams}/obs/*/meta.inf")
