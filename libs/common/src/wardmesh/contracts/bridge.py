"""Contracts of the bridge service: signed messages between workspaces that agreed to exchange them.

One workspace's admin proposes an agreement, the other's accepts; each side then gets the agreement's key, sealed to
its caller. Every message is signed with it over the fields of `wardmesh.crypto.bridge`, verified by the service
before it is stored, and once more by the receiver.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from wardmesh.contracts.fields import AckToken, Batch, DottedType, Limit, Time, Token, WaitSeconds
from wardmesh.contracts.operation import (
    MAX_DEADLINE,
    PEOPLE_AND_SERVICES,
    WORKSPACE,
    AnyContract,
    AuditRule,
    Category,
    Durability,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.ids import AgreementId, MessageId, WorkspaceId

MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_BODY_BYTES: Final = 900 * 1024
"""Under NATS' default max_payload of 1 MiB, headers included."""
MAX_SEND: Final = 128
NONCE_BYTES: Final = 16
MAX_MESSAGE_LIFETIME_SECONDS: Final = 300
"""Between a message's issue and its expiry; nonces are remembered for longer than that."""


class AgreementState(enum.StrEnum):
    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    REVOKED = "revoked"


class Kind(enum.StrEnum):
    """What a message is in a conversation."""

    EVENT = "event"
    REQUEST = "request"
    REPLY = "reply"


class Propose(Message):
    """Offer `target` to exchange messages, in both directions."""

    target: WorkspaceId


class Agreement(Message):
    id: AgreementId
    source: WorkspaceId
    target: WorkspaceId
    state: AgreementState
    created_at: Time
    accepted_at: Time | None = None


class NameAgreement(Message):
    agreement: AgreementId


class ListAgreements(Message):
    after: AgreementId | None = None
    limit: Limit = 100


class Agreements(Message):
    agreements: tuple[Agreement, ...]


class SealedBridgeKey(Message):
    """The agreement's HMAC key, sealed to the caller's own."""

    agreement: AgreementId
    key_id: Token
    sealed: Annotated[bytes, Field(repr=False)]


class SignedMessage(Message):
    """One message with its signature. `body` travels in base64."""

    agreement: AgreementId
    key_id: Token
    id: MessageId
    source: WorkspaceId
    target: WorkspaceId
    type: DottedType
    kind: Kind = Kind.EVENT
    nonce: Annotated[bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    issued_at: Time
    expires_at: Time
    correlation: MessageId | None = None
    content_type: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")] = "application/json"
    body: Annotated[bytes, Field(max_length=MAX_MESSAGE_BYTES, repr=False)]
    signature: Annotated[bytes, Field(min_length=32, max_length=32)]


class Send(Message):
    """All of them or none: one that is refused refuses the batch, and `violations` names it."""

    messages: Annotated[tuple[SignedMessage, ...], Field(min_length=1, max_length=MAX_SEND)]


class Sent(Message):
    """The messages' ids, in order; every one of them is on disk."""

    ids: tuple[MessageId, ...]


class Receive(Message):
    """A long poll: acknowledge what was done, hand back what was not, and wait for the next.

    Without `source` and `type`, everything that others sent to this workspace.
    """

    group: Token
    source: WorkspaceId | None = None
    type: DottedType | None = None
    batch: Batch = 64
    wait_seconds: WaitSeconds = 20.0
    acks: tuple[AckToken, ...] = ()
    naks: tuple[AckToken, ...] = ()


class DeliveredMessage(Message):
    message: SignedMessage
    delivery: int
    ack: AckToken


class Received(Message):
    messages: tuple[DeliveredMessage, ...]


_MANAGE = Permission("bridge.manage", Level.ADMIN, kinds=PEOPLE_AND_SERVICES)


def _managed(action: str, target: str) -> AuditRule:
    return AuditRule(Category.BRIDGE, action, Durability.IN_TRANSACTION, (target,))


PROPOSE = operation(
    "bridge",
    "propose",
    Propose,
    Agreement,
    summary="Offer another workspace to exchange messages",
    access=_MANAGE,
    scopes=WORKSPACE,
    audit=_managed("agreement.propose", "target"),
    idempotent=True,
)
ACCEPT = operation(
    "bridge",
    "accept",
    NameAgreement,
    Agreement,
    summary="Accept such an offer",
    access=_MANAGE,
    scopes=WORKSPACE,
    audit=_managed("agreement.accept", "agreement"),
    idempotent=True,
)
REVOKE = operation(
    "bridge",
    "revoke",
    NameAgreement,
    Agreement,
    summary="End an agreement, from either side",
    access=_MANAGE,
    scopes=WORKSPACE,
    audit=_managed("agreement.revoke", "agreement"),
    idempotent=True,
)
LIST = operation(
    "bridge",
    "list",
    ListAgreements,
    Agreements,
    summary="List the workspace's agreements",
    access=Permission("bridge.list", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.BRIDGE, "agreement.list", Durability.QUEUED),
    idempotent=True,
)
KEY = operation(
    "bridge",
    "key",
    NameAgreement,
    SealedBridgeKey,
    summary="Get the key of an agreement, sealed to the caller",
    access=Permission("bridge.use", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.SECRET_ACCESS, "agreement.key", Durability.BEFORE_ANSWER, ("agreement",)),
    idempotent=True,
)
SEND = operation(
    "bridge",
    "send",
    Send,
    Sent,
    summary="Send signed messages, durably",
    access=Permission("bridge.send", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.BRIDGE, "message.send", Durability.IN_TRANSACTION),
    idempotent=True,
    max_body_bytes=MAX_BODY_BYTES,
)
FETCH = operation(
    "bridge",
    "fetch",
    Receive,
    Received,
    summary="Receive messages",
    access=Permission("bridge.receive", Level.MEMBER),
    scopes=WORKSPACE,
    audit=AuditRule(Category.BRIDGE, "message.fetch", Durability.REFUSALS_ONLY, ("group",)),
    idempotent=True,
    deadline=MAX_DEADLINE,
)

CONTRACTS: tuple[AnyContract, ...] = (PROPOSE, ACCEPT, REVOKE, LIST, KEY, SEND, FETCH)
