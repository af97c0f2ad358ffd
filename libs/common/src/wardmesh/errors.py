"""The errors that cross the wire: one taxonomy for NATS, HTTP and the client.

    WardmeshError
    ├── RequestError            the request is wrong; sending it again cannot help
    │   ├── MalformedJson · InvalidRequest · BodyTooLarge · UnknownOperation
    │   ├── NotFound (NotSealed, NothingToErase) · Conflict (UnderHold) · Undecryptable · InvalidSignature
    ├── AuthenticationError     who is asking is not established
    │   ├── TokenMissing · TokenInvalid · TokenExpired · TokenRevoked · CredentialRefused
    ├── RefusedError            it is established, and may not
    │   ├── ScopeMismatch · PermissionDenied · ReplySubjectRefused
    └── UnavailableError        nothing was wrong with the request; the same one may succeed later
        ├── RateLimited · Overloaded · ServiceUnavailable · AuditUnavailable · DeadlineExceeded · InternalError
        ├── OutcomeUnknown · ConnectionLost

An error becomes an RFC 9457 problem document (the body), and the ADR-32 headers `Nats-Service-Error-Code` (its
HTTP status) and `Nats-Service-Error` (its code). `from_problem` makes the same error of it on the other side.

What always holds: `detail` is a sentence for the caller that says what to do next. It never contains the text of
another exception, a secret, or another tenant's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from wardmesh.violations import MAX_VIOLATIONS as MAX_VIOLATIONS
from wardmesh.violations import Violation as Violation
from wardmesh.violations import violations_of as violations_of

PROBLEM_TYPE_PREFIX: Final = "urn:wardmesh:error:"
PROBLEM_CONTENT_TYPE: Final = "application/problem+json"
CODE_HEADER: Final = "Nats-Service-Error-Code"
ERROR_HEADER: Final = "Nats-Service-Error"


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    retry_after_seconds: float | None = None
    violations: tuple[Violation, ...] = ()


class WardmeshError(Exception):
    """Any failure that a caller may be told of."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    advice: ClassVar[str] = "Try again; if it persists, give the request id to your operator."
    retryable: ClassVar[bool] = False
    """Whether the same request, sent again, may succeed."""
    executed: ClassVar[bool] = False
    """Whether the operation may have been carried out all the same."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        self.detail = detail or self.advice
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds
        self.violations = violations
        super().__init__(self.detail)

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.detail}"]
        lines += [f"  {violation.pointer or '/'}: {violation.message}" for violation in self.violations]
        return "\n".join(lines)

    def to_problem(self, request_id: str | None = None) -> Problem:
        """Return the document that goes to the caller."""
        return Problem(
            type=PROBLEM_TYPE_PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id or self.request_id,
            retry_after_seconds=self.retry_after_seconds,
            violations=self.violations,
        )


class RequestError(WardmeshError):
    """The request is wrong; sending it again cannot help."""

    code = "request_error"
    status = 400
    title = "The request is wrong"
    advice = "Correct the request."


class MalformedJson(RequestError):
    """The body is not JSON."""

    code = "malformed_json"
    title = "The body is not JSON"
    advice = "Send a JSON object, encoded in UTF-8."


class InvalidRequest(RequestError):
    """The body is JSON, but not what the operation takes."""

    code = "invalid_request"
    status = 422
    title = "The request does not fit the operation"
    advice = "Correct the fields named in `violations`."


class BodyTooLarge(RequestError):
    """The body is over the operation's limit."""

    code = "body_too_large"
    status = 413
    title = "The body is too large"
    advice = "Send less at once."


class UnknownOperation(RequestError):
    """No contract has that service and operation."""

    code = "unknown_operation"
    status = 404
    title = "There is no such operation"
    advice = "Look up the service and the operation in the API pages; check the client's version."


class NotFound(RequestError):
    """What the request names does not exist, or not for this caller."""

    code = "not_found"
    status = 404
    title = "Not found"
    advice = "Check the name; what you may not see is not found either."


class NotSealed(NotFound):
    """The log has no entry of that event, or not yet, or not for this caller."""

    code = "not_sealed"
    title = "The log has no entry of that event"
    advice = "If it was emitted a moment ago, ask again: it is on disk and not sealed yet. Else check the event's id."


class NothingToErase(NotFound):
    """The log has nothing that names this person, or nothing any more."""

    code = "nothing_to_erase"
    title = "Nothing names this person"
    advice = "Check the user's id and the scope; what was erased once stays erased."


class Conflict(RequestError):
    """It exists already, or was changed meanwhile."""

    code = "conflict"
    status = 409
    title = "It conflicts with what is there"
    advice = "Read the present state and decide anew."


class UnderHold(Conflict):
    """A legal hold is in force: nothing of the log may become unreadable."""

    code = "under_hold"
    title = "A legal hold is in force"
    advice = "Whoever placed it has to lift it first: wardmesh audit hold list."


class InvalidSignature(RequestError):
    """A signature does not match what it stands under."""

    code = "invalid_signature"
    title = "The signature does not match"
    advice = "Sign exactly the bytes that you send, with the current key."


class Undecryptable(RequestError):
    """Something sealed could not be opened with the key and the context at hand."""

    code = "undecryptable"
    title = "It could not be opened"
    advice = "Seal it anew, to the current key, for this very request."


