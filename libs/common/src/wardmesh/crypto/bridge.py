"""The bytes that a bridge message's signature covers, and the signature.

A message between two workspaces is authenticated with HMAC-SHA256 over its length-prefixed fields, in this order:

    key id, source, destination, subject, kind, id, nonce, issued, expires, correlation, content type, body digest

Text is UTF-8; times are microseconds since 1970-01-01T00:00:00Z as 8-byte big-endian two's complement; the digest is
SHA-256 of the raw body.

What always holds: no two messages have the same canonical bytes, and `verify` covers the body, not only the digest
that came with it.

What is not decided here: freshness, replay (unique key id and nonce) and whether the agreement allows it. Those need
a clock and a store; the caller checks them after the signature.

On failure: `BadSignature`; `InvalidKey` for a key shorter than 32 bytes; `MalformedEncoding` for text without UTF-8.

Source: RFC 2104; its section 3 advises against keys shorter than the hash.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from wardmesh.crypto.encoding import length_prefixed
from wardmesh.crypto.errors import BadSignature, InvalidKey, MalformedEncoding

MIN_KEY_BYTES: Final = 32
MAC_BYTES: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def body_digest(body: bytes) -> bytes:
    """Return the digest of a raw body, as it stands in a message."""
    return hashlib.sha256(body).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeMessage:
    """Everything of a message that is signed; a request has an empty `correlation`, a reply its request's id."""

    key_id: str
    source: str
    destination: str
    subject: str
    kind: str
    id: str
    nonce: bytes
    issued_at: datetime
    expires_at: datetime
    correlation: str = ""
    content_type: str
    body_digest: bytes

    def __post_init__(self) -> None:
        if self.issued_at.utcoffset() is None or self.expires_at.utcoffset() is None:
            raise ValueError("the times of a bridge message need a time zone")

    def canonical_bytes(self) -> bytes:
        """Return the bytes that the signature covers."""
        return length_prefixed(
            _utf8(self.key_id),
            _utf8(self.source),
            _utf8(self.destination),
            _utf8(self.subject),
            _utf8(self.kind),
            _utf8(self.id),
            self.nonce,
            _microseconds(self.issued_at),
            _microseconds(self.expires_at),
            _utf8(self.correlation),
            _utf8(self.content_type),
            self.body_digest,
        )


def sign(key: bytes, message: BridgeMessage) -> bytes:
    """Return the message's signature under `key`."""
    if len(key) < MIN_KEY_BYTES:
        raise InvalidKey(f"a signing key must have at least {MIN_KEY_BYTES} bytes")
    return hmac.digest(key, message.canonical_bytes(), "sha256")


def verify(key: bytes, message: BridgeMessage, mac: bytes, *, body: bytes) -> None:
    """Return only if `mac` is the message's signature under `key` and `body` is what it was signed for.

    MUST be called on the body as it arrived, before anything parses it. Takes the same time wherever they differ.
    """
    signature_matches = hmac.compare_digest(sign(key, message), mac)
    body_matches = hmac.compare_digest(body_digest(body), message.body_digest)
    if not (signature_matches and body_matches):
        raise BadSignature("the message's signature does not match it")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which JSON can smuggle into a str
        raise MalformedEncoding("a field of the message is not Unicode text") from error


def _microseconds(time: datetime) -> bytes:
    return ((time - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)
