"""The profile: which mesh commands talk to and as whom, in one file that only its owner can read.

`wardmesh up` writes one into its data folder, `wardmesh login` adds a session to the nearest there is. Commands take
the profile of the nearest `.wardmesh/` folder, from the current folder upwards, else the user's own.

What always holds: the file is written whole, durably, with mode 0600. A profile that others could have written or can
read is refused, not used: it says where credentials are sent.

On failure: `CommandFailed`, which says which file and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wardmesh.contracts.auth import Session
from wardmesh.crypto.sealing import HolderKey
from wardmesh.ids import OrgId, WorkspaceId
from wardmesh_cli.failures import CommandFailed
from wardmesh_cli.private_files import is_private, write_private

FOLDER: Final = ".wardmesh"
FILE: Final = "profile.json"
_IN_JSON = ConfigDict(
    frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True
)


class Login(BaseModel):
    """A session, and the private key that its access token names."""

    model_config = _IN_JSON

    session: Session
    holder_key: Annotated[bytes, Field(repr=False)]

    @classmethod
    def of(cls, session: Session, holder: HolderKey) -> Self:
        return cls(session=session, holder_key=holder.private_bytes())

    @property
    def holder(self) -> HolderKey:
        return HolderKey.from_private_bytes(self.holder_key)


class Profile(BaseModel):
    """A mesh, and a credential for it."""

    model_config = _IN_JSON

    url: str
    """NATS addresses, joined by commas."""
    websocket_url: str | None = None
    http_url: str | None = None
    """The gateway."""
    ingest_url: str | None = None
    """The door for other people's events."""
    monitoring_url: str | None = None
    """The broker's monitoring page, which only its own machine reaches."""
    ca_file: Path | None = None
    organization: OrgId | None = None
    workspace: WorkspaceId | None = None
    """The workspace that commands are about, unless they name another."""
    api_key: Annotated[str | None, Field(repr=False)] = None
    workspace_key: Annotated[str | None, Field(repr=False)] = None
    """For backends in development (`wardmesh env`); commands do not use it."""
    login: Annotated[Login | None, Field(repr=False)] = None
    """Comes before the API key."""


def nearest(folder: Path, environ: Mapping[str, str]) -> Path | None:
    """Return the profile file that counts in `folder`, if there is one."""
    start = folder.absolute()
    for place in (start, *start.parents):
        candidate = place / FOLDER / FILE
        if candidate.is_file():
            return candidate
    own = own_file(environ)
    return own if own.is_file() else None


def own_file(environ: Mapping[str, str]) -> Path:
    """Return where the user's own profile is kept, whether it is there or not."""
    base = environ.get("XDG_CONFIG_HOME")
    folder = Path(base) if base else Path(environ.get("HOME") or Path.home()) / ".config"
    return folder / "wardmesh" / FILE


def load(file: Path) -> Profile:
    """Return the profile in `file`."""
    try:
        if not is_private(file):
            raise CommandFailed(
                f"{file} holds credentials and belongs to somebody else, or others can read it.",
                f"Make it yours alone (chmod 600 {file}), or remove it.",
            )
        return Profile.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CommandFailed(f"{file} can't be read ({error.strerror}).", "Check who it belongs to.") from error
    except ValidationError as error:
        raise CommandFailed(
            f"{file} is not a profile of wardmesh.", "Remove it, then run `wardmesh up` or `wardmesh login` again."
        ) from error


def save(file: Path, profile: Profile) -> None:
    """Write the profile, whole or not at all."""
    write_private(file, profile.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
