"""Values are sealed on their way into the vault and out of it, to nobody but who asks."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

import wardmesh
from wardmesh.contracts import secrets
from wardmesh.crypto import vault
from wardmesh.crypto.sealing import HolderKey, seal_to
from wardmesh.errors import (
    InternalError,
    Undecryptable,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Vault:
    """The vault's half of the sealing."""

    def __init__(self, services) -> None:
        self.services = services
        self.key, self.key_id = HolderKey.generate(), "k1"
        self.values: dict[str, bytes] = {}
        services.on("secrets.sealing_key", self.sealing_key)
        services.on("secrets.put", self.put)
        services.on("secrets.get", self.get)

    def rotate(self) -> None:
        self.key, self.key_id = HolderKey.generate(), "k2"

    def sealing_key(self, _request):
        return secrets.SealingKey(key_id=self.key_id, public_key=self.key.public_bytes)

    def put(self, request):
        body = secrets.PutSecret.model_validate(request.body)
        if body.key_id != self.key_id:
            return Undecryptable()
        info = vault.put_info(
            workspace=request.subject.scope, principal=request.subject.principal, path=body.path,
            key_id=body.key_id, request_id=request.id,
        )  # fmt: skip
        self.values[body.path] = self.key.open(body.sealed, info)
        return secrets.SecretVersion(path=body.path, version=1, created_at=NOW)

    def get(self, request, *, path=None, version=1, request_id=None):
        asked = request.body["path"]
        info = vault.get_info(
            workspace=request.subject.scope, principal=request.subject.principal, path=path or asked,
            version=version, request_id=request_id or request.id,
        )  # fmt: skip
        sealed = seal_to(self.services.holder_keys[-1], self.values[path or asked], info)
        return secrets.SealedSecret(path=asked, version=1, created_at=NOW, sealed=sealed)


async def test_a_value_goes_in_and_comes_out_and_is_on_the_wire_in_neither_direction(mesh, services, raw) -> None:
    vault_ = Vault(services)
    seen: list[bytes] = []

    async def listen(message) -> None:
        seen.append(message.data)

    await raw.subscribe(">", cb=listen)
    await raw.flush()
    await mesh.secrets.put("openai/api-key", "sk-canary-äöü")
    assert vault_.values == {"openai/api-key": "sk-canary-äöü".encode()}
    assert await mesh.secrets.get("openai/api-key") == "sk-canary-äöü"
    await mesh.secrets.put("binary", b"\xff\x00canary")
    assert await mesh.secrets.get_bytes("binary") == b"\xff\x00canary"
    with pytest.raises(Undecryptable, match="get_bytes"):
        await mesh.secrets.get("binary")
    await raw.flush()
    everything = b"".join(seen)
    assert b"openai/api-key" in everything
    assert b"canary" not in everything
    assert base64.b64encode(b"sk-canary")[:8] not in everything
    assert len(services.asked("secrets.sealing_key")) == 1


async def test_a_changed_sealing_key_is_fetched_once(mesh, services) -> None:
    vault_ = Vault(services)
    await mesh.secrets.put("a", "1")
    vault_.rotate()
    await mesh.secrets.put("a", "2")
    assert vault_.values == {"a": b"2"}
    assert len(services.asked("secrets.sealing_key")) == 2
    services.on("secrets.put", Undecryptable())
    with pytest.raises(Undecryptable):
        await mesh.secrets.put("a", "3")
    assert len(services.asked("secrets.put")) == 5


async def test_an_older_answer_and_another_secret_do_not_open(mesh, services) -> None:
    vault_ = Vault(services)
    await mesh.secrets.put("a", "of a")
    await mesh.secrets.put("b", "of b")
    await mesh.secrets.get("a")
    old = services.asked("secrets.get")[0].id
    for forged in ({"request_id": old}, {"path": "b"}, {"version": 2}):
        services.on("secrets.get", lambda request, forged=forged: vault_.get(request, **forged))
        with pytest.raises(Undecryptable):
            await mesh.secrets.get("a")
    services.on("secrets.get", lambda request: vault_.get(request).model_copy(update={"path": "b"}))
    with pytest.raises(InternalError):
        await mesh.secrets.get("a")


async def test_a_bare_token_cannot_open_what_is_sealed_to_somebody_elses_key(broker, services, identity, mesh) -> None:
    Vault(services)
    await mesh.secrets.put("a", "1")
    token = services.token(identity.agent, identity.workspace)
    async with wardmesh.connect(broker.url, token=token) as other:
        with pytest.raises(Undecryptable, match="private key"):
            await other.secrets.get("a")
    holder = HolderKey.generate()
    services.holder_keys.append(holder.public_bytes)
    async with wardmesh.connect(broker.url, token=token, holder=holder) as other:
        assert await other.secrets.get("a") == "1"
