"""Witnesses: who cosigns this mesh's logs, and this mesh as the witness of others' (C2SP tlog-witness).

`add_checkpoint` carries the specification's request as it arrived at the HTTP door, and answers what the door is to
say. That the log does not begin where the witness is belongs to the protocol and is an answer; all else that is refused
is an error with the status that the specification names.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

from wardmesh.contracts.audit.rules import READ, reading
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    ORG,
    AnyContract,
    AuditRule,
    Category,
    Credential,
    Durability,
    Empty,
    Message,
    operation,
)
from wardmesh.crypto.tlog_witness import MAX_REQUEST_BYTES

MAX_ADD_CHECKPOINT_BYTES: Final = 2 * MAX_REQUEST_BYTES
"""In base64, inside JSON."""


class AddCheckpoint(Message):
    """A request to cosign a checkpoint: old size, consistency proof, and the checkpoint, signed by its log."""

    request: Annotated[bytes, Field(max_length=MAX_REQUEST_BYTES)]


class Cosigned(Message):
    """The cosignature lines, or the size that the log has to begin from."""

    lines: str = ""
    known_size: int | None = None
    """Of the latest checkpoint that was cosigned, if the request does not extend that one; nothing was cosigned."""


class WitnessState(Message):
    """A witness of this mesh's logs, and how far it has followed this one."""

    name: str
    verifier_key: str
    size: int | None = None
    cosigned_at: datetime | None = None


class Witnesses(Message):
    """`quorum` is what the policy asks for: `none`, or the name of a witness or a group."""

    witnesses: tuple[WitnessState, ...] = ()
    quorum: str = "none"
    own_keys: tuple[str, ...] = ()
    """The verifier keys of this mesh as a witness of other logs; none if it witnesses none."""


ADD_CHECKPOINT = operation(
    "audit",
    "add_checkpoint",
    AddCheckpoint,
    Cosigned,
    summary="Cosign the checkpoint of a log that this mesh witnesses",
    access=Credential("the checkpoint is signed by its log, whose key this mesh was told"),
    scopes=ORG,
    audit=AuditRule(Category.ADMINISTRATION, "log.cosign", Durability.IN_TRANSACTION),
    idempotent=False,
    max_body_bytes=MAX_ADD_CHECKPOINT_BYTES,
)
WITNESSES = operation(
    "audit",
    "witnesses",
    Empty,
    Witnesses,
    summary="List the witnesses of the log, and how far each has followed it",
    access=READ,
    scopes=ANY_SCOPE,
    audit=reading("audit.witnesses"),
    idempotent=True,
)

CONTRACTS: tuple[AnyContract, ...] = (ADD_CHECKPOINT, WITNESSES)
