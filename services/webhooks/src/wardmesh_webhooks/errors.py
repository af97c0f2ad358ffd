"""What can be wrong with something that came in by HTTP.

    InvalidSignature (400, wardmesh.errors)
    └── Unverified          nothing that came may be believed; has a `Reason`
    RequestError
    ├── SourceUnknown       404: no such workspace or no such source, which of them is not said
    ├── MethodRefused       405
    └── ContentRefused      415
    InvalidRequest (422)
    └── SecretRefused       a source's signing secret is not one of its scheme's
    InternalError (500)
    └── SourceUnusable      its signing secret does not open

What always holds: no header's value and no part of a body is in a message. The reason of an `Unverified` goes to the
tenant's audit log; the sender is told only what it may learn: why an honest sender's attempt failed.
"""

from __future__ import annotations

import enum

from wardmesh.errors import InternalError, InvalidRequest, InvalidSignature, NotFound, RequestError


class Reason(enum.StrEnum):
    """Why a signature was not accepted."""

    MISSING = "signature_missing"
    MALFORMED = "signature_malformed"
    MISMATCH = "signature_mismatch"
    TOO_OLD = "timestamp_too_old"
    IN_FUTURE = "timestamp_in_future"


_ADVICE: dict[Reason, str] = {
    Reason.MISSING: "The request carries no signature of the source's scheme; check how the source is set up.",
    Reason.MALFORMED: "The signature's headers are not of the source's scheme; check how the source is set up.",
    Reason.MISMATCH: "The signature does not match the body; check the signing secret, and send the bytes as signed.",
    Reason.TOO_OLD: "The signature is valid and too old; send it again, signed anew.",
    Reason.IN_FUTURE: "The signature is valid and from the future; set the sender's clock.",
}


class Unverified(InvalidSignature):
    """The signature is missing, malformed, wrong or not fresh."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_ADVICE[reason])
        self.reason = reason


class SourceUnknown(NotFound):
    """There is no such source; also said where there is no such workspace."""

    advice = "Check the address that the webhook is sent to: /hooks/{workspace}/{source}."


class MethodRefused(RequestError):
    """Webhooks are posted."""

    code = "method_not_allowed"
    status = 405
    title = "The method is not allowed"
    advice = "Send webhooks with POST."


class ContentRefused(RequestError):
    """Only JSON is taken, and only as it is."""

    code = "unsupported_content"
    status = 415
    title = "The content is not supported"
    advice = "Send JSON (Content-Type: application/json) without a Content-Encoding."


class SecretRefused(InvalidRequest):
    """The signing secret can't be one of the scheme's."""


class SourceUnusable(InternalError):
    """The stored signing secret does not open: the service's key file is not the one that it was sealed under."""

    executed = False