class AuthenticationError(WardmeshError):
    """Who is asking is not established."""

    code = "unauthenticated"
    status = 401
    title = "Not authenticated"
    advice = "Present a valid access token."


class TokenMissing(AuthenticationError):
    """No access token came with the request."""

    code = "token_missing"
    advice = "Send an access token in the Authorization header, as `Bearer …`."


class TokenInvalid(AuthenticationError):
    """The token is not one of ours: signature, issuer, audience or form."""

    code = "token_invalid"
    title = "The access token is not valid here"
    advice = "Get an access token from this mesh's auth service."


class TokenExpired(AuthenticationError):
    """The token was one of ours, once."""

    code = "token_expired"
    title = "The access token has expired"
    advice = "Get a new access token with your API key or refresh token."


class TokenRevoked(AuthenticationError):
    """The token, its key, its session or its principal was revoked."""

    code = "token_revoked"
    title = "The access token was revoked"
    advice = "Log in again or ask an administrator for a new key."


class CredentialRefused(AuthenticationError):
    """A password, API key or refresh token was wrong; which part is not said."""

    code = "credential_refused"
    title = "The credential was refused"
    advice = "Check the credential; it may be mistyped, expired or revoked."


class RefusedError(WardmeshError):
    """Who is asking is established, and may not."""

    code = "refused"
    status = 403
    title = "Refused"
    advice = "Ask an administrator of the workspace for the permission."


class ScopeMismatch(RefusedError):
    """The subject and the token speak of different scopes or principals."""

    code = "scope_mismatch"
    title = "The scope is not the token's"
    advice = "Use a token for the scope and principal that you ask as."


class PermissionDenied(RefusedError):
    """The caller lacks the permission that the operation needs."""

    code = "permission_denied"
    title = "Permission denied"


class ReplySubjectRefused(RefusedError):
    """The reply subject lies outside the caller's own inbox, so nothing is sent there."""

    code = "reply_subject_refused"
    title = "The reply subject is not the caller's"
    advice = "Name a reply subject inside your own inbox, _INBOX.{your principal}.…"


class UnavailableError(WardmeshError):
    """Nothing was wrong with the request; the same one may succeed later."""

    code = "unavailable"
    status = 503
    title = "Not available now"
    advice = "Try again shortly."
    retryable = True


class RateLimited(UnavailableError):
    """The caller's share is used up for the moment."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"
    advice = "Wait as long as `retry_after_seconds` says."


class Overloaded(UnavailableError):
    """The service has as much in hand as it may; the request was not begun."""

    code = "overloaded"
    title = "The service is busy"


class ServiceUnavailable(UnavailableError):
    """No instance of the service, or not one of the things it needs, is there; nothing was carried out."""

    code = "service_unavailable"
    title = "The service is not available"
    advice = "Try again shortly; `wardmesh status` shows what is down."


class AuditUnavailable(UnavailableError):
    """The audit log could not be written, so the operation was not carried out or its result is withheld."""

    code = "audit_unavailable"
    title = "The audit log is not available"
    advice = "Nothing is answered that was not recorded; try again shortly."
    executed = True


class DeadlineExceeded(UnavailableError):
    """The deadline passed; the operation may have been carried out."""

    code = "deadline_exceeded"
    status = 504
    title = "The deadline has passed"
    advice = "Allow more time, or ask whether it was carried out before you send it again."
    executed = True


class OutcomeUnknown(UnavailableError):
    """A service handed the change to its database or to the broker, and was not told what became of it."""

    code = "outcome_unknown"
    title = "It is not known whether it was carried out"
    advice = "Ask whether it was carried out before you send it again."
    executed = True


class ConnectionLost(UnavailableError):
    """The connection broke after the request was sent and before its answer came; a client says so, or the gateway."""

    code = "connection_lost"
    title = "The connection was lost"
    advice = "Ask whether it was carried out before you send it again."
    executed = True


class InternalError(UnavailableError):
    """A defect of ours; the log has it under the request id, the caller does not."""

    code = "internal_error"
    status = 500
    title = "An error on our side"
    advice = "Try again; if it persists, give the request id to your operator."
    executed = True


def _descendants(root: type[WardmeshError]) -> dict[str, type[WardmeshError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _descendants(child)
    return found


BY_CODE: Final[Mapping[str, type[WardmeshError]]] = _descendants(WardmeshError)


def from_problem(body: bytes, *, status: int | None = None) -> WardmeshError:
    """Return the error that a problem document describes; an unreadable one becomes `InternalError`."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return InternalError(f"The answer could not be read (status {status}).")
    kind = BY_CODE.get(problem.code) or _by_status(problem.status)
    return kind(
        problem.detail,
        request_id=problem.request_id,
        retry_after_seconds=problem.retry_after_seconds,
        violations=problem.violations,
    )


def _by_status(status: int) -> type[WardmeshError]:
    """What an error of a newer mesh, whose code is not known here, amounts to; never that nothing was carried out."""
    by_status: dict[int, type[WardmeshError]] = {
        401: AuthenticationError,
        403: RefusedError,
        429: RateLimited,
        503: OutcomeUnknown,
        504: DeadlineExceeded,
    }
    return by_status.get(status, RequestError if 400 <= status < 500 else InternalError)
