"""What the bridge refuses, each an error of the common tree, so that callers need to know no other.

    NotFound
    └── NoSuchAgreement         there is none of that id to which the caller's workspace is a side
    Conflict
    ├── NotAccepted             the agreement is not, or no longer, in force
    ├── ProposedByThem          the other workspace has made the same offer already
    └── AlreadyUsed             the nonce or the message id was used for another message
    PermissionDenied
    ├── NotYours                only the other side may do that
    └── NotTheSender            a message names another workspace as its source
    RefusedError
    └── NotAdmitted             it is in the stream, and did not come there through `send`
    InvalidSignature
    └── SignatureRefused        wrong key, or anything of the message differs from what was signed
    InvalidRequest
    ├── NotFresh                expired, from the future, or meant to live too long
    ├── WrongTarget             the target is not the agreement's other side
    └── NoHolderKey             the access token names no key to seal the answer to
    Undecryptable
    └── StoredKeyUnopenable     an agreement's key does not open in its own row

What always holds: no text contains anything of a message's body or of a key.
"""

from __future__ import annotations

from wardmesh.errors import (
    Conflict,
    InvalidRequest,
    InvalidSignature,
    NotFound,
    PermissionDenied,
    RefusedError,
    Undecryptable,
)


class NoSuchAgreement(NotFound):
    """There is no such agreement, or the caller's workspace is no side of it: the same to who asks."""

    advice = "Check the agreement's id; `wardmesh bridge list` shows those of your workspace."


class NotAccepted(Conflict):
    """The agreement is not in force: not accepted yet, or revoked."""

    advice = "Have the other workspace accept the agreement, or propose a new one."


class ProposedByThem(Conflict):
    """The other workspace has proposed the same already."""


class AlreadyUsed(Conflict):
    """A nonce or a message id stands for one message for ever."""

    advice = "Give every message an id and a nonce of its own, and sign it with them."


class NotYours(PermissionDenied):
    """Only the other side may do that."""

    advice = "The workspace that the agreement was offered to accepts it."


class NotTheSender(PermissionDenied):
    """A message names another workspace than the caller's as its source."""

    advice = "Send messages of your own workspace only."


class NotAdmitted(RefusedError):
    """The message is in the stream, and `send` never let it in: somebody else wrote it there."""

    code = "not_admitted"
    title = "The message was not admitted"
    advice = "Send messages with the operation bridge.send."


class SignatureRefused(InvalidSignature):
    """The message is not what was signed, or not with a key of the agreement."""

    advice = "Get the agreement's present key and sign the message with it, all of its fields."


class NotFresh(InvalidRequest):
    """The message's time has passed, has not come, or is too long."""

    title = "The message is not fresh"
    advice = "Sign it anew, with the present time and a lifetime of five minutes at the most; check the clock."


class WrongTarget(InvalidRequest):
    """The message's target is not the other side of the agreement that it names."""

    title = "The target is not the agreement's other side"
    advice = "Name the agreement with the workspace that the message is for."


class NoHolderKey(InvalidRequest):
    """Keys leave the bridge sealed to the caller's own key only, and the access token names none."""

    title = "There is no key to seal the answer to"
    advice = "Ask for an access token that names your X25519 key (its claim `cnf`); the client library does it."


class StoredKeyUnopenable(Undecryptable):
    """The agreement's key does not open in its own row: moved, damaged, or under another key file."""

    title = "The agreement's key cannot be opened"
    advice = "It was moved or damaged, or this mesh runs with another key file: give the request id to your operator."
