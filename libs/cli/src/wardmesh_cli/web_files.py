"""An exported log behind a URL: the gateway's (`…/v1/{scope}/log`), or a folder on any web server.

What always holds: the server is believed in nothing, and is sent a token only over TLS or on this machine. No redirect
is followed, no encoding undone, and no answer read beyond what was asked for, so no server can make a reader leave, or
swell. A server that asks to wait is waited for, within bounds.

On failure: `CommandFailed`; a file that is not there is None.
"""

from __future__ import annotations

import io
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import httpx2

from wardmesh.audit_files import FileRefused
from wardmesh_cli.failures import CommandFailed, UsageFailed

TIMEOUT_SECONDS: Final = 30.0
MAX_TRIES: Final = 6
MAX_PAUSE_SECONDS: Final = 30.0
"""A server may ask for more; whoever verifies would rather hear that it is not there."""
CHUNK_BYTES: Final = 64 * 1024
MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Of what is taken in whole; more of it is on disk."""
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_GONE: Final = frozenset({404, 405, 410})
"""405: the gateway has operations in the place of files that it does not serve."""
_LATER: Final = frozenset({429, 502, 503, 504})


class WebFiles:
    """The port `Files` behind a URL."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str | None],
        *,
        ca_file: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base = httpx2.URL(url.rstrip("/"))
        self._token = token
        self._sleep = sleep
        if token() is not None and self._base.scheme != "https" and self._base.host not in _HERE:
            raise UsageFailed(f"A token is not sent to {self._base.host} in plain text.", "Name an https:// address.")
        self._client = httpx2.Client(
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)),
            transport=transport,
            headers={"accept-encoding": "identity"},
        )

    def close(self) -> None:
        self._client.close()

    def read(self, path: str, max_bytes: int) -> bytes | None:
        answer = self._get(path)
        if answer is None:
            return None
        return b"".join(self._chunks(answer, path, max_bytes))

    def open(self, path: str) -> IO[bytes] | None:
        answer = self._get(path)
        return None if answer is None else io.BufferedReader(_Stream(answer, self._unreachable))

    def take(self, path: str, size: int, max_bytes: int) -> IO[bytes] | None:
        answer = self._get(f"{path}?size={size}")  # a web server that has files does not look at it
        if answer is None:
            return None
        taken = tempfile.SpooledTemporaryFile(MAX_HELD_BYTES)  # noqa: SIM115 - the caller's to close
        try:
            for chunk in self._chunks(answer, path, max_bytes):
                taken.write(chunk)
        except BaseException:
            taken.close()
            raise
        taken.seek(0)
        return taken

    def exists(self, path: str) -> bool:
        return False  # asking would cost a round trip for each of 255 widths

    def _chunks(self, answer: httpx2.Response, path: str, max_bytes: int) -> Iterator[bytes]:
        """Yield an answer's body."""
        left = max_bytes
        try:
            for chunk in answer.iter_raw(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise FileRefused(f"{path} is larger than it can be ({max_bytes} bytes)", path)
                yield chunk
        except httpx2.HTTPError as error:
            raise self._unreachable() from error
        finally:
            answer.close()

    def _get(self, path: str) -> httpx2.Response | None:
        """Return the answer to a GET, whose body is yet to be read, or None if there is no such file."""
        for attempt in range(MAX_TRIES):
            token = self._token()
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            request = self._client.build_request("GET", f"{self._base}/{path}", headers=headers)
            try:
                answer = self._client.send(request, stream=True)
            except httpx2.HTTPError as error:
                raise self._unreachable() from error
            if answer.status_code == 200 and answer.headers.get("content-encoding", "identity") == "identity":
                return answer
            answer.close()
            if answer.status_code in _GONE:
                return None
            if answer.status_code not in _LATER or attempt == MAX_TRIES - 1:
                raise self._refused(path, answer.status_code)
            self._sleep(_pause(answer.headers.get("retry-after", ""), attempt))
        raise AssertionError("unreachable")  # pragma: no cover

    def _refused(self, path: str, status: int) -> CommandFailed:
        advice = {
            401: "Give an access token with --token-file; it may have expired.",
            403: "Ask an administrator for the permissions audit.read and audit.export.",
        }
        return CommandFailed(
            f"{self._base.host} does not give out {path} (status {status}).",
            advice.get(status, "Check the address: it is what stands before /checkpoint."),
        )

    def _unreachable(self) -> CommandFailed:
        return CommandFailed(f"{self._base.host} cannot be reached, or broke off.", "Try again.")


class _Stream(io.RawIOBase):
    """An answer's body as a file."""

    def __init__(self, answer: httpx2.Response, unreachable: Callable[[], CommandFailed]) -> None:
        self._answer = answer
        self._unreachable = unreachable
        self._chunks: Iterator[bytes] = answer.iter_raw(CHUNK_BYTES)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's buffer type is private
        try:
            while not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return 0
                self._rest = chunk
        except httpx2.HTTPError as error:
            raise self._unreachable() from error
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def close(self) -> None:
        self._answer.close()
        super().close()


def _pause(retry_after: str, attempt: int) -> float:
    asked = float(retry_after[:6]) if retry_after[:6].isdigit() else 0.5 * 2**attempt
    return min(asked, MAX_PAUSE_SECONDS)
