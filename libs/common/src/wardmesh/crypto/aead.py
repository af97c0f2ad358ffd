"""Key-committing AES-256-GCM: sealing values under a key, and keys under a key.

    sealed = version (1) ‖ salt (32) ‖ commitment (32) ‖ nonce (12) ‖ ciphertext ‖ tag (16)
    encryption key (32) ‖ commitment (32) = HKDF-SHA256(key, salt, info = length_prefixed(domain))

What always holds:
- A ciphertext opens under one key only. Plain AES-GCM does not promise that: whoever chooses the keys can make one
  ciphertext that opens under two. The commitment is compared, in constant time, before anything is decrypted.
- It opens in one context only. The context is a list of fields (owner, path, version, …), length-prefixed and
  authenticated, so that a ciphertext moved to another row, tenant or version is refused.
- What `wrap` made, `open_` refuses, and the other way round: the two derive from different domains.
- Every message is encrypted under a key of its own, by its random salt. AES-GCM's limit of 2^32 random nonces a key
  is therefore not a limit on how often `seal` may be called with one key.

Envelope encryption in three layers: a customer's key wraps a scope's key, that wraps a data key, that seals a value.
Put the wrapped data key into the value's context as well, so that neither can be exchanged without the other.

On failure: `Undecryptable`, always the same, for a wrong key, a wrong context and damage; `InvalidKey` for a key that
is not 32 bytes.

Sources: NIST SP 800-38D (GCM, 96-bit nonces); RFC 5869 (HKDF); Albertini et al., "How to Abuse and Fix Authenticated
Encryption Without Key Commitment", USENIX Security 2022 (the generic fix: a commitment from the same derivation).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardmesh.crypto.encoding import length_prefixed
from wardmesh.crypto.errors import InvalidKey, Undecryptable

Random: TypeAlias = Callable[[int], bytes]
"""Returns that many bytes; MUST be unpredictable outside of tests."""
KeyMaterial: TypeAlias = bytes | bytearray

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_SALT_BYTES: Final = 32  # two messages under one derived key are then as unlikely as a SHA-256 collision
_COMMITMENT_BYTES: Final = 32
_NONCE_BYTES: Final = 12  # GCM hashes any other length into a nonce, with worse bounds; the library would allow it
_TAG_BYTES: Final = 16
_HEADER_BYTES: Final = len(_VERSION) + _SALT_BYTES + _COMMITMENT_BYTES + _NONCE_BYTES
OVERHEAD_BYTES: Final = _HEADER_BYTES + _TAG_BYTES
"""How much longer a sealed value is than its plaintext."""

_VALUE_DOMAIN: Final = length_prefixed(b"wardmesh/aead/v1/value")
_KEY_DOMAIN: Final = length_prefixed(b"wardmesh/aead/v1/key")


def new_key(*, random: Random = os.urandom) -> bytes:
    """Return a fresh key for `seal` or `wrap`."""
    return random(KEY_BYTES)


def seal(key: KeyMaterial, plaintext: KeyMaterial, context: Sequence[bytes], *, random: Random = os.urandom) -> bytes:
    """Return `plaintext` encrypted under `key` and bound to `context`."""
    return _seal(_VALUE_DOMAIN, key, plaintext, context, random)


def open_(key: KeyMaterial, sealed: bytes, context: Sequence[bytes]) -> bytes:
    """Return what `seal` was given with the same key and context."""
    message = _unlock(_VALUE_DOMAIN, key, sealed)
    try:
        return message.cipher.decrypt(message.nonce, message.ciphertext, length_prefixed(*context))
    except InvalidTag as error:
        raise Undecryptable from error


@contextmanager
def opened(key: KeyMaterial, sealed: bytes, context: Sequence[bytes]) -> Iterator[bytearray]:
    """Like `open_`, for as long as the block runs: the plaintext's only copy is overwritten at its end."""
    with _opened(_VALUE_DOMAIN, key, sealed, context) as plaintext:
        yield plaintext


def wrap(
    key_encryption_key: KeyMaterial, key: KeyMaterial, context: Sequence[bytes], *, random: Random = os.urandom
) -> bytes:
    """Return `key` encrypted under `key_encryption_key` and bound to `context`."""
    return _seal(_KEY_DOMAIN, key_encryption_key, _checked(key), context, random)


@contextmanager
def unwrapped(key_encryption_key: KeyMaterial, wrapped: bytes, context: Sequence[bytes]) -> Iterator[bytearray]:
    """Yield the key that `wrap` was given, and overwrite it when the block ends."""
    with _opened(_KEY_DOMAIN, key_encryption_key, wrapped, context) as key:
        yield key


def unwrap(key_encryption_key: KeyMaterial, wrapped: bytes, context: Sequence[bytes]) -> bytes:
    """Like `unwrapped`, for callers that keep the key, in a cache for instance."""
    with _opened(_KEY_DOMAIN, key_encryption_key, wrapped, context) as key:
        return bytes(key)


class _Message(NamedTuple):
    """A sealed value whose commitment matches the key; not decrypted yet."""

    cipher: AESGCM
    nonce: bytes
    ciphertext: bytes


def _seal(domain: bytes, key: KeyMaterial, plaintext: KeyMaterial, context: Sequence[bytes], random: Random) -> bytes:
    salt = random(_SALT_BYTES)
    nonce = random(_NONCE_BYTES)
    if len(salt) != _SALT_BYTES or len(nonce) != _NONCE_BYTES:
        raise ValueError("the random source returned fewer or more bytes than it was asked for")
    cipher, commitment = _derive(domain, key, salt)
    ciphertext = cipher.encrypt(nonce, plaintext, length_prefixed(*context))
    return b"".join((_VERSION, salt, commitment, nonce, ciphertext))


def _unlock(domain: bytes, key: KeyMaterial, sealed: bytes) -> _Message:
    _checked(key)
    if len(sealed) < OVERHEAD_BYTES or not sealed.startswith(_VERSION):
        raise Undecryptable
    salt_end = len(_VERSION) + _SALT_BYTES
    commitment_end = salt_end + _COMMITMENT_BYTES
    cipher, commitment = _derive(domain, key, sealed[len(_VERSION) : salt_end])
    if not hmac.compare_digest(commitment, sealed[salt_end:commitment_end]):
        raise Undecryptable
    return _Message(cipher, nonce=sealed[commitment_end:_HEADER_BYTES], ciphertext=sealed[_HEADER_BYTES:])


@contextmanager
def _opened(domain: bytes, key: KeyMaterial, sealed: bytes, context: Sequence[bytes]) -> Iterator[bytearray]:
    message = _unlock(domain, key, sealed)
    plaintext = bytearray(len(message.ciphertext) - _TAG_BYTES)
    try:
        try:
            message.cipher.decrypt_into(message.nonce, message.ciphertext, length_prefixed(*context), plaintext)
        except InvalidTag as error:
            raise Undecryptable from error
        yield plaintext
    finally:
        plaintext[:] = bytes(len(plaintext))


def _derive(domain: bytes, key: KeyMaterial, salt: bytes) -> tuple[AESGCM, bytes]:
    derived = bytearray(KEY_BYTES + _COMMITMENT_BYTES)
    HKDF(SHA256(), len(derived), salt, domain).derive_into(_checked(key), derived)
    cipher = AESGCM(derived[:KEY_BYTES])
    return cipher, bytes(derived[KEY_BYTES:])


def _checked(key: KeyMaterial) -> KeyMaterial:
    if len(key) != KEY_BYTES:
        raise InvalidKey(f"a key must have {KEY_BYTES} bytes")
    return key
