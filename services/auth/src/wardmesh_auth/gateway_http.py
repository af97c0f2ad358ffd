"""The HTTP door: `POST /v1/{scope}/{service}/{operation}` for every contract, and the pages about it.

What always holds:
- The door decides nothing about who may do what. It takes the principal from the token unread, only to form the
  subject; the service's gates verify that the two agree, and record what they refuse.
- What can't be forwarded (no token, no such service, a body over the limit) is refused here, with the same problem
  documents, and recorded too.
- An operation that carries its own credential is asked as nobody (`usr_000…`), and one address may ask so often.

On failure: an RFC 9457 problem document, always.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wardmesh.contracts import ALL
from wardmesh.contracts.audit import AuditEvent, Outcome
from wardmesh.contracts.operation import AnyContract, Category, Credential
from wardmesh.crypto.encoding import base64url_decode
from wardmesh.crypto.errors import MalformedEncoding
from wardmesh.errors import (
    InternalError,
    InvalidRequest,
    MalformedJson,
    RequestError,
    TokenInvalid,
    UnknownOperation,
    Violation,
    WardmeshError,
)
from wardmesh.headers import AUTHORIZATION, CAME_FROM, DEADLINE_MS, REQUEST_ID, TRACE_PARENT
from wardmesh.ids import EventId, OrgId, Principal, RequestId, Scope, UserId, parse_principal, parse_scope
from wardmesh.server import gates, telemetry
from wardmesh.server.http import SecurityHeaders, problem_response, read_body
from wardmesh.server.origin import MAX_ADDRESS_CHARACTERS, MAX_USER_AGENT_CHARACTERS, Origin
from wardmesh.server.ratelimit import RateLimiter
from wardmesh.server.tokens import MAX_TOKEN_CHARACTERS
from wardmesh.subjects import SERVICES, InvalidSubjectError, RpcSubject, word
from wardmesh_auth.admission import AuditQueue
from wardmesh_auth.gateway import Gateway

NO_SCOPE: Final = "-"
"""In the path, where an operation that carries its own credential needs no scope."""
JSON_TYPE: Final = "application/json"
JWKS_MAX_AGE_SECONDS: Final = 60
IPV6_CUSTOMER_PREFIX: Final = 64
"""Whoever has one IPv6 address has a /64 of them."""

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("wardmesh.gateway")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be forwarded."""

    subject: RpcSubject
    contract: AnyContract | None
    """None for an operation that its service does not have; the service says so, to who may know."""
    headers: Mapping[str, str]
    origin: Origin
    seconds: float


class Door:
    """The endpoints. `gateway` forwards; the rest is what they need to refuse by themselves."""

    def __init__(
        self,
        gateway: Gateway,
        audit: AuditQueue,
        *,
        limiter: RateLimiter,
        monotonic: Callable[[], float],
        state_origin: Callable[[Principal, RequestId, Origin], str],
        jwks: Callable[[], list[dict[str, str]]],
        openapi: Mapping[str, Any],
    ) -> None:
        self.gateway = gateway
        self._audit = audit
        self._limiter = limiter
        self._monotonic = monotonic
        self._state_origin = state_origin
        self._jwks = jwks
        self._openapi = openapi

    async def call(self, request: Request) -> Response:
        """Forward one operation."""
        return await self.guarded(request, self._call)

    async def _call(self, request: Request, request_id: RequestId) -> Response:
        path = request.path_params
        asked = self.asked(request, path["service"], path["operation"])
        body = await read_body(request, _body_limit(asked.contract))
        _check_content_type(request, body)
        headers = self.headers(asked, request_id)
        answer = await self.gateway.forward(asked.subject, body, headers, seconds=asked.seconds)
        return Response(answer.body, media_type=JSON_TYPE)

    async def keys(self, _request: Request) -> Response:
        """The public keys that access tokens are signed with."""
        headers = {"cache-control": f"public, max-age={JWKS_MAX_AGE_SECONDS}"}
        return Response(json.dumps({"keys": self._jwks()}), media_type="application/jwk-set+json", headers=headers)

    async def describe(self, _request: Request) -> Response:
        return JSONResponse(self._openapi)

    def headers(self, asked: Asked, request_id: RequestId) -> dict[str, str]:
        """Return what goes with one request: its id, and our word for where it came from."""
        statement = self._state_origin(asked.subject.principal, request_id, asked.origin)
        return {**asked.headers, REQUEST_ID: str(request_id), CAME_FROM: statement}

    def asked(self, request: Request, service: str, operation: str, *, limiter: RateLimiter | None = None) -> Asked:
        """Return what to forward; raise what can be refused without asking anybody.

        `limiter` counts what carries its own credential in another share than logins have.
        """
        if service not in SERVICES:
            raise UnknownOperation
        contract = ALL.get(f"{service}.{operation}")
        headers: dict[str, str] = {}
        principal: Principal
        if contract is not None and isinstance(contract.access, Credential):
            (limiter or self._limiter).take(_sender(request), self._monotonic())
            principal, scope = UserId.nil(), _scope(request.path_params.get("scope", NO_SCOPE), default=OrgId.nil())
        else:
            token = gates.bearer_token(_authorization(request))
            principal, scope = _claimed_principal(token), _scope(request.path_params["scope"], default=None)
            headers[AUTHORIZATION] = f"Bearer {token}"
        trace_parent = telemetry.trace_parent()
        if trace_parent is not None:
            headers[TRACE_PARENT] = trace_parent
        try:
            subject = RpcSubject(service, word("operation", operation), scope, principal)
        except InvalidSubjectError:
            raise UnknownOperation from None
        return Asked(subject, contract, headers, _origin(request), _seconds(request, contract))

    async def guarded(
        self, request: Request, endpoint: Callable[[Request, RequestId], Awaitable[Response]]
    ) -> Response:
        """Run an endpoint inside the caller's trace; whatever it raises becomes a problem document."""
        request_id = gates.request_id(_named(request, REQUEST_ID))
        parent = propagate.extract(request.headers) if TRACE_PARENT in request.headers else None
        with _tracer.start_as_current_span(
            f"{request.method} /v1", context=parent, kind=SpanKind.SERVER, record_exception=False
        ) as span:
            span.set_attribute("http.request.method", request.method)
            span.set_attribute("wardmesh.request_id", request_id)
            try:
                response = await endpoint(request, request_id)
            except WardmeshError as error:
                response = problem_response(error, request_id)
                span.set_status(Status(StatusCode.ERROR, error.code))
                if error.request_id is None:  # not a service's, which would have recorded it
                    await self._record(request, request_id, error)
            except Exception as error:  # noqa: BLE001 - nothing but problem documents leaves the door
                _log.error("defect in the gateway", extra={"error_type": type(error).__name__})
                response = problem_response(InternalError(), request_id)
                span.set_status(Status(StatusCode.ERROR, InternalError.code))
            span.set_attribute("http.response.status_code", response.status_code)
        response.headers[REQUEST_ID] = request_id
        return response

    async def _record(self, request: Request, request_id: RequestId, error: WardmeshError) -> None:
        refused = error.status < 500
        # What was asked for, if there is such a thing: the rest of a path is somebody's words.
        operation = f"{request.path_params.get('service')}.{request.path_params.get('operation')}"
        event = AuditEvent(
            id=EventId.new(),
            occurred_at=datetime.now(UTC),
            category=Category.AUTHORIZATION,
            action="gateway.request",
            outcome=Outcome.REFUSED if refused else Outcome.FAILED,
            actor=UserId.nil(),  # whoever it says it is, nobody has verified
            reason=error.code,
            request_id=request_id,
            source_address=_origin(request).address,
            user_agent=_origin(request).user_agent,
            details={"operation": operation} if operation in ALL else {},
        )
        try:
            await self._audit.enqueue(OrgId.nil(), event)
        except WardmeshError:
            _log.error("a refusal could not be recorded: gateway.request %s", error.code)


