"""A whole mesh that speaks TLS, from the certificate to the secret; and everybody who would rather it did not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import ssl
import tempfile
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import wardmesh
from wardmesh import tls
from wardmesh.crypto.apikey import ApiKey
from wardmesh.errors import ServiceUnavailable
from wardmesh.server.messaging import Messaging
from wardmesh.server.nkey import Kind, new_seed
from wardmesh.tls import CA_FILE_VARIABLE
from wardmesh_cli.bootstrap import first_administrator
from wardmesh_cli.door import open_door
from wardmesh_cli.embedded.certificates import make_authority, server_certificate
from wardmesh_cli.embedded.mesh import EmbeddedMesh

WAIT_SECONDS = 10.0
PROMPT_SECONDS = 3.0
BRIEF = timedelta(seconds=1)


@dataclass(frozen=True)
class World:
    mesh: EmbeddedMesh
    api_key: str
    ca_file: Path

    @property
    def port(self) -> int:
        return port_of(self.mesh.nats_url)


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="wardmesh-tls-"))
    files = server_certificate(folder / "tls", ["127.0.0.1"], now=datetime.now(UTC))
    async with EmbeddedMesh(data_dir=folder / "data", tls=files) as mesh:
        async with open_door(mesh.http_url) as door:
            owner = await first_administrator(door)
        assert owner.workspace_key is not None
        yield World(mesh, owner.workspace_key, files.authority)
    shutil.rmtree(folder)


@pytest.fixture
def by_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three variables that a backend is given."""
    monkeypatch.setenv("WARDMESH_URL", world.mesh.nats_url)
    monkeypatch.setenv("WARDMESH_API_KEY", world.api_key)
    monkeypatch.setenv(CA_FILE_VARIABLE, str(world.ca_file))


async def test_services_and_clients_meet_in_tls(world: World) -> None:
    """Every service answers, events and the audit log flow: FastStream's connections speak it as well."""
    assert world.mesh.nats_url.startswith("tls://")
    async with wardmesh.connect(world.mesh.nats_url, world.api_key, tls=tls.trusting(world.ca_file)) as mesh:
        await mesh.secrets.put("openai/api-key", "sk-over-tls")
        assert await mesh.secrets.get("openai/api-key") == "sk-over-tls"
        async with asyncio.timeout(WAIT_SECONDS):
            async for entry in mesh.audit.tail(start=0):
                if entry.event.action == "secret.get":
                    break
        world.mesh.kill("nats")
        assert await mesh.secrets.get("openai/api-key") == "sk-over-tls"  # everybody has found back


@pytest.mark.usefixtures("by_environment")
async def test_the_environment_names_the_authority(world: World) -> None:
    async with wardmesh.connect() as mesh:
        assert (await mesh.auth.who_am_i()).principal == mesh.principal


async def test_an_authority_that_cannot_be_read_is_said_to_be_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (tmp_path / "absent.pem", world.mesh.layout.broker_config):
        monkeypatch.setenv(CA_FILE_VARIABLE, str(file))
        with pytest.raises(ValueError, match=f"{CA_FILE_VARIABLE}.*{file.name}.*PEM"):
            wardmesh.connect(world.mesh.nats_url, world.api_key)


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_the_wrong_authority_is_said_at_once_with_what_to_do(world: World, tmp_path: Path, scheme: str) -> None:
    other = make_authority(tmp_path, now=datetime.now(UTC)).certificate
    began = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=CA_FILE_VARIABLE):
        async with wardmesh.connect(f"{scheme}://127.0.0.1:{world.port}", world.api_key, tls=tls.trusting(other)):
            pass
    assert time.monotonic() - began < PROMPT_SECONDS


async def test_another_name_is_said_to_be_one(world: World) -> None:
    with pytest.raises(ServiceUnavailable, match="another name"):
        async with wardmesh.connect(f"tls://localhost:{world.port}", world.api_key, tls=tls.trusting(world.ca_file)):
            pass


