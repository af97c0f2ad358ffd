"""The secrets of one hunt: made here to be pushed in, or taken from what the mesh hands out and keeps."""

from __future__ import annotations

import base64
import secrets
import string
from pathlib import Path
from typing import Final

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.canary.hunt import Secret
from tests.canary.table import SECRET_FIELDS

from wardmesh.contracts.operation import Message
from wardmesh.crypto import apikey
from wardmesh.crypto.encoding import base64url_decode
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh.server import nkey
from wardmesh.server.kek import LocalKey
from wardmesh.server.nkey import Kind
from wardmesh_secrets.crypto import _sealing_key_context  # what the wrapped keys are bound to
from wardmesh_secrets.domain import Owner

CORE_CHARACTERS: Final = 32
LEFT, RIGHT = "\"é<'%2F", ">\\&\n+\U0001f511"
"""Around what is looked for: what quoting, escaping, truncating at a quote and encoding have to deal with."""
_REFRESH_PREFIX = "wmr_"
_CHECKSUM_BYTES = 4
_KIND_OF_SEED = {"SU": Kind.USER, "SA": Kind.ACCOUNT, "SX": Kind.CURVE}


class Pouch:
    """Collects secrets, and the controls that have to be found."""

    def __init__(self) -> None:
        self.secrets: list[Secret] = []
        self.controls: dict[Secret, frozenset[str]] = {}

    def core(self, kind: str, origin: str, *, may_rest_in: frozenset[str] = frozenset(), word: bool = False) -> str:
        """Return a random secret of letters and digits; `word` in lower case, as one token of a subject."""
        alphabet = string.digits + (string.ascii_lowercase if word else string.ascii_letters)
        made = "".join(secrets.choice(alphabet) for _ in range(CORE_CHARACTERS))
        self.secrets.append(Secret(kind, origin, made.encode(), may_rest_in))
        return made

    def text(self, kind: str, origin: str) -> str:
        """Return a random secret among characters that are hard to quote."""
        return among_hard_characters(self.core(kind, origin))

    def random_bytes(self, kind: str, origin: str, count: int = 32) -> bytes:
        made = secrets.token_bytes(count)
        self.take(kind, origin, made)
        return made

    def take(self, kind: str, origin: str, value: bytes) -> None:
        """Take a secret that somebody else has made."""
        self.secrets.append(Secret(kind, origin, value))

    def control(self, origin: str, *places: str, value: str | None = None) -> str:
        """Return something that has to be found in `places`: proof that the hunt gets there."""
        made = value or secrets.token_hex(CORE_CHARACTERS // 2)
        self.controls[Secret("control", origin, made.encode())] = frozenset(places)
        return made

    def take_message(self, message: Message, origin: str) -> None:
        """Take the credentials that a request or a response carries."""
        for name in type(message).model_fields:
            kind = SECRET_FIELDS.get(f"{type(message).__name__}.{name}")
            if kind is not None:
                self.take_credential(kind, f"{origin} {name}", getattr(message, name))

    def take_credential(self, kind: str, origin: str, text: str) -> None:
        """Take what makes a credential one: the secret in a key, the signature of a token, as bytes and as it stands.

        What comes before it are ids, which are everywhere.
        """
        if kind == "access token":
            signature = text.rpartition(".")[2]
            self.take(kind, origin, signature.encode())
            self.take(kind, origin, base64url_decode(signature))
        elif kind in {"API key", "refresh token"} and text.startswith((apikey.PREFIX, _REFRESH_PREFIX)):
            body = base64url_decode(text[len(apikey.PREFIX) :])
            secret = body[-apikey.SECRET_BYTES - _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
            self.take(kind, origin, secret)
            self.take(kind, origin, text[-apikey.SECRET_BYTES :].encode())

    def take_identities(self, folder: Path) -> None:
        """Take every key and password that the mesh was made with."""
        for file in folder.iterdir():
            if file.suffix == ".nkey":
                seed = file.read_text().strip()
                self.take("nkey seed", file.name, seed.encode())
                self.take("nkey seed", file.name, nkey.seed_bytes(_KIND_OF_SEED[seed[:2]], seed))
            elif file.suffix == ".kek":
                self.take("key encryption key", file.name, file.read_bytes())
            elif file.suffix == ".password":
                self.take("database password", file.name, file.read_bytes())
            elif file.suffix == ".pem":
                key = load_pem_private_key(file.read_bytes(), password=None)
                assert isinstance(key, Ed25519PrivateKey | MLDSA44PrivateKey)
                self.take("signing key", file.name, key.private_bytes_raw())

    async def take_vault_keys(self, database: asyncpg.Connection, key: bytes) -> None:
        """Take the private halves of the vault's sealing keys, unwrapped."""
        kek = LocalKey(key)
        for row in await database.fetch("select * from secrets.sealing_keys"):
            owner = Owner(OrgId.parse(row["org_id"]), WorkspaceId.parse(row["workspace_id"]))
            context = _sealing_key_context(owner, row["key_id"], row["public_key"])
            async with kek.unwrapped(row["wrapped"], context) as private:
                self.take("vault's private key", row["workspace_id"], bytes(private))


def among_hard_characters(core: str) -> str:
    return f"{LEFT}{core}{RIGHT}"


def standard_secret(key: bytes) -> str:
    """Return a signing secret as Standard Webhooks writes it."""
    return f"whsec_{base64.b64encode(key).decode()}"
