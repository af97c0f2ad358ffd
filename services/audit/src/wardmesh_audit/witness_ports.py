"""What witnessing needs from outside: stores, and a way to the witnesses of our logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.note import Signature
from wardmesh.crypto.vkey import KeyIdentity
from wardmesh.ids import Scope
from wardmesh.server.context import Call
from wardmesh_audit.witness_rules import Latest


@dataclass(frozen=True, slots=True)
class Reached:
    """The largest size of a log that a witness has cosigned, and when (seconds since 1970)."""

    size: int
    time: int


class CosignatureStore(Protocol):
    """What witnesses have said of our logs. Nothing is ever changed or removed."""

    async def lines(self, scope: Scope, checkpoint: Checkpoint, keys: Sequence[KeyIdentity]) -> Sequence[Signature]:
        """Return the lines of these keys on that very checkpoint."""

    async def reached(self, scope: Scope, keys: Sequence[KeyIdentity]) -> Mapping[KeyIdentity, Reached]:
        """Return how far each of these keys has followed the scope's log; one that has not is left out."""

    async def keep(self, scope: Scope, checkpoint: Checkpoint, lines: Mapping[Signature, int]) -> None:
        """Keep lines with their times. MUST be durable on return; one that is there already stays as it is."""


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """What a witness answered, unread."""

    status: int
    body: bytes


class WitnessUnreachable(Exception):
    """A witness did not answer, or not within its bounds."""


class WitnessDoor(Protocol):
    """The way to witnesses."""

    async def add_checkpoint(self, url: str, request: bytes) -> WitnessAnswer:
        """Ask the witness whose submission prefix is `url`; raise `WitnessUnreachable`.

        MUST NOT follow redirects, and MUST NOT read more than an answer may have.
        """


class WitnessedStore(Protocol):
    """How far other people's logs have been cosigned by us."""

    async def advance(self, call: Call, checkpoint: Checkpoint, note: str, allow: Callable[[Latest], None]) -> None:
        """Go on to `checkpoint`, which `note` is, if `allow` returns for the latest one of its origin.

        MUST be one transaction that no other of this origin overtakes between the look and the change, with the call's
        audit event in it. MUST be durable on return. If `allow` raises, nothing changes.
        """


class WitnessAlarm(Protocol):
    """Whoever has to hear that a witness knows another log of ours than we do."""

    async def disputed(self, scope: Scope, witness: str) -> None:
        """Tell that a witness contradicts us. MUST NOT raise, MUST end within seconds."""

    def agreed(self, scope: Scope, witness: str) -> None:
        """Take it back: that witness has cosigned the log."""
