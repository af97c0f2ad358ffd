"""Certificates: what they say, whom they are for, and that an authority is made once."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from wardmesh_cli.embedded.certificates import (
    AUTHORITY_VALID,
    RENEW_BEFORE,
    SERVER_VALID,
    make_authority,
    make_server,
    server_certificate,
)
from wardmesh_cli.embedded.errors import IdentityDamaged, IdentityMissing

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def verify(certificate: Path, authority: Path, name: x509.DNSName) -> None:
    """By an implementation that knows the rules of the web: names, usages, path lengths, dates."""
    policy = PolicyBuilder().store(Store([load(authority)])).time(NOW)
    policy.build_server_verifier(name).verify(load(certificate), [])


def test_a_server_is_vouched_for_under_its_names_and_no_others(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, now=NOW)
    tls = make_server(authority, tmp_path, ["nats-1.example", "127.0.0.1", "::1"], now=NOW)
    verify(tls.certificate, authority.certificate, x509.DNSName("nats-1.example"))
    with pytest.raises(VerificationError):
        verify(tls.certificate, authority.certificate, x509.DNSName("nats-2.example"))
    other = make_authority(tmp_path / "other", now=NOW)
    with pytest.raises(VerificationError):
        verify(tls.certificate, other.certificate, x509.DNSName("nats-1.example"))


def test_what_certificates_say(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, now=NOW)
    tls = make_server(authority, tmp_path, ["a.example", "127.0.0.1"], now=NOW)
    root, leaf = load(authority.certificate), load(tls.certificate)
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    for certificate, valid in ((root, AUTHORITY_VALID), (leaf, SERVER_VALID)):
        assert certificate.not_valid_before_utc < NOW
        assert certificate.not_valid_after_utc == NOW + valid
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    tls = server_certificate(folder, ["localhost"], now=NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tls.key, folder / "ca-key.pem")} == {0o600}


@pytest.mark.parametrize("host", ["", "*", "a b", "-a", "a..b", "https://a", "a/b", "*.*.a", "a\n", "x" * 254])
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path: Path, host: str) -> None:
    authority = make_authority(tmp_path, now=NOW)
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        make_server(authority, tmp_path / "server", ["localhost", host], now=NOW)
    assert not (tmp_path / "server").exists()
    with pytest.raises(ValueError, match="at least one host"):
        make_server(authority, tmp_path / "server", [], now=NOW)


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    made = make_authority(tmp_path, now=NOW)
    before = made.certificate.read_bytes(), made.key.read_bytes()
    assert make_authority(tmp_path, now=NOW + timedelta(days=1)) == made
    assert (made.certificate.read_bytes(), made.key.read_bytes()) == before


def test_an_authority_whose_key_is_lost_is_not_made_again(tmp_path: Path) -> None:
    made = make_authority(tmp_path, now=NOW)
    before = made.certificate.read_bytes()
    made.key.unlink()
    with pytest.raises(IdentityMissing, match=r"ca-key\.pem"):
        make_authority(tmp_path, now=NOW)
    assert made.certificate.read_bytes() == before
    assert not made.key.exists()


def test_a_first_time_that_was_interrupted_between_key_and_certificate_is_begun_again(tmp_path: Path) -> None:
    made = make_authority(tmp_path, now=NOW)
    made.certificate.unlink()
    again = make_authority(tmp_path, now=NOW)
    make_server(again, tmp_path, ["localhost"], now=NOW)


@pytest.mark.parametrize("file", ["ca.pem", "ca-key.pem"])
def test_a_damaged_authority_is_named(tmp_path: Path, file: str) -> None:
    make_authority(tmp_path, now=NOW)
    (tmp_path / file).write_text("-----BEGIN NONSENSE-----\n")
    with pytest.raises(IdentityDamaged, match=f"{file} is damaged"):
        make_authority(tmp_path, now=NOW)


def test_another_authoritys_key_is_noticed(tmp_path: Path) -> None:
    made, other = make_authority(tmp_path, now=NOW), make_authority(tmp_path / "other", now=NOW)
    made.key.write_bytes(other.key.read_bytes())
    with pytest.raises(IdentityDamaged, match=r"not the key of ca\.pem"):
        make_server(made, tmp_path, ["localhost"], now=NOW)


def test_a_server_certificate_is_kept_until_shortly_before_it_expires(tmp_path: Path) -> None:
    def serial(now: datetime) -> int:
        return load(server_certificate(tmp_path, ["localhost"], now=now).certificate).serial_number

    first = serial(NOW)
    assert serial(NOW + SERVER_VALID - RENEW_BEFORE - timedelta(minutes=1)) == first
    authority = (tmp_path / "ca.pem").read_bytes()
    renewed = serial(NOW + SERVER_VALID - RENEW_BEFORE + timedelta(minutes=1))
    assert renewed != first
    assert (tmp_path / "ca.pem").read_bytes() == authority
    with pytest.raises(FileExistsError, match=r"server\.pem exists"):
        make_server(make_authority(tmp_path, now=NOW), tmp_path, ["localhost"], now=NOW)
