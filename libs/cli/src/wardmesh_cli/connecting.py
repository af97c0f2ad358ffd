"""From options, environment and profile to an open mesh.

Each setting is taken from the first of: the command's options, the environment (`WARDMESH_URL`, `WARDMESH_API_KEY`,
`WARDMESH_WORKSPACE`, `WARDMESH_CA_FILE`), the profile.

What always holds:
- A credential goes where it belongs. A profile's is not sent to an address that came from elsewhere, and one that came
  from elsewhere is not sent to a profile's address unless that profile is of the same organization: a profile may lie
  in any folder above the current one.
- An API key is read from a file or the environment, never from the command line, which others on the machine can see.
- `resolve` decides, without I/O.

On failure: `CommandFailed` or `UsageFailed`, which say what is missing and how to give it.
"""

from __future__ import annotations

import enum
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2

import wardmesh
from wardmesh.client.mesh import API_KEY_VARIABLE, DEFAULT_URL, URL_VARIABLE
from wardmesh.contracts import auth
from wardmesh.crypto.apikey import ApiKey
from wardmesh.crypto.errors import CryptoError
from wardmesh.crypto.sealing import HolderKey
from wardmesh.errors import CredentialRefused
from wardmesh.ids import OrgId, Scope, WorkspaceId
from wardmesh.tls import CA_FILE_VARIABLE, trusting
from wardmesh_cli import profile as profiles
from wardmesh_cli.door import open_door
from wardmesh_cli.failures import CommandFailed, UsageFailed
from wardmesh_cli.private_files import locked
from wardmesh_cli.profile import Login, Profile

WORKSPACE_VARIABLE: Final = "WARDMESH_WORKSPACE"
FRESH_ENOUGH: Final = timedelta(minutes=2)
"""How long an access token must still count for a command to begin with it."""

Connect = Callable[..., AbstractAsyncContextManager[wardmesh.Mesh]]


class Where(enum.Enum):
    """Which kind of scope a command is asked in."""

    WORKSPACE = enum.auto()
    ORGANIZATION = enum.auto()
    EITHER = enum.auto()
    """The workspace, or with `--org` the organization."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What may be said on the command line about which mesh, and as whom."""

    url: str | None = None
    api_key_file: Path | None = None
    workspace: WorkspaceId | None = None
    org: bool = False
    ca_file: Path | None = None
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a command finds around itself; tests put something else here."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    folder: Path = field(default_factory=Path.cwd)
    connect: Connect = wardmesh.connect
    http: httpx2.AsyncBaseTransport | None = None
    web: httpx2.BaseTransport | None = None

    def profile_file(self, data: Path | None) -> Path | None:
        """Return the file of the profile that counts: the data folder's that was named, else the nearest."""
        if data is None:
            return profiles.nearest(self.folder, self.environ)
        file = data / profiles.FILE
        if not file.is_file():
            raise CommandFailed(f"{data} has no profile.", f"Run `wardmesh up --data {data}` first.")
        return file


@dataclass(frozen=True, slots=True)
class Target:
    """A mesh to connect to, a credential for it, and the scope to ask in."""

    url: str
    scope: Scope
    api_key: str | None = field(default=None, repr=False)
    login: Login | None = field(default=None, repr=False)
    http_url: str | None = None
    ca_file: Path | None = None
    profile_file: Path | None = None


def resolve(
    options: ConnectionOptions,
    environ: Mapping[str, str],
    profile: Profile | None,
    where: Where,
    *,
    profile_file: Path | None = None,
    key_in_file: str | None = None,
) -> Target:
    """Decide what to connect to. `key_in_file` is what the file that the options name holds."""
    api_key = key_in_file or environ.get(API_KEY_VARIABLE) or None
    url = options.url or environ.get(URL_VARIABLE)
    login = None
    if api_key is None and profile is not None:
        login, api_key = profile.login, profile.api_key
        if url not in (None, profile.url):
            raise UsageFailed(
                f"The credential in the profile is for {profile.url}, not for the address that was named.",
                f"Name the credential for that one as well: {API_KEY_VARIABLE} or --api-key-file.",
            )
    if login is not None:
        api_key, own_scope = None, login.session.scope
        organization = profile.organization if profile is not None else None
    elif api_key is not None:
        try:
            key = ApiKey.parse(api_key.strip())
        except CryptoError as error:
            raise CredentialRefused(f"This cannot be an API key: {error}.") from error
        own_scope, organization = key.scope, key.organization
    else:
        raise CommandFailed(
            "There is no credential.",
            f"Run this where `wardmesh up` was run, log in (`wardmesh login`), set {API_KEY_VARIABLE}, "
            "or name a file with --api-key-file.",
        )
    fitting = profile if profile is not None and organization == profile.organization else None
    return Target(
        url=url or (fitting.url if fitting else DEFAULT_URL),
        scope=_scope(options, environ, fitting, where, own_scope, organization),
        api_key=api_key,
        login=login,
        http_url=fitting.http_url if fitting else None,
        ca_file=options.ca_file or _path(environ.get(CA_FILE_VARIABLE)) or (fitting.ca_file if fitting else None),
        profile_file=profile_file,
    )


