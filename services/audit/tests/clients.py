"""Certificates of clients, good ones and bad ones, and an authority that vouches for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOR_CLIENTS, FOR_SERVERS = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Made:
    certificate: x509.Certificate
    private: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key(self) -> str:
        return key_pem(self.private)


def key_pem(private: Any, password: bytes | None = None, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    sealed: KeySerializationEncryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    pem: bytes = private.private_bytes(Encoding.PEM, form, sealed)
    return pem.decode()


def make(
    name: str = "the forwarder",
    by: Made | None = None,
    *,
    private: Any = None,
    authority: bool = False,
    since: timedelta = timedelta(days=-1),
    until: timedelta = timedelta(days=30),
    usage: Any = FOR_CLIENTS,
) -> Made:
    """Make a certificate, by an authority or by itself."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (subject, private) if by is None else (by.certificate.subject, by.private)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + since)
        .not_valid_after(NOW + until)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if usage is not None and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    hashed = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Made(builder.sign(signer, hashed), private)
