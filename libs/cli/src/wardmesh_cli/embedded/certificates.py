"""Certificates for a mesh of one's own: an authority, and servers that it vouches for.

What always holds: keys are P-256, readable by their owner only, and written before the certificate that needs them; the
authority signs servers, never another authority. Names and addresses are in the subject alternative name, where
clients look.

On failure: `ValueError` for a host that is neither a name nor an address. An authority's files are never overwritten:
if one of the two is gone or can't be read, that is said (`IdentityMissing`, `IdentityDamaged`), since what a new
authority signs is trusted by nobody who has the old one's certificate.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardmesh.durable_files import PRIVATE_FOLDER, write_private
from wardmesh_cli.embedded.broker import Tls
from wardmesh_cli.embedded.errors import IdentityDamaged, IdentityMissing

AUTHORITY_VALID: Final = timedelta(days=3650)
SERVER_VALID: Final = timedelta(days=397)
"""The longest that browsers and Apple's libraries accept."""
RENEW_BEFORE: Final = timedelta(days=30)
_BACKDATED = timedelta(minutes=5)  # clocks differ
_HOST_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?[a-zA-Z0-9]([a-zA-Z0-9-]{0,62})(\.[a-zA-Z0-9][a-zA-Z0-9-]{0,62})*")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority's two files, `ca.pem` and `ca-key.pem`."""

    certificate: Path
    key: Path


def make_authority(folder: Path, *, now: datetime, name: str = "wardmesh authority") -> Authority:
    """Make an authority in `folder`, or return the one that is there."""
    authority = Authority(folder / "ca.pem", folder / "ca-key.pem")
    if authority.certificate.exists():
        _read_authority(authority)
        return authority
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    # A key without a certificate is what an interrupted first run left: nobody can know it yet.
    write_private(authority.key, _pem(key))
    write_private(authority.certificate, certificate.public_bytes(Encoding.PEM))
    return authority


def server_certificate(folder: Path, hosts: Sequence[str], *, now: datetime) -> Tls:
    """Return the certificate of a mesh's own server, made on first use and made anew before it expires."""
    authority = make_authority(folder, now=now)
    present = Tls(certificate=folder / "server.pem", key=folder / "server-key.pem", authority=authority.certificate)
    if present.certificate.exists() and present.key.exists():
        if _certificate(present.certificate).not_valid_after_utc - now > RENEW_BEFORE:
            return present
        present.certificate.unlink()
        present.key.unlink()
    return make_server(authority, folder, hosts, now=now)


def make_server(
    authority: Authority, folder: Path, hosts: Sequence[str], *, now: datetime, name: str = "server"
) -> Tls:
    """Make a server's certificate for host names and addresses, as `{name}.pem` and `{name}-key.pem` in `folder`."""
    if not hosts:
        raise ValueError("a certificate is for at least one host")
    alternatives = [_alternative(host) for host in hosts]
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    tls = Tls(certificate=folder / f"{name}.pem", key=folder / f"{name}-key.pem", authority=authority.certificate)
    if tls.certificate.exists():
        raise FileExistsError(f"{tls.certificate} exists; remove it first if it is to be made anew")
    issuer, issuer_key = _read_authority(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, SERVER_VALID)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            # A server of a cluster is the client of its peers.
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    write_private(tls.key, _pem(key))
    write_private(tls.certificate, certificate.public_bytes(Encoding.PEM))
    return tls


def _read_authority(authority: Authority) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _certificate(authority.certificate)
    try:
        key = load_pem_private_key(authority.key.read_bytes(), password=None)
    except FileNotFoundError:
        raise IdentityMissing(authority.key) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityDamaged(authority.key, "it is not a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityDamaged(authority.key, f"it is not the key of {authority.certificate.name}")
    return certificate, key


def _certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except ValueError:
        raise IdentityDamaged(file, "it is not a certificate in PEM") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, valid: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _HOST_NAME.fullmatch(host) is None:
            raise ValueError(f"{host!r} is neither a host name nor an address") from None
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
