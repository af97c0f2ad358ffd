"""Whether nats-py reads headers here as they were sent. It takes `fast-mail-parser` for it, wherever that is installed.

Version 0.10 of that package gives lists where nats-py promises strings: no answer and no token could be read, and every
call would fail in a way that names nothing. So what would be used is tried, whatever its version, before anything is.
"""

from __future__ import annotations

from typing import Final

from nats.aio import client as nats_client

_SENT: Final = b"Request-Id: req_1\r\nAuthorization: Bearer a.b.c\r\n\r\n"
_MEANT: Final = {"Request-Id": "req_1", "Authorization": "Bearer a.b.c"}

ADVICE: Final = (
    "nats-py cannot read headers with the fast-mail-parser that is installed here. "
    "Remove it (pip uninstall fast-mail-parser); nats-py then reads headers by itself."
)


class HeaderParserUnusable(RuntimeError):
    """Nothing can work in this environment; the text says what to do."""

    def __init__(self) -> None:
        super().__init__(ADVICE)


def is_usable() -> bool:
    """Try what nats-py would read headers with."""
    parse = getattr(nats_client, "parse_email", None)
    if parse is None:  # it has its own
        return True
    try:
        return bool(parse(_SENT).headers == _MEANT)
    except Exception:  # noqa: BLE001 - whatever it fails with, headers cannot be read with it
        return False


def check() -> None:
    """Raise `HeaderParserUnusable` unless headers can be read."""
    if not is_usable():
        raise HeaderParserUnusable
