"""Operations, answered: every request of a service walks through the gates here, in one order, and is always answered.

    reply guard → token → rate limit → permission → schema → handler → audit → answer

What always holds:
- An answer, also one that refuses, goes only into the inbox of the principal that the request's subject names. The
  broker has made sure that only this principal could publish on that subject.
- A refusal leaves an audit event, as a success does; a success that could not be recorded is not answered as one.
- The number of requests in hand is bounded; one more is refused at once (`overloaded`), not queued.
- What a handler raises that is not a `WardmeshError` is our defect: it is logged under the request id, without its
  text, and the caller gets `internal_error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from wardmesh.contracts.audit import Outcome
from wardmesh.contracts.operation import (
    ANY_SCOPE,
    AnyContract,
    AuditRule,
    Category,
    Contract,
    Credential,
    Durability,
    Empty,
    Level,
    Message,
    Permission,
    operation,
)
from wardmesh.errors import (
    CODE_HEADER,
    ERROR_HEADER,
    AuditUnavailable,
    AuthenticationError,
    InternalError,
    Overloaded,
    RateLimited,
    RefusedError,
    ReplySubjectRefused,
    RequestError,
    UnknownOperation,
    WardmeshError,
)
from wardmesh.headers import CAME_FROM, REQUEST_ID
from wardmesh.ids import RequestId, Scope
from wardmesh.round_trip import heard
from wardmesh.server import gates, telemetry
from wardmesh.server.authenticator import Authenticator
from wardmesh.server.context import AuditOutbox, Call
from wardmesh.server.deadlines import Deadlines
from wardmesh.server.micro import QUEUE_GROUP, EndpointStats
from wardmesh.server.ratelimit import RateLimiter
from wardmesh.server.returns import Returns
from wardmesh.subjects import UNKNOWN_OPERATION, InvalidSubjectError, RpcSubject, is_reply_of, refusal_inbox

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
Handler = Callable[[Call, RequestT], Awaitable[ResponseT]]

REFUSED_RECORD_SECONDS: Final = 2.0
"""How long a refusal waits to be recorded before it is answered; it is answered in any case."""

HANDED_ON: Final = 8
"""Requests that are begun before the event loop has a turn. Those that arrive together would otherwise be answered
together, and while all of them are in hand here the callers and the broker wait: the work of three processes would
take turns instead of overlapping."""

_NOTHING: Final[Mapping[str, str]] = {}
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where audit events go that are not written in a transaction, each as it stands in an envelope."""

    async def emit(self, scope: Scope, records: list[bytes], *, trace_parent: str | None = None) -> None:
        """MUST NOT return before the events are durable."""

    async def enqueue(self, scope: Scope, record: bytes, *, trace_parent: str | None = None) -> None:
        """Take the event, waiting for room; it becomes durable soon."""


class _Bound:
    """A contract with its handler."""

    __slots__ = ("contract", "handler", "stats")

    def __init__(self, contract: AnyContract, handler: Handler[Any, Any]) -> None:
        self.contract = contract
        self.handler = handler
        self.stats = EndpointStats(contract.name, f"rpc.{contract.service}.{contract.name}.*.*")


