"""Pure rules: who is a side of what, and which message may pass.

A message is judged when it is sent and again when it comes out of the stream, in one order: the sides, the state of the
agreement, the signature. Freshness is judged after the signature, and only when the message is sent: it is admitted
then, and the store remembers. So a service that was down for longer than a message lives loses nothing that was
acknowledged, and a stream that somebody else wrote into delivers nothing that was not.

On failure: the errors of `wardmesh_bridge.errors`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from wardmesh import bridge_signing
from wardmesh.contracts.bridge import MAX_MESSAGE_LIFETIME_SECONDS, Agreement, AgreementState, SignedMessage
from wardmesh.errors import InvalidSignature
from wardmesh.ids import EventId, MessageId, WorkspaceId
from wardmesh.subjects import BridgeSubject
from wardmesh_bridge.errors import (
    AlreadyUsed,
    NoSuchAgreement,
    NotAccepted,
    NotFresh,
    NotTheSender,
    SignatureRefused,
    WrongTarget,
)

MAX_LIFETIME: Final = timedelta(seconds=MAX_MESSAGE_LIFETIME_SECONDS)
CLOCK_SKEW: Final = timedelta(seconds=30)
"""How far a sender's clock may be ahead of ours. It never lengthens a message's life."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An agreement's key, wrapped."""

    key_id: str
    kek_id: str
    wrapped: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Admission:
    """That a message was admitted: which one, and whether it was delivered or refused since."""

    message_id: MessageId
    signature: bytes = field(repr=False)
    settled: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What came out of the stream and was not let in. Sender and receiver are those of the subject."""

    id: EventId
    sender: WorkspaceId
    receiver: WorkspaceId
    subject: str
    reason: str
    payload: bytes = field(repr=False)


def other_side(agreement: Agreement, side: WorkspaceId) -> WorkspaceId:
    """Return the workspace that `side` has agreed with."""
    return agreement.target if side == agreement.source else agreement.source


def check_sides(message: SignedMessage, agreement: Agreement | None) -> Agreement:
    """The agreement is there, in force, and between the two workspaces that the message names."""
    if agreement is None or message.source not in (agreement.source, agreement.target):
        raise NoSuchAgreement
    if message.target != other_side(agreement, message.source):
        raise WrongTarget
    if agreement.state is not AgreementState.ACCEPTED:
        raise NotAccepted
    return agreement


def check_signature(message: SignedMessage, key: bytes) -> None:
    """All that is signed is as it was signed, with `key`."""
    try:
        bridge_signing.verify(key, message)
    except InvalidSignature as error:
        raise SignatureRefused from error


def check_fresh(message: SignedMessage, now: datetime) -> None:
    """The message's time is now."""
    lifetime = message.expires_at - message.issued_at
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise NotFresh(f"A message lives between its issue and its expiry, at most {MAX_LIFETIME.total_seconds():g} s.")
    if message.expires_at <= now:
        raise NotFresh("The message has expired: sign it anew, with the present time.")
    if message.issued_at > now + CLOCK_SKEW:
        raise NotFresh("The message comes from the future: check the clock that it was signed by.")


def check_sender(message: SignedMessage, sender: WorkspaceId) -> None:
    """Whoever sends it, sends it in its own name."""
    if message.source != sender:
        raise NotTheSender


def check_subject(message: SignedMessage, subject: BridgeSubject) -> None:
    """The message is where it says that it is. Both are ours to write, so a difference is somebody's doing."""
    if (message.source, message.target, message.type) != (subject.source, subject.target, subject.type):
        raise SignatureRefused("The message is not the one of its subject.")


def is_same(message: SignedMessage, admission: Admission) -> bool:
    """Tell whether `admission` is of this very message: its signature stands for all of it."""
    return message.id == admission.message_id and hmac.compare_digest(message.signature, admission.signature)


def check_not_used(message: SignedMessage, admission: Admission) -> None:
    """Sending a message again is harmless and does nothing; another one under its nonce is refused."""
    if not is_same(message, admission):
        raise AlreadyUsed
