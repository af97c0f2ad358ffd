"""Certificates that forwarding shows: which are taken, and real endpoints that ask who comes."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from clients import FOR_SERVERS, NOW, Made, key_pem, make
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from makers import candidates, event, make_person
from receiver import strict_receiver
from siem import siem

from wardmesh.contracts.audit import ForwardFormat, parse_address
from wardmesh_audit.batches import Batch
from wardmesh_audit.client_certificates import ClientCertificate, Unusable, checked
from wardmesh_audit.domain import Stored, decode_leaf
from wardmesh_audit.outward import Outward
from wardmesh_audit.outward_tls import OutwardTls, show, usable
from wardmesh_audit.ports_forwarding import NotDelivered, Sender, Target
from wardmesh_audit.sending import HttpSender
from wardmesh_audit.sending_syslog import SyslogSender

LOCAL = [ipaddress.ip_network("127.0.0.0/8")]
AUTHORITY = make("an authority", authority=True)
ELSE = make("somebody else's authority", authority=True)
CLIENT = make(by=AUTHORITY)
RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("made", "form"),
    [(CLIENT, PrivateFormat.PKCS8), (CLIENT, PrivateFormat.TraditionalOpenSSL),
     (make(private=RSA), PrivateFormat.TraditionalOpenSSL), (make(private=ed25519.Ed25519PrivateKey.generate()), None),
     (make(private=ec.generate_private_key(ec.SECP521R1())), PrivateFormat.PKCS8), (make(usage=None), None)],
)  # fmt: skip
def test_what_is_usual_is_taken_and_kept_as_it_was_understood(made: Made, form: PrivateFormat | None) -> None:
    key = key_pem(made.private, form=form or PrivateFormat.PKCS8)
    found = usable(f"subject=who knows\n{made.pem}", f"{key}\nand more\n{CLIENT.key}", NOW)
    assert found.client == ClientCertificate(made.pem, made.key)
    assert found.until == made.certificate.not_valid_after_utc
    assert made.key not in repr(found)
    chain = usable(CLIENT.pem + AUTHORITY.pem, CLIENT.key, NOW).client.certificate
    assert chain == CLIENT.pem + AUTHORITY.pem


def test_it_is_good_until_the_first_of_its_chain_expires() -> None:
    above = make("an authority", authority=True, until=timedelta(days=3))
    made = make(by=above)
    found = checked(made.pem + above.pem, made.key, NOW)
    assert found.until == above.certificate.not_valid_after_utc


@pytest.mark.parametrize(
    ("certificate", "key", "field", "said"),
    [
        ("", CLIENT.key, "client_certificate", "not a certificate in PEM"),
        ("hello", CLIENT.key, "client_certificate", "not a certificate in PEM"),
        (CLIENT.key, CLIENT.key, "client_certificate", "not a certificate in PEM"),
        (CLIENT.pem.replace("M", "N", 3), CLIENT.key, "client_certificate", "not a certificate in PEM"),
        (CLIENT.pem, "hello", "client_key", "not a key in PEM"),
        (CLIENT.pem, CLIENT.pem, "client_key", "not a key in PEM"),
        (CLIENT.pem, key_pem(CLIENT.private, b"password"), "client_key", "without a password"),
        (CLIENT.pem, make().key, "client_key", "not the key of the first"),
        (CLIENT.pem, key_pem(RSA), "client_key", "not the key of the first"),
        (AUTHORITY.pem + CLIENT.pem, CLIENT.key, "client_certificate", "not in order"),
        (CLIENT.pem + ELSE.pem, CLIENT.key, "client_certificate", "not in order"),
        (CLIENT.pem * 9, CLIENT.key, "client_certificate", "more than 8"),
        (make(until=timedelta(seconds=-1)).pem, CLIENT.key, "client_certificate", "has expired"),
        (make(since=timedelta(days=2)).pem, CLIENT.key, "client_certificate", "not valid yet"),
        (make(usage=FOR_SERVERS).pem, CLIENT.key, "client_certificate", "not for clients"),
        (CLIENT.pem, key_pem(rsa.generate_private_key(65537, 1024)), "client_key", "2048 bits"),  # noqa: S505
        (CLIENT.pem, key_pem(ec.generate_private_key(ec.SECP256K1())), "client_key", "neither"),
        (CLIENT.pem, key_pem(dsa.generate_private_key(2048)), "client_key", "neither"),
    ],
)  # fmt: skip
def test_what_is_of_no_use_is_refused_with_the_reason(certificate: str, key: str, field: str, said: str) -> None:
    with pytest.raises(Unusable, match=said) as refused:
        checked(certificate, key, NOW)
    assert refused.value.field == field
    assert refused.value.__cause__ is None


@pytest.mark.property
@given(st.text(max_size=200), st.integers(0, 400), st.binary(max_size=4))
def test_nothing_that_is_given_is_more_than_refused(text: str, place: int, put: bytes) -> None:
    changed = CLIENT.pem[:place] + put.decode("latin-1") + CLIENT.pem[place + len(put) :]
    for certificate, key in ((text, CLIENT.key), (CLIENT.pem, text), (changed, CLIENT.key)):
        try:
            checked(certificate, key, NOW)
        except Unusable as refused:
            assert refused.problem  # noqa: PT017


def test_a_key_is_in_no_file_that_anybody_could_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no files in memory, what is on the disk for a moment is encrypted."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[bytes] = []

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile, keyfile=None, password=None):  # type: ignore[no-untyped-def]
            seen.append(Path(keyfile).read_bytes())
            assert Path(keyfile).stat().st_mode & 0o077 == 0 or not keyfile.startswith(str(tmp_path))
            super().load_cert_chain(certfile, keyfile, password)

    client = ClientCertificate(CLIENT.pem, CLIENT.key)
    show(Context(ssl.PROTOCOL_TLS_CLIENT), client, in_memory=False)
    assert b"ENCRYPTED" in seen[0]
    assert list(tmp_path.iterdir()) == []
    show(Context(ssl.PROTOCOL_TLS_CLIENT), client)
    assert list(tmp_path.iterdir()) == []


def batch(count: int) -> Batch:
    scope = make_person().scope
    made = candidates(scope, *(event() for _ in range(count)))
    return Batch(scope, "siem", [decode_leaf(Stored(index, each.leaf)) for index, each in enumerate(made)])


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
STRANGERS: tuple[Made | None, ...] = (
    make("a stranger", by=ELSE),
    make(by=AUTHORITY, until=timedelta(seconds=-1)),
    None,
)


@VERSIONS
async def test_a_receiver_that_asks_who_comes_is_shown_the_certificate(tmp_path: Path, version: ssl.TLSVersion) -> None:
    async with strict_receiver(tmp_path, AUTHORITY.pem, version) as (there, ca_file):
        url = f"syslog+tls://localhost:{there.port}"
        await send(url, ca_file, CLIENT)
        assert [who for who, _ in there.taken] == ["the forwarder"]
        for client in STRANGERS:
            # Before TLS 1.3 whoever shows nothing is refused with an alert that says no more than that.
            word = "tls" if client is None and version is ssl.TLSVersion.TLSv1_2 else "client_certificate"
            assert await why_not(url, ca_file, client) == word
        assert len(there.taken) == 1


async def test_a_receiver_that_refuses_us_after_our_first_words_has_taken_nothing(tmp_path: Path) -> None:
    """By TLS 1.3 the handshake is over for us before it is for the receiver. A third of these once seemed taken."""
    async with strict_receiver(tmp_path, AUTHORITY.pem, ssl.TLSVersion.TLSv1_3) as (there, ca_file):
        for count in (1, 100):
            for client in STRANGERS * 8:
                assert await why_not(f"syslog+tls://localhost:{there.port}", ca_file, client, count)
        assert there.taken == []
        await send(f"syslog+tls://localhost:{there.port}", ca_file, CLIENT, 100)
        assert len(there.taken) == 1


@VERSIONS
async def test_an_https_endpoint_that_asks_who_comes_is_shown_the_certificate(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    (tmp_path / "clients.pem").write_text(AUTHORITY.pem)
    async with siem(tmp_path, clients=tmp_path / "clients.pem", version=version) as server:
        await send(server.url(), server.ca_file, CLIENT)
        assert len(server.requests) == 1
        for client in STRANGERS:
            await why_not(server.url(), server.ca_file, client)  # this server says nothing of why
        assert len(server.requests) == 1


async def why_not(url: str, ca_file: Path, client: Made | None, count: int = 3) -> str:
    with pytest.raises(NotDelivered) as refused:
        await send(url, ca_file, client, count)
    assert refused.value.__cause__ is None
    return refused.value.error


async def send(url: str, ca_file: Path, client: Made | None, count: int = 3) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    place = parse_address(url)
    shown = None if client is None else ClientCertificate(client.pem, client.key)
    target = Target(place.scheme, place.host, place.port, place.path, None, None, ForwardFormat.OCSF, shown)
    outward, tls = Outward(LOCAL, lookup=lookup), OutwardTls(ca_file)  # type: ignore[arg-type]
    sender: Sender
    if place.scheme == "https":
        sender = HttpSender(outward, tls, seconds=5.0)
    else:
        sender = SyslogSender(outward, tls, seconds=5.0)
    async with sender.open(target) as endpoint:
        await endpoint.send(batch(count))


async def test_what_is_remembered_is_bounded_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardmesh_audit.outward_tls.REMEMBERED", 2)
    tls = OutwardTls(None)
    clients = [ClientCertificate(made.pem, made.key) for made in (CLIENT, make(), make())]
    contexts = [tls.context(each) for each in clients]
    assert len({id(each) for each in (*contexts, tls.context(None))}) == 4
    assert tls.context(clients[2]) is contexts[2]
    assert tls.context(clients[0]) is not contexts[0]
    with pytest.raises(NotDelivered, match="client_certificate"):
        tls.context(ClientCertificate(CLIENT.pem, make().key))
