"""How a webhook is verified, for every scheme: one function, and a description of the scheme as data.

Pure: no clock, no I/O. What always holds:
- The signature is computed over the raw bytes as they came; nothing has parsed them, and nothing does here.
- It is compared in constant time, every allowed signature with every secret, whichever comes first.
- Freshness is judged after the signature, so a stranger learns nothing about clocks, and in both directions: a
  signature from the future would be fresh for longer than the tolerance.
- What can be read in two ways is refused: a header that came twice, a timestamp that is there twice.

On failure: `Unverified` with a reason, for any input whatever. Nothing else is raised.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from wardmesh_webhooks.errors import Reason, SecretRefused, Unverified

MAX_SIGNATURES: Final = 8
"""In one request; a sender that changes its secret signs with two or three."""
MAX_SECRETS: Final = 4
MIN_SECRET_BYTES: Final = 16
"""Whoever sees one signed body can try secrets at leisure; below 128 bits they may succeed."""
MAX_HEADER_CHARACTERS: Final = 4096
MAX_MESSAGE_ID_CHARACTERS: Final = 128
_DIGEST_BYTES: Final = hashlib.sha256().digest_size

_TIMESTAMP = re.compile(r"[0-9]{1,11}")  # seconds since 1970, until the year 5138
_MESSAGE_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_MESSAGE_ID_CHARACTERS}}}")

Headers: TypeAlias = Iterable[tuple[str, str]]
"""As they came, names in lower case, repetitions included."""


class Encoding(enum.Enum):
    HEX = enum.auto()
    BASE64 = enum.auto()


class Part(enum.Enum):
    """A piece of what is signed; the pieces are joined with dots."""

    MESSAGE_ID = enum.auto()
    TIMESTAMP = enum.auto()
    BODY = enum.auto()


class Identity(enum.Enum):
    """What tells one event from another. It MUST be covered by the signature."""

    BODY_ID = enum.auto()
    """The field `id` of the body, or the body itself if it has none."""
    MESSAGE_ID = enum.auto()
    BODY = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureScheme:
    """How somebody signs: HMAC-SHA256 over `signed`, in a header that is a list of labelled values."""

    signature_header: str
    item_separator: str | None
    """Between the header's items; none if there is one item only."""
    label_separator: str
    label: str
    """Of the items that are signatures; others are passed over, such as versions that we do not take."""
    encoding: Encoding
    signed: tuple[Part, ...]
    secret_prefix: str = ""
    secret_encoding: Encoding | None = None
    """None: the secret's text is the key."""
    timestamp_label: str | None = None
    timestamp_header: str | None = None
    message_id_header: str | None = None
    tolerance: timedelta | None = None
    identity: Identity
    type_header: str | None = None
    """A header that names the event's type; not signed, in the scheme that has it."""
    type_field: str
    """The field of the body that names the type, or that refines the header's."""

    def __post_init__(self) -> None:
        has_timestamp = bool(self.timestamp_label or self.timestamp_header)
        if Part.BODY not in self.signed:
            raise ValueError("a scheme that does not sign the body verifies nothing")
        if has_timestamp != (Part.TIMESTAMP in self.signed) or has_timestamp != (self.tolerance is not None):
            raise ValueError("a timestamp is signed and has a tolerance, or there is none")
        if self.identity is Identity.MESSAGE_ID and Part.MESSAGE_ID not in self.signed:
            raise ValueError("events are told apart by something that is signed")
        if (self.message_id_header is not None) != (Part.MESSAGE_ID in self.signed):
            raise ValueError("a message's id is signed and comes in a header, or there is none")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a signature vouches for, besides the body."""

    message_id: str | None
    signed_at: datetime | None


def read_secrets(scheme: SignatureScheme, text: str) -> tuple[bytes, ...]:
    """Return the keys in `text`: one secret, or several, one a line, while a sender changes from one to another.

    Raise `SecretRefused` for anything that this scheme's sender would not have given out.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(lines) <= MAX_SECRETS:
        raise SecretRefused(f"Give 1 to {MAX_SECRETS} signing secrets, one a line.")
    return tuple(_read_secret(scheme, secret) for secret in lines)


