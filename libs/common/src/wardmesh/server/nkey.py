"""NATS keys: making them, and writing and reading their text form.

An nkey is 32 bytes that say in their text form what they are for: a user (`U…`), an account (`A…`), a server (`N…`)
or a curve key for sealing (`X…`). Text is base 32 of a prefix, the bytes and a CRC-16, without padding; a seed has
an `S` before its kind (`SU…`). https://docs.nats.io/using-nats/developer/connecting/nkey

What always holds: a value that `decode` or `seed_bytes` returned was of the kind that was asked for, and its check sum
was right. Nothing here keeps a seed.

On failure: `InvalidNkeyError`, a `ValueError`, that never contains the text it was given.
"""

from __future__ import annotations

import base64
import binascii
import enum
import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES: Final = 32
_CHECKSUM_BYTES = 2
_SEED_PREFIX = 18 << 3  # 'S'


class InvalidNkeyError(ValueError):
    """Something that is not an nkey of the expected kind."""


class Kind(enum.IntEnum):
    """What a key is for; the value is the first byte of its text form."""

    ACCOUNT = 0  # 'A'
    SERVER = 13 << 3  # 'N'
    USER = 20 << 3  # 'U'
    CURVE = 23 << 3  # 'X'


def new_seed(kind: Kind, randomness: Callable[[int], bytes] = os.urandom) -> str:
    """Return the seed of a fresh key."""
    return encode_seed(kind, randomness(KEY_BYTES))


def encode_seed(kind: Kind, raw: bytes) -> str:
    """Return 32 bytes as the seed of a key of this kind."""
    _check_length(raw)
    # The kind's five bits are split over the two first bytes: three behind the `S`, the others in the next.
    return _encode(bytes((_SEED_PREFIX | kind >> 5, (kind & 31) << 3)) + raw)


def seed_bytes(kind: Kind, seed: str) -> bytes:
    """Return the 32 bytes of a seed; raise if it is one of another kind."""
    decoded = _decode(seed)
    if decoded[:1] != bytes((_SEED_PREFIX | kind >> 5,)) or decoded[1:2] != bytes(((kind & 31) << 3,)):
        raise InvalidNkeyError(f"expected the seed of a {kind.name.lower()} key")
    return _check_length(decoded[2:])


def public_key(kind: Kind, seed: str) -> str:
    """Return the public key of a seed, in its text form."""
    raw = seed_bytes(kind, seed)
    if kind is Kind.CURVE:
        return encode(kind, X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw())
    return encode(kind, Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw())


def encode(kind: Kind, raw: bytes) -> str:
    """Return the 32 bytes of a public key in their text form."""
    return _encode(bytes((kind,)) + _check_length(raw))


def decode(kind: Kind, text: str) -> bytes:
    """Return the 32 bytes of a public key; raise if it is one of another kind."""
    decoded = _decode(text)
    if decoded[:1] != bytes((kind,)):
        raise InvalidNkeyError(f"expected the public key of a {kind.name.lower()}")
    return _check_length(decoded[1:])


def sign(kind: Kind, seed: str, message: bytes) -> bytes:
    """Return the Ed25519 signature of `message`."""
    if kind is Kind.CURVE:
        raise InvalidNkeyError("a curve key seals; it can't sign")
    return Ed25519PrivateKey.from_private_bytes(seed_bytes(kind, seed)).sign(message)


def is_signed_by(kind: Kind, public: str, signature: bytes, message: bytes) -> bool:
    """Tell whether `signature` is that of `message` under this public key."""
    try:
        Ed25519PublicKey.from_public_bytes(decode(kind, public)).verify(signature, message)
    except (InvalidSignature, InvalidNkeyError):
        return False
    return True


def _encode(prefixed: bytes) -> str:
    return base64.b32encode(prefixed + _checksum(prefixed)).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b32decode(text.encode("ascii") + b"=" * (-len(text) % 8))
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidNkeyError("expected an nkey: base 32") from None
    content, checksum = decoded[:-_CHECKSUM_BYTES], decoded[-_CHECKSUM_BYTES:]
    if _checksum(content) != checksum:
        raise InvalidNkeyError("the nkey's check sum is wrong: was it cut or mistyped?")
    return content


def _checksum(data: bytes) -> bytes:
    # CRC-16/XMODEM, little-endian.
    return binascii.crc_hqx(data, 0).to_bytes(_CHECKSUM_BYTES, "little")


def _check_length(raw: bytes) -> bytes:
    if len(raw) != KEY_BYTES:
        raise InvalidNkeyError(f"a key has {KEY_BYTES} bytes, not {len(raw)}")
    return raw
