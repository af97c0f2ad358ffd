"""What a failed handshake is told as, each made to fail for real between two ends in memory."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wardmesh import tls
from wardmesh_cli.embedded.certificates import SERVER_VALID, make_authority, make_server

NOW = datetime.now(UTC)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> None:
    """Shake hands; raise what the client raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        try:
            ours.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            return
        try:
            theirs.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            continue  # its alert is under way to the client
    raise AssertionError("no end")


def server_of(folder: Path, *, host: str = "localhost", made: datetime = NOW) -> ssl.SSLContext:
    files = make_server(make_authority(folder, now=NOW), folder / host, [host], now=made)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def advice_for(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    with pytest.raises(ssl.SSLError) as caught:
        handshake(client, server)
    return tls.advice(caught.value)


def test_who_names_the_authority_gets_through(tmp_path: Path) -> None:
    server = server_of(tmp_path)
    handshake(tls.trusting(tmp_path / "ca.pem"), server)


def test_an_authority_that_nobody_named_is_said_to_be_missing(tmp_path: Path) -> None:
    server = server_of(tmp_path)
    other = make_authority(tmp_path / "other", now=NOW).certificate
    for client in (ssl.create_default_context(), tls.trusting(other)):
        assert "WARDMESH_CA_FILE" in advice_for(client, server)


@pytest.mark.parametrize(
    ("words", "host", "made"),
    [
        ("another name", "elsewhere", NOW),
        ("another name", "192.0.2.1", NOW),
        ("has expired", "localhost", NOW - SERVER_VALID - timedelta(days=1)),
        ("not valid yet", "localhost", NOW + timedelta(days=1)),
    ],
)
def test_what_else_can_be_wrong_with_a_certificate_is_told_apart(
    tmp_path: Path, words: str, host: str, made: datetime
) -> None:
    server = server_of(tmp_path, host=host, made=made)
    assert words in advice_for(tls.trusting(tmp_path / "ca.pem"), server)


def test_an_older_version_is_refused(tmp_path: Path) -> None:
    client = tls.trusting(make_authority(tmp_path, now=NOW).certificate)
    assert client.minimum_version == ssl.TLSVersion.TLSv1_2


def test_plain_text_is_told_as_such(tmp_path: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.trusting(make_authority(tmp_path, now=NOW).certificate)
    ours = client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    incoming.write(b'INFO {"tls_required":false}\r\n')
    with pytest.raises(ssl.SSLError) as caught:
        ours.do_handshake()
    assert "plain text" in tls.advice(caught.value)


@pytest.mark.parametrize(
    ("servers", "asked"),
    [
        (["nats://a"], False),
        (["a:4222"], False),
        (["tls://a"], True),
        (["wss://a"], True),
        (["nats://a", "tls://b"], True),
        (["nats://tls"], False),
    ],
)
def test_an_address_asks_for_tls_or_not(servers: list[str], asked: bool) -> None:
    assert tls.is_asked_for(servers) is asked


def test_where_tls_is_required_the_handshake_comes_first(tmp_path: Path) -> None:
    context = tls.trusting(make_authority(tmp_path, now=NOW).certificate)
    assert tls.connect_options(context, required=True) == {"tls": context, "tls_handshake_first": True}
    assert tls.connect_options(None, required=True) == {"tls_handshake_first": True}
    assert tls.connect_options(context, required=False) == {"tls": context}
    assert tls.connect_options(None, required=False) == {}
