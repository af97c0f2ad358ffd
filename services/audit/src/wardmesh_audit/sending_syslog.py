"""The way out by syslog: RFC 5424 messages over TLS (RFC 5425), or over TCP with octet counting (RFC 6587).

Syslog acknowledges nothing. What TCP and TLS can say is used instead: a connection carries one batch, we end our side
of it (`close_notify`, or FIN), and the batch counts as taken when the receiver has ended its own in answer. A receiver
reads in order, so it, or the TLS library in its process, has read all before that end; whether it kept it, it has no
way to say.

What always holds:
- A connection that is reset, or not ended in time, or by the receiver first, is a batch that was not taken: it is sent
  again. By TLS the end is the receiver's `close_notify`, which RFC 5425 wants of it: anybody on the way can make a FIN
  (`tls_connection`).
- By TLS a receiver may ask who comes (RFC 5425, 4.2): it is shown the certificate that the tenant gave.
- Without TLS nothing goes anywhere but into networks that an operator has named.
- A batch has one deadline, however slowly the receiver reads. It runs in a thread of its own: the standard library's
  blocking sockets say plainly how a connection ended, which the event loops do not.

On failure: `NotDelivered` with one word of ours.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from wardmesh.contracts.audit import SYSLOG_TCP, SYSLOG_TLS
from wardmesh_audit.batches import Batch, frames_of
from wardmesh_audit.outward import IPAddress, Outward
from wardmesh_audit.outward_tls import CLIENT_CERTIFICATE, OutwardTls, refused_us
from wardmesh_audit.ports_forwarding import NotDelivered, Target
from wardmesh_audit.sending import CONNECT_SECONDS, reachable
from wardmesh_audit.tls_connection import PIECE, CutOff, Deadline, TlsConnection

CONNECTIONS: Final = 16
"""At once in one process: more than there are turns and probes."""
_MARGIN_SECONDS: Final = 1.0
"""The thread ends by itself within its bound; this is for one that the machine did not let run."""


class SyslogEndpoint:
    """A receiver; each batch is a connection. Implements `Endpoint`."""

    def __init__(
        self, target: Target, address: IPAddress, tls: OutwardTls, threads: ThreadPoolExecutor, seconds: float
    ) -> None:
        self._target = target
        self._address = address
        self._tls = tls
        self._threads = threads
        self._seconds = seconds

    async def send(self, batch: Batch) -> None:
        try:
            async with asyncio.timeout(self._seconds + _MARGIN_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._threads, self._send, batch)
        except TimeoutError:
            raise NotDelivered("timed_out") from None

    def _send(self, batch: Batch) -> None:
        """Connect, write, end, and wait for the end; in a thread."""
        frames = frames_of(batch, self._target.format)
        until = Deadline(self._seconds)
        try:
            plain = socket.create_connection(
                (str(self._address), self._target.port), timeout=min(CONNECT_SECONDS, self._seconds)
            )
        except TimeoutError:
            raise NotDelivered("timed_out") from None
        except OSError:
            raise NotDelivered("unreachable") from None
        with plain:
            try:
                if self._target.scheme == SYSLOG_TLS:
                    self._send_by_tls(plain, frames, until)
                else:
                    _write(plain, frames, until)
                    if _has_ended(plain, until):
                        raise NotDelivered("cut_off")
                    plain.shutdown(socket.SHUT_WR)
                    _read_to_end(plain, until)
            except TimeoutError:
                raise NotDelivered("timed_out") from None
            except OSError as error:
                # By TLS 1.3 a receiver that will not have us says so after the handshake.
                raise NotDelivered(CLIENT_CERTIFICATE if refused_us(error) else "broken") from None

    def _send_by_tls(self, plain: socket.socket, frames: bytes, until: Deadline) -> None:
        secured = TlsConnection(plain, self._tls.context(self._target.client), self._target.host, until)
        try:
            secured.handshake()
        except (ssl.SSLError, CutOff) as error:
            raise NotDelivered(CLIENT_CERTIFICATE if refused_us(error) else "tls") from None
        try:
            secured.write(frames)
            secured.end()
        except CutOff:
            raise NotDelivered("cut_off") from None


def _write(connection: socket.socket, content: bytes, until: Deadline) -> None:
    view = memoryview(content)
    while view:
        connection.settimeout(until.left())
        view = view[connection.send(view[:PIECE]) :]


def _has_ended(connection: socket.socket, until: Deadline) -> bool:
    """Tell whether the other side ended before we did: then it may not have read all."""
    connection.settimeout(0)
    try:
        while connection.recv(PIECE):
            until.left()
    except BlockingIOError:
        return False
    return True


def _read_to_end(connection: socket.socket, until: Deadline) -> None:
    """Wait for the other side's end; what it says before that is dropped."""
    while True:
        connection.settimeout(until.left())
        if not connection.recv(PIECE):
            return


class SyslogSender:
    """The port `Sender` by syslog."""

    def __init__(self, outward: Outward, tls: OutwardTls, *, seconds: float) -> None:
        self._outward = outward
        self._tls = tls
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="syslog")

    @asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[SyslogEndpoint]:
        """Look where the name leads; each batch then connects there."""
        address = await reachable(self._outward, target, self._seconds)
        if target.scheme == SYSLOG_TCP and not self._outward.is_named(address):
            raise NotDelivered("not_encrypted")
        yield SyslogEndpoint(target, address, self._tls, self._threads, self._seconds)

    def close(self) -> None:
        """Take no more batches; those in hand end within their time."""
        self._threads.shutdown(wait=False, cancel_futures=True)
