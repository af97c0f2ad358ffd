"""Certificates that forwarding shows to endpoints which ask who comes (mutual TLS; RFC 5425, section 4.2). Pure.

What always holds: what is kept is what was understood, written anew, and nothing else that was in the files. It was
looked at when it was given: certificates in order, valid at that time and for clients; a key of a usual kind that signs
what the first of them verifies.

On failure: `Unusable`, which names the field and quotes nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

MAX_CHAIN: Final = 8
MIN_RSA_BITS: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_FOR_CLIENTS: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_TRIED: Final = b"wardmesh/audit/client-certificate"
_CERTIFICATE: Final = "client_certificate"
_KEY: Final = "client_key"

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Unusable(ValueError):
    """What was given is no certificate for a client, or no key of it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client's certificate, those that vouch for it, and its key: in PEM."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)


class Usable(NamedTuple):
    """What can be shown, and the time at which the first part of it expires."""

    client: ClientCertificate
    until: datetime


def checked(certificate: str, key: str, now: datetime) -> Usable:
    """Return what can be shown from now on."""
    chain = _chain(certificate)
    _check_times(chain, now)
    _check_purpose(chain[0])
    for one, above in pairwise(chain):
        _check_order(one, above)
    private = _private(key)
    if not _belongs(private, chain[0]):
        raise Unusable(_KEY, "it is not the key of the first certificate")
    shown = ClientCertificate(
        "".join(each.public_bytes(Encoding.PEM).decode() for each in chain),
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
    return Usable(shown, min(each.not_valid_after_utc for each in chain))


def _chain(text: str) -> Sequence[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise Unusable(_CERTIFICATE, "it is not a certificate in PEM") from None
    if len(chain) > MAX_CHAIN:
        raise Unusable(_CERTIFICATE, f"there are more than {MAX_CHAIN} certificates in it")
    return chain


def _check_times(chain: Sequence[x509.Certificate], now: datetime) -> None:
    if any(each.not_valid_after_utc <= now for each in chain):
        raise Unusable(_CERTIFICATE, "it has expired")
    if any(each.not_valid_before_utc > now for each in chain):
        raise Unusable(_CERTIFICATE, "it is not valid yet")


def _check_purpose(certificate: x509.Certificate) -> None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # for everything
    except (ValueError, x509.DuplicateExtension):
        raise Unusable(_CERTIFICATE, "it is not a certificate in PEM") from None
    if not _FOR_CLIENTS.intersection(usages):
        raise Unusable(_CERTIFICATE, "it is not for clients (extended key usage)")


def _check_order(one: x509.Certificate, above: x509.Certificate) -> None:
    try:
        one.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise Unusable(_CERTIFICATE, "the certificates are not in order: each is issued by the next") from None


def _private(text: str) -> PrivateKey:
    try:
        # Whether it signs is tried below. What a library makes of an RSA key's parts takes it a fifth of a second.
        key = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise Unusable(_KEY, "it is encrypted: give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(_KEY, "it is not a key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise Unusable(_KEY, f"an RSA key has {MIN_RSA_BITS} bits at least")
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)
    ):
        return key
    raise Unusable(_KEY, "it is neither RSA, nor Ed25519, nor of the curve P-256, P-384 or P-521")


def _belongs(private: PrivateKey, certificate: x509.Certificate) -> bool:
    """Tell whether a signature of the key is one of the certificate's."""
    try:
        public = certificate.public_key()
        if isinstance(private, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            made = private.sign(_TRIED, padding.PKCS1v15(), SHA256())
            public.verify(made, _TRIED, padding.PKCS1v15(), SHA256())
        elif isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(private.sign(_TRIED, ec.ECDSA(SHA256())), _TRIED, ec.ECDSA(SHA256()))
        elif isinstance(private, ed25519.Ed25519PrivateKey) and isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(private.sign(_TRIED), _TRIED)
        else:
            return False
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
