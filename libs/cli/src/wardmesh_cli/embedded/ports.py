"""Ports on the loopback address."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection
from typing import Final

LOOPBACK: Final = "127.0.0.1"


def free_ports(count: int, *, avoid: Collection[int] = ()) -> list[int]:
    """Return that many different ports that nobody listens on, and that are not promised to somebody else.

    Another program may take one before it is used: whoever listens on it must report that it could not.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind((LOOPBACK, 0))
            port = int(listener.getsockname()[1])
            if port not in avoid:
                found.append(port)
        return found


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port; connections of an earlier listener that are still closing don't count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
