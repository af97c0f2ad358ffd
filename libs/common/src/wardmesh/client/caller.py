"""A call: from a contract and a request to an answer or an error, through retries, renewals and reconnections.

What always holds: a call ends by its deadline, and never later than `MAX_DEADLINE`. It is sent again only if that is
safe (`retry.may_repeat`), under the same request id. An access token that expired on the way is renewed, and one that
was revoked is once.

On failure: one of `wardmesh.errors`, which carries the request id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, NamedTuple, ParamSpec, TypeVar

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from pydantic import ValidationError

from wardmesh.client.connection import Connection
from wardmesh.client.credentials import Credential, Grant
from wardmesh.client.grants import Grants
from wardmesh.client.link import Reply
from wardmesh.client.retry import delay, may_repeat
from wardmesh.contracts.auth import AccessToken
from wardmesh.contracts.operation import MAX_DEADLINE, AnyContract, Contract, Message
from wardmesh.contracts.operation import Credential as CarriesCredential
from wardmesh.crypto.errors import CryptoError
from wardmesh.errors import (
    CODE_HEADER,
    BodyTooLarge,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ScopeMismatch,
    TokenExpired,
    TokenRevoked,
    Undecryptable,
    WardmeshError,
    from_problem,
    violations_of,
)
from wardmesh.headers import AUTHORIZATION, DEADLINE_MS, REQUEST_ID
from wardmesh.ids import Principal, RequestId, Scope

P = ParamSpec("P")
RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
TokenT = TypeVar("TokenT", bound=AccessToken)

_LONGEST_SECONDS: Final = MAX_DEADLINE.total_seconds()
_SECOND: Final = 1.0
_MOST_RENEWALS: Final = 6
"""A call of thirty seconds on tokens of five (auth issues none shorter), and an end to it where clocks disagree."""
_PATIENCE: Final = 0.5
"""The part of the time left after which a safe call is sent again unanswered: its service may have died with it."""


class Answer(NamedTuple, Generic[ResponseT]):
    """What came back, and under which identity it was asked."""

    response: ResponseT
    request_id: RequestId
    grant: Grant | None

    def open(self, sealed: bytes, info: Sequence[bytes]) -> bytes:
        """Return what was sealed to the key of the access token that this was asked with."""
        if self.grant is None or self.grant.holder is None:
            raise Undecryptable(
                "The private key that the access token names is not here; connect with an API key, or give `holder`.",
                request_id=self.request_id,
            )
        try:
            return self.grant.holder.open(sealed, info)
        except CryptoError as error:
            raise Undecryptable(request_id=self.request_id) from error


class Caller:
    """Makes calls as one principal in one scope."""

    def __init__(
        self,
        connection: Connection,
        credential: Credential,
        *,
        jitter: Callable[[], float] = random.random,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self.principal: Final[Principal] = credential.principal
        self.scope: Final[Scope] = credential.scope
        self.grants: Final = Grants(credential, jitter=jitter)
        self._connection = connection
        self._jitter = jitter
        self._tracer = tracer or trace.get_tracer("wardmesh.client")
        self._subjects: dict[str, str] = {}

    async def call(
        self,
        contract: Contract[P, RequestT, ResponseT],
        request: RequestT | bytes,
        *,
        deadline: timedelta | None = None,
        request_id: RequestId | None = None,
        repeatable: bool | None = None,
    ) -> Answer[ResponseT]:
        """Make one call; `request` may be its body already.

        `repeatable` says that doing this very request twice amounts to doing it once (it carries an id of its own),
        where the contract cannot promise so for every request.
        """
        request_id = request_id or RequestId.new()
        body = request if isinstance(request, bytes) else request.model_dump_json().encode()
        attempts = _Attempts(
            contract,
            body,
            request_id,
            until=_now() + min((deadline or contract.deadline).total_seconds(), _LONGEST_SECONDS),
            deadline_is_known=deadline is None,
            repeatable=contract.idempotent if repeatable is None else repeatable,
        )
        span = self._tracer.start_span(contract.key, kind=SpanKind.CLIENT)
        if span.get_span_context().is_valid:
            return await self._traced(attempts, span)
        return await self._run(attempts, {})

    async def exchange(self, contract: Contract[..., RequestT, TokenT], request: RequestT) -> TokenT:
        """Get an access token. Repeating is safe also for a refresh token: its grace window is there for that."""
        return (await self.call(contract, request, repeatable=True)).response

    async def _traced(self, attempts: _Attempts[ResponseT], span: Span) -> Answer[ResponseT]:
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        if span.is_recording():
            span.set_attributes(
                {
                    "rpc.system": "nats",
                    "rpc.service": attempts.contract.service,
                    "rpc.method": attempts.contract.name,
                    "wardmesh.request_id": attempts.request_id,
                    "wardmesh.principal": self.principal,
                    "wardmesh.scope": self.scope,
                }
            )
        try:
            return await self._run(attempts, headers)
        except WardmeshError as error:
            span.set_attribute("error.type", error.code)
            span.set_status(StatusCode.ERROR, error.code)
            raise
        finally:
            span.end()

    async def _run(self, attempts: _Attempts[ResponseT], trace_headers: dict[str, str]) -> Answer[ResponseT]:
        if not attempts.contract.takes(self.scope):
            raise _named(ScopeMismatch(_asked_elsewhere(attempts.contract)), attempts.request_id)
        if len(attempts.body) > attempts.contract.max_body_bytes:
            raise _named(BodyTooLarge(), attempts.request_id)
        while True:
            try:
                return await self._attempt(attempts, trace_headers)
            except WardmeshError as error:
                pause = attempts.pause_after(error, self._jitter())
                if pause is None or self._connection.is_closed:
                    raise _named(error, attempts.request_id) from error.__cause__
            await asyncio.sleep(pause)

    async def _attempt(self, attempts: _Attempts[ResponseT], trace_headers: dict[str, str]) -> Answer[ResponseT]:
        contract = attempts.contract
        grant: Grant | None = None
        headers = {REQUEST_ID: attempts.request_id, **trace_headers}
        if not isinstance(contract.access, CarriesCredential):
            grant = self.grants.current
            if grant is None or grant is attempts.expired:
                grant = await self._renewed(attempts)
            attempts.grant = grant
            headers[AUTHORIZATION] = grant.bearer
        link = self._connection.current or await self._connection.link(attempts.until)
        left = attempts.until - _now()
        if left <= 0:
            raise DeadlineExceeded
        if attempts.must_tell_deadline:
            headers[DEADLINE_MS] = str(int(left * 1000))
        seconds = attempts.seconds_to_wait(left)
        reply = await link.request(self._subject(contract), attempts.body, headers, attempts.request_id, seconds)
        return Answer(_read(contract, reply), attempts.request_id, grant)

    async def _renewed(self, attempts: _Attempts[Any]) -> Grant:
        try:
            async with asyncio.timeout_at(attempts.until):
                return await self.grants.renewed(self.exchange, stale=attempts.expired)
        except TimeoutError as error:
            raise DeadlineExceeded("No access token could be got in time; the request was not sent.") from error

    def _subject(self, contract: AnyContract) -> str:
        subject = self._subjects.get(contract.key)
        if subject is None:
            subject = self._subjects[contract.key] = contract.subject(self.scope, self.principal)
        return subject


class _Attempts(Generic[ResponseT]):
    """One call's memory of its attempts."""

    __slots__ = (
        "_deadline_is_known", "_defects", "_renewals", "_tries",
        "body", "contract", "expired", "grant", "repeatable", "request_id", "until",
    )  # fmt: skip

    def __init__(
        self,
        contract: Contract[..., Any, ResponseT],
        body: bytes,
        request_id: RequestId,
        *,
        until: float,
        deadline_is_known: bool,
        repeatable: bool,
    ) -> None:
        self.contract = contract
        self.body = body
        self.request_id = request_id
        self.until = until
        self.repeatable = repeatable
        self.grant: Grant | None = None
        self.expired: Grant | None = None
        self._deadline_is_known = deadline_is_known
        self._tries = 0
        self._defects = 0
        self._renewals = 0

    @property
    def must_tell_deadline(self) -> bool:
        """Whether the service can't know from the contract how long the caller waits: a header saved is time saved."""
        return self._tries > 0 or not self._deadline_is_known

    def seconds_to_wait(self, left: float) -> float:
        """Return how long this attempt waits for its answer."""
        # A long poll is not hedged: what it takes off the queue would be answered to the attempt given up.
        return left * _PATIENCE if self.repeatable and not self._tries and not self.contract.is_long_poll else left

    def pause_after(self, error: WardmeshError, jitter: float) -> float | None:
        """Return the seconds before the next attempt, or None if `error` is the end."""
        self._tries += 1
        if isinstance(error, TokenExpired | TokenRevoked) and self.grant is not None:
            most = _MOST_RENEWALS if isinstance(error, TokenExpired) else 1
            if self._renewals >= most:
                return None
            self.expired = self.grant
            # A principal whose level was lowered has its tokens revoked, not its key: the next one says the new level.
            # It must be of a later second than the revocation.
            pause = (
                _SECOND if isinstance(error, TokenRevoked) else delay(self._tries, jitter) if self._renewals else 0.0
            )
            self._renewals += 1
            return pause
        self._defects += isinstance(error, InternalError)
        if not may_repeat(error, repeatable=self.repeatable, defects=self._defects):
            return None
        pause = delay(self._tries, jitter)
        if error.retry_after_seconds is not None:
            pause += error.retry_after_seconds
        return pause if _now() + pause < self.until else None


def _read(contract: Contract[..., Any, ResponseT], reply: Reply) -> ResponseT:
    if reply.headers is not None and (status := reply.headers.get(CODE_HEADER)) is not None:
        raise from_problem(reply.data, status=int(status) if status.isdecimal() else None)
    try:
        # A newer mesh may say more than this client knows of.
        return contract.response.model_validate_json(reply.data, extra="ignore")
    except ValidationError as error:
        raise InternalError("The answer does not fit the contract; client and mesh may differ in version.") from error


def invalid_request(error: ValidationError) -> InvalidRequest:
    """Return what a service would have answered to a request that its model refuses."""
    return InvalidRequest(violations=violations_of(error))


def _named(error: WardmeshError, request_id: RequestId) -> WardmeshError:
    error.request_id = error.request_id or request_id
    return error


def _asked_elsewhere(contract: AnyContract) -> str:
    kinds = " or ".join(sorted("an organization" if kind.name == "ORG" else "a workspace" for kind in contract.scopes))
    return f"{contract.key} is asked in {kinds}; connect with a scope of that kind."


def _now() -> float:
    return asyncio.get_running_loop().time()
