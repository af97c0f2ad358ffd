"""Byte strings that mean one thing: length-prefixed fields, strict base64, strict decimals.

What always holds: every encoding here is injective and every decoder accepts exactly what its encoder writes. Two
different lists of fields never encode alike (so no separator can be smuggled in), and one value has one text (so a
signature over a text is a signature over the value).

On failure: `MalformedEncoding`.

Sources: PASETO's pre-authentication encoding, in network byte order; RFC 4648 sections 3.5, 4 and 5; C2SP
tlog-checkpoint, "Conventions" (canonical base64, ASCII decimals).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from wardmesh.crypto.errors import MalformedEncoding

UINT64_MAX: Final = 2**64 - 1
_LENGTH_BYTES: Final = 8
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,19}")  # no int() of a megabyte of digits


def length_prefixed(*fields: bytes) -> bytes:
    """Return the number of fields, then each field after its length, all as 8-byte big-endian integers."""
    parts = [len(fields).to_bytes(_LENGTH_BYTES, "big")]
    for field in fields:
        parts.append(len(field).to_bytes(_LENGTH_BYTES, "big"))
        parts.append(field)
    return b"".join(parts)


def base64url_encode(data: bytes) -> str:
    """Return base64url without padding (RFC 4648 section 5, as RFC 7515 writes it)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_decode(text: str) -> bytes:
    """Return what `base64url_encode` made `text` of; refuse padding, other alphabets and stray bits."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise MalformedEncoding("not base64url") from error
    # The standard library skips characters that it does not know and ignores stray bits.
    if base64url_encode(data) != text:
        raise MalformedEncoding("not canonical base64url without padding")
    return data


def base64_encode(data: bytes) -> str:
    """Return base64 with padding (RFC 4648 section 4), as the C2SP formats use it."""
    return base64.b64encode(data).decode("ascii")


def base64_decode(text: str) -> bytes:
    """Return what `base64_encode` made `text` of, and refuse every other spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise MalformedEncoding("not base64") from error
    if base64_encode(data) != text:
        raise MalformedEncoding("not canonical base64")
    return data


def decimal_decode(text: str, *, maximum: int = UINT64_MAX) -> int:
    """Return the integer that `text` spells in ASCII digits, without sign or leading zeros."""
    if _DECIMAL.fullmatch(text) is None or (value := int(text)) > maximum:
        raise MalformedEncoding("not a decimal number of the expected range")
    return value
