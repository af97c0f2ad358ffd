"""What the test plugin may be told: on the command line, in the environment, in pytest's ini file, in that order.

| option                     | environment                    | ini                       | default            |
| `--wardmesh-backend`       | `WARDMESH_TEST_BACKEND`        | `wardmesh_backend`        | `embedded`         |
| `--wardmesh-nats-image`    | `WARDMESH_TEST_NATS_IMAGE`     | `wardmesh_nats_image`     | `nats:2.15-alpine` |
| `--wardmesh-postgres-image`| `WARDMESH_TEST_POSTGRES_IMAGE` | `wardmesh_postgres_image` | `postgres:18-alpine` |

On failure: `pytest.UsageError` for a backend that there isn't, before any test runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pytest

EMBEDDED: Final = "embedded"
CONTAINERS: Final = "containers"
BACKENDS: Final = (EMBEDDED, CONTAINERS)
DEFAULT_NATS_IMAGE: Final = "nats:2.15-alpine"
DEFAULT_POSTGRES_IMAGE: Final = "postgres:18-alpine"

_DECLARED: Final = (
    ("backend", EMBEDDED, "what NATS and PostgreSQL run as: embedded (from wheels) or containers (needs Docker)"),
    ("nats-image", DEFAULT_NATS_IMAGE, "NATS's image, for the backend containers"),
    ("postgres-image", DEFAULT_POSTGRES_IMAGE, "PostgreSQL's image, for the backend containers"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What was chosen."""

    backend: str
    nats_image: str
    postgres_image: str


def declare(parser: pytest.Parser) -> None:
    """Add the options to pytest's."""
    group = parser.getgroup("wardmesh", "a wardmesh mesh in fixtures")
    for name, default, text in _DECLARED:
        group.addoption(f"--wardmesh-{name}", default=None, help=f"{text} [{default}]")
        parser.addini(f"wardmesh_{name.replace('-', '_')}", text, default="")


def chosen(config: pytest.Config, environ: Mapping[str, str] = os.environ) -> Options:
    """Return what was chosen; raise `pytest.UsageError` if there is no such backend."""

    def choose(name: str, default: str) -> str:
        underscored = name.replace("-", "_")
        candidates = (
            config.getoption(f"--wardmesh-{name}"),
            environ.get(f"WARDMESH_TEST_{underscored.upper()}"),
            config.getini(f"wardmesh_{underscored}"),
        )
        return next((str(candidate) for candidate in candidates if candidate), default)

    backend, nats_image, postgres_image = (choose(name, default) for name, default, _ in _DECLARED)
    if backend not in BACKENDS:
        raise pytest.UsageError(f"there is no wardmesh backend called {backend!r}: choose {' or '.join(BACKENDS)}")
    return Options(backend, nats_image, postgres_image)