def _scope(
    options: ConnectionOptions,
    environ: Mapping[str, str],
    profile: Profile | None,
    where: Where,
    own: Scope,
    organization: OrgId | None,
) -> Scope:
    if options.org and options.workspace is not None:
        raise UsageFailed("--org and --workspace contradict each other.", "Give one of them.")
    if where is Where.ORGANIZATION or (where is Where.EITHER and options.org):
        if organization is None:
            raise UsageFailed("Which organization is meant is not known.", "Log in to it: `wardmesh login`.")
        return organization
    named = options.workspace or _workspace(environ.get(WORKSPACE_VARIABLE))
    workspace = named or (own if isinstance(own, WorkspaceId) else None) or (profile.workspace if profile else None)
    if workspace is not None:
        return workspace
    if where is Where.EITHER:
        return own
    raise UsageFailed(
        "Which workspace is meant is not known.",
        f"Name one with --workspace or {WORKSPACE_VARIABLE}; `wardmesh workspace list` shows them.",
    )


@asynccontextmanager
async def opened(target: Target, around: Surroundings) -> AsyncIterator[wardmesh.Mesh]:
    """The mesh, connected, while the block runs."""
    tls = None if target.ca_file is None else tls_of(target.ca_file)
    how: dict[str, Any] = {"tls": tls, "name": "wardmesh-cli"}
    if target.login is not None:
        login = await _fresh_login(target, around, tls)
        how |= {"token": login.session.token, "holder": login.holder}
    else:
        how |= {"api_key": target.api_key, "scope": target.scope}
    async with around.connect(target.url, **how) as mesh:
        yield mesh


async def _fresh_login(target: Target, around: Surroundings, tls: ssl.SSLContext | None) -> Login:
    """Return a login for the target's scope whose token counts for a while, and keep it in the profile."""
    file, http_url = target.profile_file, target.http_url
    if file is None or http_url is None:
        raise CommandFailed("The profile does not say where the gateway is.", "Log in again: `wardmesh login`.")
    with locked(file):
        present = profiles.load(file)  # another command may have refreshed it meanwhile
        login = present.login
        if login is None:
            raise CommandFailed("The login has ended.", "Log in again: `wardmesh login`.")
        if login.session.scope == target.scope and datetime.now(UTC) + FRESH_ENOUGH < login.session.expires_at:
            return login
        holder = HolderKey.generate()
        request = auth.Refresh(
            refresh_token=login.session.refresh_token, scope=target.scope, holder_key=holder.public_bytes
        )
        async with open_door(http_url, tls=tls, transport=around.http) as door:
            session = await door.call(auth.REFRESH, request)
        fresh = Login.of(session, holder)
        profiles.save(file, present.model_copy(update={"login": fresh}))
        return fresh


def target_of(options: ConnectionOptions, around: Surroundings, where: Where) -> Target:
    """Read the profile and the key file that count, and decide."""
    file = around.profile_file(options.data)
    profile = None if file is None else profiles.load(file)
    key = None if options.api_key_file is None else read_key_file(options.api_key_file)
    target = resolve(options, around.environ, profile, where, profile_file=file, key_in_file=key)
    return replace(target, ca_file=target.ca_file and target.ca_file.absolute())


def read_key_file(file: Path) -> str:
    """Return the API key in a file."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{file} can't be read as an API key.", "Check its name and whose it is.") from error


def tls_of(ca_file: Path) -> ssl.SSLContext:
    """Return TLS 1.2 or later that trusts the authority in `ca_file` and nobody else."""
    try:
        return trusting(ca_file)
    except OSError as error:
        raise CommandFailed(f"{ca_file} is not a readable certificate authority.", "Name its PEM file.") from error


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _workspace(text: str | None) -> WorkspaceId | None:
    if not text:
        return None
    try:
        return WorkspaceId.parse(text)
    except ValueError as error:
        raise UsageFailed(f"{WORKSPACE_VARIABLE}: {error}.", "Correct it.") from error
