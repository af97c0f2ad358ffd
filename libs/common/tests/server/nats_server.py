"""A real nats-server with JetStream and no accounts, for tests of what stands above the broker."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import httpx2

START_SECONDS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """Start, kill and start again on the same port, with the same store."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wardmesh-nats-"))
        self.port, self._monitoring = free_port(), free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        configuration = {
            "listen": f"127.0.0.1:{self.port}",
            "http": f"127.0.0.1:{self._monitoring}",
            "jetstream": {"store_dir": str(self.folder / "js"), "sync_interval": "always"},
        }
        (self.folder / "nats.conf").write_text(json.dumps(configuration))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", self.folder / "nats.conf"], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{self._monitoring}/healthz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "nats.log").read_text())
            time.sleep(0.05)

    def pause(self) -> None:
        """Have it do nothing until it is killed: it takes what is sent, and answers nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