def verify(scheme: SignatureScheme, secrets: Sequence[bytes], headers: Headers, body: bytes, now: datetime) -> Verified:
    """Return what is verified; raise `Unverified` unless one of `secrets` has signed `body`, and recently."""
    values = _Values(headers)
    header = values.single(scheme.signature_header, Reason.MISSING)
    signatures: list[bytes] = []
    timestamps: list[str] = []
    for label, value in _items(scheme, header):
        if label == scheme.label:
            signatures.append(_decode(scheme.encoding, value))
        elif label == scheme.timestamp_label:
            timestamps.append(value)
    if not 0 < len(signatures) <= MAX_SIGNATURES:
        raise Unverified(Reason.MALFORMED)
    if scheme.timestamp_header is not None:
        timestamps.append(values.single(scheme.timestamp_header, Reason.MISSING))
    timestamp = _single_timestamp(timestamps) if scheme.tolerance is not None else None
    message_id = None
    if scheme.message_id_header is not None:
        message_id = values.single(scheme.message_id_header, Reason.MISSING)
        if _MESSAGE_ID.fullmatch(message_id) is None:
            raise Unverified(Reason.MALFORMED)

    signed = _signed_content(scheme, message_id, timestamp, body)
    matches = False
    for secret in secrets:
        expected = hmac.digest(secret, signed, "sha256")
        for signature in signatures:
            matches |= hmac.compare_digest(expected, signature)
    if not matches:
        raise Unverified(Reason.MISMATCH)

    if timestamp is None or scheme.tolerance is None:
        return Verified(message_id, None)
    signed_at = datetime.fromtimestamp(int(timestamp), UTC)
    if signed_at < now - scheme.tolerance:
        raise Unverified(Reason.TOO_OLD)
    if signed_at > now + scheme.tolerance:
        raise Unverified(Reason.IN_FUTURE)
    return Verified(message_id, signed_at)


class _Values:
    """Headers by name; asking for one that came twice is refused."""

    def __init__(self, headers: Headers) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in headers:
            self._values.setdefault(name.lower(), []).append(value)

    def single(self, name: str, if_missing: Reason) -> str:
        values = self._values.get(name, [])
        if not values:
            raise Unverified(if_missing)
        if len(values) > 1 or len(values[0]) > MAX_HEADER_CHARACTERS:
            raise Unverified(Reason.MALFORMED)
        return values[0]


def _items(scheme: SignatureScheme, header: str) -> list[tuple[str, str]]:
    items = [header] if scheme.item_separator is None else header.split(scheme.item_separator)
    pairs = []
    for item in items:
        label, separator, value = item.strip(" ").partition(scheme.label_separator)
        if not separator:
            raise Unverified(Reason.MALFORMED)
        pairs.append((label, value))
    return pairs


def _single_timestamp(timestamps: list[str]) -> str:
    if len(timestamps) != 1 or _TIMESTAMP.fullmatch(timestamps[0]) is None:
        raise Unverified(Reason.MALFORMED)
    return timestamps[0]


def _signed_content(scheme: SignatureScheme, message_id: str | None, timestamp: str | None, body: bytes) -> bytes:
    # As text of the headers, not as what we made of it: "0123" and "123" are signed as two different things.
    pieces = {
        Part.MESSAGE_ID: (message_id or "").encode(),
        Part.TIMESTAMP: (timestamp or "").encode(),
        Part.BODY: body,
    }
    return b".".join(pieces[part] for part in scheme.signed)


def _decode(encoding: Encoding, text: str) -> bytes:
    """Return a signature's bytes; what is none is `Unverified`, also where a lenient decoder would find something."""
    try:
        if encoding is Encoding.HEX:
            decoded, canonical = bytes.fromhex(text), None
        else:
            decoded = base64.b64decode(text, validate=True)
            canonical = base64.b64encode(decoded).decode()
    except (ValueError, binascii.Error):
        raise Unverified(Reason.MALFORMED) from None
    if len(decoded) != _DIGEST_BYTES or (canonical or decoded.hex()) != (text if canonical else text.lower()):
        raise Unverified(Reason.MALFORMED)
    return decoded


def _read_secret(scheme: SignatureScheme, text: str) -> bytes:
    if not text.isascii() or not text.isprintable():
        raise SecretRefused("A signing secret is printable ASCII.")
    if scheme.secret_encoding is None:
        key = text.encode()
    else:
        try:
            # Without the prefix and without padding it is what some senders show.
            encoded = text.removeprefix(scheme.secret_prefix).rstrip("=")
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (ValueError, binascii.Error):
            raise SecretRefused(
                f"The signing secret is not base64; copy it whole, beginning with {scheme.secret_prefix}."
            ) from None
    if len(key) < MIN_SECRET_BYTES:
        raise SecretRefused(f"A signing secret has {MIN_SECRET_BYTES} bytes at least.")
    return key
