"""JWKs of Curve25519 keys: the published examples, and what is refused."""

from __future__ import annotations

import pytest

from wardmesh.crypto.encoding import base64url_decode, base64url_encode
from wardmesh.crypto.errors import InvalidKey
from wardmesh.crypto.jwk import public_bytes, thumbprint, to_jwk

# RFC 8037 appendix A.2 and A.3.
RFC8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC8037_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_thumbprint_of_rfc_8037() -> None:
    assert thumbprint("Ed25519", base64url_decode(RFC8037_X)) == RFC8037_THUMBPRINT


def test_a_key_reads_back_as_it_was_written() -> None:
    jwk = to_jwk("X25519", bytes(range(32)))
    assert public_bytes("X25519", jwk) == bytes(range(32))
    assert public_bytes("X25519", {**jwk, "kid": "1", "use": "enc"}) == bytes(range(32))


def test_a_key_of_two_curves_has_two_thumbprints() -> None:
    assert thumbprint("X25519", bytes(32)) != thumbprint("Ed25519", bytes(32))


GOOD = {"kty": "OKP", "crv": "X25519", "x": base64url_encode(bytes(32))}


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {**GOOD, "crv": "Ed25519"},
        {**GOOD, "kty": "EC"},
        {**GOOD, "x": None},
        {**GOOD, "x": 7},
        {**GOOD, "x": base64url_encode(bytes(31))},
        {**GOOD, "x": base64url_encode(bytes(33))},
        {**GOOD, "x": GOOD["x"] + "="},
        {**GOOD, "x": "+" * 43},
        {**GOOD, "d": base64url_encode(bytes(32))},
    ],
)
def test_what_is_refused(jwk: dict[str, object]) -> None:
    with pytest.raises(InvalidKey):
        public_bytes("X25519", jwk)


def test_only_keys_of_32_bytes_are_written() -> None:
    with pytest.raises(InvalidKey):
        to_jwk("X25519", bytes(31))
