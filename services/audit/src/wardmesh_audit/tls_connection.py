"""A TLS connection over a blocking socket that says how it ended, within one deadline.

What always holds:
- `end` returns when the other side has answered our `close_notify` with its own. A fatal alert is no answer, nor is an
  end of its own that came before ours, nor one that anybody on the way could have made. (OpenSSL's `SSL_shutdown`, and
  so `SSLSocket.unwrap`, takes a fatal alert for an answer: a receiver that by TLS 1.3 refuses our certificate does so
  after our first words, and would seem to have read all of them.)
- Nothing waits beyond the deadline. What the other side says besides is dropped.

On failure: `ssl.SSLError`, with the alert if there was one; `CutOff`, `TimeoutError`, and other `OSError`s.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import Final

PIECE: Final = 16 * 1024  # one TLS record
_LAST_WORDS_SECONDS: Final = 0.5
"""For the alert of one that will not take more; it was sent before the connection broke."""


class CutOff(Exception):
    """The other side ended, and not in answer to us."""


class Deadline:
    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; raise `TimeoutError` if there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class TlsConnection:
    """A client's side. `handshake`, then `write`, then `end`; the socket is the caller's to close."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str, until: Deadline) -> None:
        self._plain = plain
        self._until = until
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(self._until.left())
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # our alert
                raise
            else:
                self._flush()
                return

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[self._tls.write(view[:PIECE]) :]
            self._flush()

    def end(self) -> None:
        """End our side, and wait until the other has ended its own."""
        # Nothing may be left to be read: in one call OpenSSL would say our end, and take what is there for an answer.
        with suppress(BlockingIOError):
            while not self._has_ended():
                self._until.left()
                self._receive(0)
            raise CutOff
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._flush()
        while not self._has_ended():
            self._receive(self._until.left())

    def _has_ended(self) -> bool:
        """Take what has come; tell whether the other side has ended."""
        try:
            while self._tls.read(PIECE):
                pass
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            return True
        return True

    def _receive(self, seconds: float) -> None:
        self._plain.settimeout(seconds)
        came = self._plain.recv(PIECE)
        if not came:
            raise CutOff
        self._incoming.write(came)

    def _flush(self) -> None:
        view = memoryview(self._outgoing.read())
        try:
            while view:
                self._plain.settimeout(self._until.left())
                view = view[self._plain.send(view) :]
        except ConnectionError:
            self._raise_last_words()
            raise

    def _raise_last_words(self) -> None:
        """Raise the alert that the other side sent before it closed, if there is one."""
        with suppress(OSError, CutOff):
            for _ in range(4):
                self._receive(min(_LAST_WORDS_SECONDS, self._until.left()))
        self._has_ended()
