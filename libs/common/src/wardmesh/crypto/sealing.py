"""Sealing to one holder: HPKE in base mode, bound to what it answers.

    sealed = version (1) ‖ encapsulated key (32) ‖ ciphertext ‖ tag (16)

What always holds: only the private key's holder opens it, and only with the same `info`. Callers put into `info` what
the plaintext belongs to (request id, subject, version, expiry), so that an old answer cannot be passed off as a new
one. It does NOT say who sealed it: base mode does not authenticate the sender. Where that matters, the channel must.

The ephemeral key is drawn inside the library; there is no way to hand in its randomness.

On failure: `Undecryptable` on opening; `InvalidKey` for a key of the wrong length or a public key of small order
(X25519 with such a key would give everybody the same secret).

Source: RFC 9180, suite DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from wardmesh.crypto import jwk
from wardmesh.crypto.aead import KeyMaterial
from wardmesh.crypto.encoding import length_prefixed
from wardmesh.crypto.errors import InvalidKey, Undecryptable

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_VERSION: Final = b"\x01"
_DOMAIN: Final = b"wardmesh/sealing/v1"
OVERHEAD_BYTES: Final = len(_VERSION) + 32 + 16
"""How much longer a sealed value is than its plaintext."""


def seal_to(public_key: bytes, plaintext: KeyMaterial, info: Sequence[bytes]) -> bytes:
    """Return `plaintext` sealed to the holder of a raw X25519 public key, bound to `info`."""
    try:
        recipient = X25519PublicKey.from_public_bytes(public_key)
        return _VERSION + _SUITE.encrypt(plaintext, recipient, info=length_prefixed(_DOMAIN, *info))
    except ValueError as error:
        raise InvalidKey("not a usable X25519 public key") from error


def open_sealed(private_key: KeyMaterial, sealed: bytes, info: Sequence[bytes]) -> bytes:
    """Return what `seal_to` was given for this key's public half, with the same `info`."""
    return HolderKey.from_private_bytes(private_key).open(sealed, info)


class HolderKey:
    """The X25519 key pair of whoever answers are sealed to; its representation never shows the private half."""

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public_bytes: Final = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Return a fresh key pair."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, private_key: KeyMaterial) -> Self:
        """Return the pair of a raw private key, as `private_bytes` returned it."""
        try:
            return cls(X25519PrivateKey.from_private_bytes(private_key))
        except ValueError as error:
            raise InvalidKey("not an X25519 private key") from error

    def private_bytes(self) -> bytes:
        """Return the raw private key: a method, so that nothing prints it by walking the attributes."""
        return self._private.private_bytes_raw()

    def public_jwk(self) -> dict[str, str]:
        """Return the public half as it stands in a token's `cnf.jwk`."""
        return jwk.to_jwk("X25519", self.public_bytes)

    def thumbprint(self) -> str:
        """Return the public half's RFC 7638 thumbprint."""
        return jwk.thumbprint("X25519", self.public_bytes)

    def open(self, sealed: bytes, info: Sequence[bytes]) -> bytes:
        """Return what was sealed to this key with the same `info`."""
        if len(sealed) < OVERHEAD_BYTES or not sealed.startswith(_VERSION):
            raise Undecryptable
        try:
            return _SUITE.decrypt(sealed[len(_VERSION) :], self._private, info=length_prefixed(_DOMAIN, *info))
        except (InvalidTag, ValueError) as error:
            raise Undecryptable from error

    def __repr__(self) -> str:
        return f"HolderKey({self.thumbprint()})"
