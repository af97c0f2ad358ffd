"""Every key and password of a mesh, made once and kept in one folder.

Users of the broker (nkey seeds), the callout's issuer and curve keys, the local key encryption keys, the keys that sign
access tokens and log checkpoints, the passwords of the database.

What always holds: the folder appears whole or not at all, its files are readable by their owner only, and a second run
finds what the first made. What was made once is never made again: a new key encryption key in the place of a lost one
would turn every secret into noise without a word. A version that needs a key that no earlier one had makes it.

On failure: `IdentityMissing` and `IdentityDamaged` name the file that has to be restored.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from wardmesh.durable_files import PRIVATE_FOLDER, sync_folder, write_private
from wardmesh.server.broker import GATEWAY, OPERATOR, PROVISIONER
from wardmesh.server.nkey import Kind, new_seed, public_key, seed_bytes
from wardmesh.subjects import SERVICES
from wardmesh_cli.embedded.broker import CALLOUT_USER, SYSTEM_USER, PublicKeys
from wardmesh_cli.embedded.errors import IdentityDamaged, IdentityMissing

KEK_BYTES: Final = 32
PASSWORD_BYTES: Final = 24
SUPERUSER: Final = "postgres"

_MANIFEST = "MADE"  # the names of all that was ever made here
_STATIC_USERS = (*SERVICES, GATEWAY, OPERATOR, PROVISIONER)


@dataclass(frozen=True, slots=True)
class Identities:
    """The files of a mesh's identities; `make` makes what has never been made."""

    folder: Path

    def make(self, *, anew: bool = True) -> None:
        """Make what has never been made; raise `IdentityMissing` or `IdentityDamaged` if something was, and isn't now.

        If not `anew`, there is data that was written with identities, so the folder has to be there.
        """
        leftover = self.folder.with_name(f".{self.folder.name}.new")
        if leftover.exists():  # a first run that was interrupted; nothing can depend on it yet
            shutil.rmtree(leftover)
        if self.folder.exists() and any(self.folder.iterdir()):
            manifest = self.folder / _MANIFEST
            if not manifest.exists():  # what is lost would look like what was never made
                raise IdentityMissing(manifest)
            self._complete(self.folder, set(manifest.read_text(encoding="utf-8", errors="replace").split()))
            return
        if not anew:
            raise IdentityMissing(self.folder)
        leftover.mkdir(mode=PRIVATE_FOLDER, parents=True)
        self._complete(leftover, set())
        leftover.rename(self.folder)
        sync_folder(self.folder.parent)

    @staticmethod
    def _complete(folder: Path, made: set[str]) -> None:
        for name, kind in _KINDS.items():
            file = folder / name
            if file.exists():
                kind.check(file)
            elif name in made:
                raise IdentityMissing(file)
            else:
                write_private(file, kind.make())
        if not made >= _KINDS.keys():
            write_private(folder / _MANIFEST, "\n".join(sorted(made | _KINDS.keys())).encode() + b"\n")

    def seed_file(self, user: str) -> Path:
        """The nkey seed of a user of the broker: a service, `gateway`, `operator`, `callout` or `system`."""
        return self._file(f"{user}.nkey")

    @property
    def issuer_seed_file(self) -> Path:
        """The account key that signs the callout's answers."""
        return self._file("callout-issuer.nkey")

    @property
    def xkey_seed_file(self) -> Path:
        """The curve key that the broker seals requests to the callout with."""
        return self._file("callout-xkey.nkey")

    @property
    def token_signing_key_file(self) -> Path:
        """The Ed25519 key that signs access tokens, PEM."""
        return self._file("token-signing.pem")

    @property
    def log_signing_key_file(self) -> Path:
        """The Ed25519 key that signs the log's checkpoints, PEM."""
        return self._file("log-signing.pem")

    @property
    def log_mldsa_key_file(self) -> Path:
        """The ML-DSA-44 key that signs the log's checkpoints too, PEM."""
        return self._file("log-signing-mldsa.pem")

    def kek_file(self, service: str) -> Path:
        """The service's local key encryption key, 32 raw bytes."""
        return self._file(f"{service}.kek")

    def password(self, role: str) -> str:
        """The password of a database role: `postgres` or `wardmesh_{service}`."""
        return self._file(f"{role}.password").read_text()

    def public_keys(self) -> PublicKeys:
        """What the broker has to know of all this."""
        return PublicKeys(
            static_users={user: _public(Kind.USER, self.seed_file(user)) for user in _STATIC_USERS},
            callout_user=_public(Kind.USER, self.seed_file(CALLOUT_USER)),
            system_user=_public(Kind.USER, self.seed_file(SYSTEM_USER)),
            callout_issuer=_public(Kind.ACCOUNT, self.issuer_seed_file),
            callout_xkey=_public(Kind.CURVE, self.xkey_seed_file),
        )

    def _file(self, name: str) -> Path:
        if name not in _KINDS:
            raise KeyError(f"no identity is called {name}")
        return self.folder / name


def database_role(service: str) -> str:
    """Return the role that a service logs in to the database with."""
    return f"wardmesh_{service}"


def _public(kind: Kind, seed_file: Path) -> str:
    return public_key(kind, seed_file.read_text().strip())


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of file is made, and what it must hold. `read` raises `ValueError` if it holds something else."""

    what: str
    make: Callable[[], bytes]
    read: Callable[[bytes], object]

    def check(self, file: Path) -> None:
        try:
            self.read(file.read_bytes())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # Not the parser's own words: they may quote what is in the file.
            raise IdentityDamaged(file, f"it is not {self.what}") from None


def _nkey(kind: Kind) -> _Kind:
    return _Kind(
        f"the seed of an nkey of kind {kind.name.lower()}",
        lambda: new_seed(kind).encode() + b"\n",
        lambda content: seed_bytes(kind, content.decode("ascii").strip()),
    )


def _read_kek(content: bytes) -> None:
    if len(content) != KEK_BYTES:
        raise ValueError


def _read_password(content: bytes) -> None:
    if not content or not content.decode("ascii").isprintable():
        raise ValueError


def _make_ed25519() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_ed25519(content: bytes) -> None:
    if not isinstance(load_pem_private_key(content, password=None), Ed25519PrivateKey):
        raise TypeError


def _make_mldsa() -> bytes:
    return MLDSA44PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_mldsa(content: bytes) -> None:
    if not isinstance(load_pem_private_key(content, password=None), MLDSA44PrivateKey):
        raise TypeError


_KEK: Final = _Kind(f"{KEK_BYTES} raw bytes", lambda: os.urandom(KEK_BYTES), _read_kek)
_PASSWORD: Final = _Kind("a password", lambda: secrets.token_hex(PASSWORD_BYTES).encode(), _read_password)
_ED25519: Final = _Kind("an Ed25519 key in PEM", _make_ed25519, _read_ed25519)
_MLDSA: Final = _Kind("an ML-DSA-44 key in PEM", _make_mldsa, _read_mldsa)

_KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        **{f"{user}.nkey": _nkey(Kind.USER) for user in (*_STATIC_USERS, CALLOUT_USER, SYSTEM_USER)},
        "callout-issuer.nkey": _nkey(Kind.ACCOUNT),
        "callout-xkey.nkey": _nkey(Kind.CURVE),
        "token-signing.pem": _ED25519,
        "log-signing.pem": _ED25519,
        "log-signing-mldsa.pem": _MLDSA,
        **{f"{service}.kek": _KEK for service in SERVICES},
        f"{SUPERUSER}.password": _PASSWORD,
        **{f"{database_role(service)}.password": _PASSWORD for service in SERVICES},
    }
)
