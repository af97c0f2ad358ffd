"""Curve25519 public keys as JSON Web Keys, and their thumbprints.

What always holds: a key that `public_bytes` returns has the curve that the caller asked for and 32 bytes, and one key
has one thumbprint (RFC 7638), whatever else its JWK says.

On failure: `InvalidKey`. A JWK with a private part is refused too: it should not have travelled here.

Sources: RFC 8037 section 2 (OKP keys); RFC 7638 section 3 (thumbprints).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.crypto.errors import InvalidKey, MalformedEncoding

Curve: TypeAlias = Literal["Ed25519", "X25519"]
PUBLIC_KEY_BYTES: Final = 32


def to_jwk(curve: Curve, public_key: bytes) -> dict[str, str]:
    """Return the JWK of a raw public key: its required members only."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidKey(f"a public key must have {PUBLIC_KEY_BYTES} bytes")
    return {"crv": curve, "kty": "OKP", "x": base64url_encode(public_key)}


def public_bytes(curve: Curve, jwk: Mapping[str, object]) -> bytes:
    """Return the raw public key of a JWK of that curve."""
    x = jwk.get("x")
    if jwk.get("kty") != "OKP" or jwk.get("crv") != curve or not isinstance(x, str):
        raise InvalidKey("not an OKP key of the expected curve")
    if "d" in jwk:
        raise InvalidKey("a private key stands where a public key belongs")
    try:
        public_key = base64url_decode(x)
    except MalformedEncoding as error:
        raise InvalidKey("the JWK's x is not base64url") from error
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidKey(f"a public key must have {PUBLIC_KEY_BYTES} bytes")
    return public_key


def thumbprint(curve: Curve, public_key: bytes) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a raw public key, in base64url."""
    canonical = json.dumps(to_jwk(curve, public_key), sort_keys=True, separators=(",", ":"))
    return base64url_encode(hashlib.sha256(canonical.encode("ascii")).digest())
