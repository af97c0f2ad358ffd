"""Commands against a mesh in memory: `wardmesh("secret", "put", …)` runs one as a shell would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from fake_mesh import World, api_key
from typer.testing import CliRunner

from wardmesh_cli import profile as profiles
from wardmesh_cli.application import build
from wardmesh_cli.connecting import Surroundings
from wardmesh_cli.profile import Profile


@dataclass
class Shell:
    """A folder, an environment, and the command."""

    folder: Path
    world: World
    environ: dict[str, str] = field(default_factory=dict)
    http: Callable[[httpx2.Request], httpx2.Response] | None = None

    def __call__(self, *arguments: str, stdin: str | bytes = "") -> Ran:
        around = Surroundings(
            environ=self.environ,
            folder=self.folder,
            connect=self.world.connect,
            http=None if self.http is None else httpx2.MockTransport(self.http),
            web=None if self.http is None else httpx2.MockTransport(self.http),
        )
        result = CliRunner().invoke(build(), list(arguments), input=stdin, obj=around, prog_name="wardmesh")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    @property
    def profile_file(self) -> Path:
        return self.folder / profiles.FOLDER / profiles.FILE

    def with_profile(self, **fields: Any) -> Profile:
        """Write the profile that `wardmesh up` would have left."""
        known = {
            "url": "nats://127.0.0.1:4222",
            "http_url": "http://127.0.0.1:8080",
            "ingest_url": "http://127.0.0.1:8081",
            "organization": self.world.organization,
            "workspace": self.world.workspace,
            "api_key": api_key(self.world.organization, self.world.organization),
        }
        profile = Profile(**known | fields)
        profiles.save(self.profile_file, profile)
        return profile


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)