async def test_a_client_that_speaks_plain_text_is_told_nothing_and_cut_off(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(connect_line(world.api_key))
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await read_to_the_end(reader)
    assert b"INFO" not in answer
    assert b"PONG" not in answer
    writer.close()


async def test_an_address_without_tls_says_that_nobody_answers(world: World) -> None:
    with pytest.raises(ServiceUnavailable, match=rf"No broker answers at .*:{world.port}.* begins with tls:"):
        async with wardmesh.connect(f"nats://127.0.0.1:{world.port}", world.api_key, timeout=BRIEF):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.parametrize("listener", ["nats_url", "nats_websocket_url"])
async def test_old_versions_are_refused_by_the_broker(world: World, listener: str, version: ssl.TLSVersion) -> None:
    port = port_of(getattr(world.mesh, listener))
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
        await asyncio.open_connection("127.0.0.1", port, ssl=only(version, world.ca_file))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=only(ssl.TLSVersion.TLSv1_2, world.ca_file))
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()


async def test_the_websocket_listener_lets_a_client_in_through_the_callout_and_nobody_else(world: World) -> None:
    """Spoken by hand, as a browser would: nats-py needs aiohttp for it, and nothing else here does."""
    assert world.mesh.nats_websocket_url.startswith("wss://")
    for password, answer in ((world.api_key, b"PONG\r\n"), ("another", b"Authorization Violation")):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(world.mesh.nats_websocket_url), ssl=tls.trusting(world.ca_file)
        )
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        writer.write("\r\n".join([*lines, f"Sec-WebSocket-Key: {key}", "", ""]).encode())
        async with asyncio.timeout(WAIT_SECONDS):
            await reader.readuntil(b"\r\n\r\n")  # who says more before that is cut off
        command = connect_line(world.api_key, password)
        writer.write(bytes((0x82, 0x80 | 126)) + len(command).to_bytes(2, "big") + bytes(4) + command)
        async with asyncio.timeout(WAIT_SECONDS):
            await reader.readuntil(answer)
        writer.close()


@dataclass
class Impostor:
    """Listens where the broker should, says that it wants no TLS, and keeps what it is sent."""

    url: str = ""
    heard: bytearray = field(default_factory=bytearray)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"tls_required":false}\r\n')
        while data := await reader.read(4096):
            self.heard += data
            if b"PING\r\n" in data:
                writer.write(b"PONG\r\n")
        writer.close()


@asynccontextmanager
async def impostor(scheme: str) -> AsyncIterator[Impostor]:
    posing = Impostor()
    async with await asyncio.start_server(posing.serve, "127.0.0.1", 0) as server:
        posing.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield posing


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_nobody_in_between_can_talk_a_client_out_of_tls(world: World, scheme: str) -> None:
    async with impostor(scheme) as posing:
        with pytest.raises(ServiceUnavailable, match="plain text"):
            async with wardmesh.connect(posing.url, world.api_key, tls=tls.trusting(world.ca_file), timeout=BRIEF):
                pass
        assert posing.connections > 0
        assert b"CONNECT" not in posing.heard
        assert world.api_key.encode() not in posing.heard


async def test_nor_by_the_address_alone(world: World) -> None:
    async with impostor("tls") as posing:
        with pytest.raises(ServiceUnavailable, match="plain text"):
            async with wardmesh.connect(posing.url, world.api_key, timeout=BRIEF):
                pass
        assert world.api_key.encode() not in posing.heard


async def test_nor_a_service(world: World) -> None:
    async with impostor("nats") as posing:
        messaging = Messaging("secrets")
        connecting = asyncio.create_task(
            messaging.connect([posing.url], seed=new_seed(Kind.USER), ca_file=world.ca_file)
        )
        while not posing.heard:
            await asyncio.sleep(0.02)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await messaging.drain()
        assert b"CONNECT" not in posing.heard


async def test_a_service_that_is_given_another_authority_ends_and_says_why(world: World, tmp_path: Path) -> None:
    """Its supervisor starts it again; it must not wait for ever where waiting does not help."""
    other = make_authority(tmp_path, now=datetime.now(UTC)).certificate
    messaging = Messaging("secrets")
    with pytest.raises(ServiceUnavailable, match="authority"):
        await messaging.connect([world.mesh.nats_url], seed=new_seed(Kind.USER), ca_file=other)
    await messaging.drain()


def connect_line(api_key: str, password: str | None = None) -> bytes:
    scope = str(ApiKey.parse(api_key).scope)
    options = {"user": scope, "pass": password or api_key, "verbose": False, "protocol": 1}
    return f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode()


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def only(version: ssl.TLSVersion, ca_file: Path) -> ssl.SSLContext:
    """A client that speaks one version only, with every cipher that OpenSSL still has."""
    context = ssl.create_default_context(cafile=str(ca_file))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context