class Operations:
    """The operations of one service: bind handlers, then `start`; `stop` lets what is in hand finish."""

    def __init__(
        self,
        service: str,
        authenticator: Authenticator,
        recorder: Recorder,
        *,
        outbox: AuditOutbox | None = None,
        limiter: RateLimiter | None = None,
        max_in_flight: int = 256,
        max_long_polls: int = 2_000,
    ) -> None:
        self.service = service
        self._authenticator = authenticator
        self._recorder = recorder
        self._outbox = outbox
        self._limiter = limiter
        self._max_in_flight = max_in_flight
        self._max_long_polls = max_long_polls
        self._bound: dict[str, _Bound] = {}
        self._unknown = EndpointStats(UNKNOWN_OPERATION, f"rpc.{service}.*.*.*")
        self._tasks: set[asyncio.Task[None]] = set()
        # Long polls wait for something to happen: they are bounded apart, so that readers cannot crowd out callers.
        self._polls: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines()
        self._begun = 0
        self._returns = Returns()
        self._client: Client | None = None
        self._tracing = True
        # Asked once: until Python 3.12 each `get_running_loop` is a system call, and a request would make five.
        self._loop: asyncio.AbstractEventLoop
        self._subscription: Any = None

    def bind(self, contract: Contract[..., RequestT, ResponseT], handler: Handler[RequestT, ResponseT]) -> None:
        """Answer `contract` with `handler`."""
        if contract.service != self.service:
            raise ValueError(f"{contract.key} is not an operation of {self.service}")
        if contract.name in self._bound:
            raise ValueError(f"{contract.key} is bound already")
        self._bound[contract.name] = _Bound(contract, handler)

    @property
    def bound(self) -> frozenset[str]:
        """The keys of the contracts that are answered."""
        return frozenset(item.contract.key for item in self._bound.values())

    def stats(self) -> list[EndpointStats]:
        return [*(item.stats for item in self._bound.values()), self._unknown]

    async def start(self, client: Client) -> None:
        """Begin to answer."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._tracing = telemetry.is_tracing()
        self._deadlines.start()
        await self._returns.start(client)
        self._subscription = await client.subscribe(
            RpcSubject.of_service(self.service), queue=QUEUE_GROUP, cb=self._receive
        )
        await heard(client)  # until then the broker says that nobody answers

    async def stop(self) -> None:
        """Take no more requests; return when those in hand are answered."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # the connection is gone, and the subscription with it
                await self._subscription.drain()
        while in_hand := self._tasks | self._polls:
            await asyncio.wait(in_hand)
        self._deadlines.stop()

    async def _receive(self, message: Msg) -> None:
        # nats-py waits for this before the next message, so it only starts the work.
        try:
            subject = self._subject_of(message)
        except InvalidSubjectError:
            # No client can publish here; whoever did is on our side of the broker.
            _log.error("a request on a subject that is none of ours")
            return
        bound = self._bound.get(subject.operation)
        if bound is not None and bound.contract.is_long_poll:
            tasks, bound_of_tasks = self._polls, self._max_long_polls
        else:
            tasks, bound_of_tasks = self._tasks, self._max_in_flight
        if len(tasks) >= bound_of_tasks:
            await self._overloaded(subject, message)
            return
        task = self._loop.create_task(self._serve(subject, bound, message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        self._begun += 1
        if self._begun % HANDED_ON == 0:
            await asyncio.sleep(0)  # these go on their way first

    def _subject_of(self, message: Msg) -> RpcSubject:
        try:
            return RpcSubject.parse(message.subject)
        except InvalidSubjectError:
            # The broker holds a client to its scope and its name, not to operations: what is no word is answered too.
            return RpcSubject.parse_caller(message.subject, self.service)

    async def _overloaded(self, subject: RpcSubject, message: Msg) -> None:
        # Not recorded: there is no time for it, and the caller will come again.
        if is_reply_of(subject.principal, message.reply):
            await self._answer_error(message.reply, Overloaded(), gates.request_id(message.headers or _NOTHING))

    async def _serve(self, subject: RpcSubject, bound: _Bound | None, message: Msg) -> None:
        started = time.perf_counter_ns()
        headers: Mapping[str, str] = message.headers or _NOTHING
        contract = _unknown_operation(self.service) if bound is None else bound.contract
        stats = self._unknown if bound is None else bound.stats
        request_id = gates.request_id(headers)
        with telemetry.server_span(contract.key, subject, request_id, headers, tracing=self._tracing) as span:
            call = Call(
                contract,
                scope=subject.scope,
                principal=subject.principal,
                request_id=request_id,
                ends_at=self._loop.time() + gates.seconds_allowed(contract, headers),
                trace_id=span.trace_id,
                outbox=self._outbox,
            )
            if (statement := headers.get(CAME_FROM)) is not None:
                call.came_from(self._authenticator.origin(statement, subject.principal, request_id))
            failure: WardmeshError | None = None
            try:
                gates.check_reply(subject, message.reply)
                answer = await self._walk(call, bound, subject, headers, message.data)
            except WardmeshError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller is answered
                _log_defect(contract, error)
                failure = InternalError()
            else:
                hand_back = call.hand_back
                await self._send(
                    message.reply, answer, None, "" if hand_back is None else self._returns.expect(hand_back)
                )
            if failure is not None:
                reply = refusal_inbox(subject.principal) if isinstance(failure, ReplySubjectRefused) else message.reply
                await self._record_failure(call, failure)
                await self._answer_error(reply, failure, request_id)
                span.fail(failure.code)
                stats.errors += 1
                stats.last_error = failure.code
            elapsed = time.perf_counter_ns() - started
            stats.requests += 1
            stats.processing_nanoseconds += elapsed
            telemetry.record_call(contract.key, "ok" if failure is None else failure.code, elapsed)

    async def _walk(
        self, call: Call, bound: _Bound | None, subject: RpcSubject, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        """Pass every gate and the handler; return the answer's body or raise what refused it."""
        contract = call.contract
        if isinstance(contract.access, Credential):
            self._limit(subject)
            gates.check_scope_kind(contract, subject)
        else:
            caller = self._authenticator.authenticate(gates.bearer_token(headers))
            gates.check_identity(subject, caller)
            self._limit(subject)
            call.admit(caller)
            if bound is None:
                raise UnknownOperation(
                    f"The service {self.service} has no such operation; its API page lists what it has."
                )
            gates.check_scope_kind(contract, subject)
            gates.check_permission(contract, caller)
        assert bound is not None  # noqa: S101 - an unknown operation is no Credential operation
        request = gates.read_request(contract, body)
        call.name_targets(request)
        with self._deadlines.until(call.ends_at):
            response = await bound.handler(call, request)
            await self._record_success(call)
        answer: bytes = response.__pydantic_serializer__.to_json(response)
        return answer

    def _limit(self, subject: RpcSubject) -> None:
        if self._limiter is not None:
            self._limiter.take(subject.principal, self._loop.time())

    async def _record_success(self, call: Call) -> None:
        durability = call.contract.audit.durability
        if durability is Durability.REFUSALS_ONLY or call.recorded:
            return
        record = call.audit_record(Outcome.SUCCESS, None)
        if durability is Durability.QUEUED:
            await self._recorder.enqueue(call.audit_scope, record, trace_parent=call.trace_parent())
        else:
            await self._recorder.emit(call.audit_scope, [record], trace_parent=call.trace_parent())

    async def _record_failure(self, call: Call, error: WardmeshError) -> None:
        """Record what was refused or failed. If that fails too, the caller is answered all the same."""
        if isinstance(error, AuditUnavailable):
            return  # there is nowhere to write it
        refused = isinstance(error, AuthenticationError | RefusedError | RequestError | RateLimited)
        record = call.audit_record(Outcome.REFUSED if refused else Outcome.FAILED, error.code)
        try:
            async with asyncio.timeout(REFUSED_RECORD_SECONDS):
                await self._recorder.emit(call.audit_scope, [record], trace_parent=call.trace_parent())
        except (AuditUnavailable, TimeoutError):
            _log.error("a refusal could not be recorded: %s %s", call.contract.key, error.code)
        _log.info("not carried out", extra={"code": error.code})

    async def _answer_error(self, reply: str, error: WardmeshError, request_id: RequestId) -> None:
        body = error.to_problem(request_id).model_dump_json(exclude_none=True).encode()
        headers = {CODE_HEADER: str(error.status), ERROR_HEADER: error.code, REQUEST_ID: request_id}
        await self._send(reply, body, headers)

    async def _send(self, reply: str, body: bytes, headers: dict[str, str] | None, unheard: str = "") -> None:
        if self._client is None:
            return
        try:
            await self._client.publish(reply, body, reply=unheard, headers=headers)
        except (nats.errors.Error, OSError) as error:
            _log.warning("an answer could not be sent: %s", type(error).__name__)


def _log_defect(contract: AnyContract, error: Exception) -> None:
    # Where it happened, without the exception's text: that may quote what was sent.
    frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__, limit=-8)]
    _log.error(
        "defect in a handler",
        extra={
            "operation": contract.key,
            "error_type": type(error).__name__,
            "frames": frames,
        },
    )


@lru_cache
def _unknown_operation(service: str) -> AnyContract:
    """Stand in for the contract of a request that names none, so that its refusal is recorded like any other."""
    return operation(
        service,
        UNKNOWN_OPERATION,
        Empty,
        Empty,
        summary="Not an operation",
        access=Permission("unknown.call", Level.OWNER),
        scopes=ANY_SCOPE,
        audit=AuditRule(Category.AUTHORIZATION, "operation.unknown", Durability.BEFORE_ANSWER),
        idempotent=True,
    )