def application(door: Door, streams: list[Route]) -> Starlette:
    """Return the HTTP application."""
    return Starlette(
        routes=[
            *streams,
            Route("/v1/{scope}/{service}/{operation}", door.call, methods=["POST"]),
            Route("/.well-known/jwks.json", door.keys, methods=["GET"]),
            Route("/openapi.json", door.describe, methods=["GET"]),
        ],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _no_such_page},
    )


async def _no_such_page(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        response = problem_response(MethodNotAllowed())
        response.headers.update(error.headers or {})
        return response
    return problem_response(UnknownOperation("There is nothing here; /openapi.json lists what there is."))


class MethodNotAllowed(RequestError):
    """The page exists, and is asked for in another way."""

    code = "method_not_allowed"
    status = 405
    title = "The method is not allowed here"
    advice = "Operations are asked with POST; /openapi.json says how."


def _body_limit(contract: AnyContract | None) -> int:
    return max(item.max_body_bytes for item in ALL.values()) if contract is None else contract.max_body_bytes


def _check_content_type(request: Request, body: bytes) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and content_type != JSON_TYPE:
        raise MalformedJson(f"Send the body as {JSON_TYPE}, encoded in UTF-8.")


def _scope(text: str, *, default: Scope | None) -> Scope:
    if text == NO_SCOPE and default is not None:
        return default
    try:
        return parse_scope(text)
    except ValueError:
        message = "expected the id of an organization (org_…) or a workspace (ws_…)"
        raise InvalidRequest(violations=(Violation(pointer="/path/scope", message=message),)) from None


def _claimed_principal(token: str) -> Principal:
    """Return whom a token speaks for, by its own word. Good for forming a subject and nothing else."""
    if not (token.isascii() and token.isprintable()) or len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenInvalid
    try:
        _header, payload, _signature = token.split(".")
        claims = json.loads(base64url_decode(payload))
        return parse_principal(claims["sub"])
    except (ValueError, KeyError, TypeError, MalformedEncoding, RecursionError):
        raise TokenInvalid from None


def _seconds(request: Request, contract: AnyContract | None) -> float:
    known = next(iter(ALL.values())) if contract is None else contract
    return gates.seconds_allowed(known, _named(request, DEADLINE_MS))


def _named(request: Request, name: str) -> Mapping[str, str]:
    """Return one header, under the name that the gates know it by: HTTP's names have no case."""
    value = request.headers.get(name)
    return {} if value is None else {name: value}


def _authorization(request: Request) -> Mapping[str, str]:
    return _named(request, AUTHORIZATION)


def _address(request: Request) -> str | None:
    return None if request.client is None else request.client.host[:MAX_ADDRESS_CHARACTERS]


def _origin(request: Request) -> Origin:
    user_agent = request.headers.get("user-agent", "")[:MAX_USER_AGENT_CHARACTERS] or None
    return Origin(address=_address(request), user_agent=user_agent)


def _sender(request: Request) -> str:
    """Return whom a share is counted for: an IPv4 address, or an IPv6 customer."""
    address = _address(request) or ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_CUSTOMER_PREFIX), strict=False))
    return address
