"""Files that a command is given to read, which may be any file at all."""

from __future__ import annotations

from pathlib import Path

from wardmesh_cli.failures import UsageFailed


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's content; refuse one that is larger than what is meant could be."""
    with path.open("rb") as handle:
        content = handle.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UsageFailed(f"{path} has more than {max_bytes} bytes.", "It is another file that is meant.")
    return content
