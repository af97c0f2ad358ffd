"""The gates that every operation passes, as pure decisions. `operations` walks a request through them in this order:

    reply guard → token → rate limit → permission → schema → handler → audit → answer

What always holds: each gate either returns or raises an error of `wardmesh.errors`; none decides by what it could
not find out. A gate that errs refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from wardmesh.contracts.access import is_allowed
from wardmesh.contracts.operation import MAX_DEADLINE, AnyContract, Contract, Message
from wardmesh.errors import (
    BodyTooLarge,
    InvalidRequest,
    MalformedJson,
    PermissionDenied,
    ReplySubjectRefused,
    ScopeMismatch,
    TokenInvalid,
    TokenMissing,
    violations_of,
)
from wardmesh.headers import AUTHORIZATION, DEADLINE_MS, REQUEST_ID
from wardmesh.ids import InvalidIdError, RequestId
from wardmesh.server.tokens import Caller
from wardmesh.subjects import RpcSubject, is_reply_of

RequestT = TypeVar("RequestT", bound=Message)


def check_reply(subject: RpcSubject, reply: str) -> None:
    """Reply guard: an answer may land in the caller's own inbox only."""
    if not is_reply_of(subject.principal, reply):
        raise ReplySubjectRefused


def bearer_token(headers: Mapping[str, str]) -> str:
    """Return the access token that came with a request."""
    value = headers.get(AUTHORIZATION)
    if not value:
        raise TokenMissing
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenInvalid("The Authorization header is not of the form `Bearer …`.")
    return token


def check_identity(subject: RpcSubject, caller: Caller) -> None:
    """The token and the subject must speak of the same principal in the same scope."""
    if caller.principal != subject.principal or caller.scope != subject.scope:
        raise ScopeMismatch


def check_scope_kind(contract: AnyContract, subject: RpcSubject) -> None:
    """An operation of workspaces is not asked in an organization's scope, nor the other way round."""
    if not contract.takes(subject.scope):
        expected = " or ".join(sorted(kind.value.prefix for kind in contract.scopes))
        raise ScopeMismatch(f"{contract.key} is asked in a scope of kind {expected}; use a token for one.")


def check_permission(contract: AnyContract, caller: Caller) -> None:
    """The caller must hold the permission that the contract names."""
    if not is_allowed(contract.access, caller.permissions, caller.principal):
        name = getattr(contract.access, "name", "")
        raise PermissionDenied(f"{contract.key} needs the permission {name}; ask an administrator of the scope for it.")


def read_request(contract: Contract[..., RequestT, Any], body: bytes) -> RequestT:
    """Schema: return the body as the contract's request model."""
    if len(body) > contract.max_body_bytes:
        raise BodyTooLarge(f"{contract.key} takes at most {contract.max_body_bytes} bytes; send less at once.")
    try:
        return contract.request.model_validate_json(body or b"{}")
    except ValidationError as error:
        # The same exception stands for text that is no JSON and for JSON that does not fit.
        if any(item["type"] == "json_invalid" for item in error.errors(include_url=False, include_input=False)):
            raise MalformedJson from None
        raise InvalidRequest(violations=violations_of(error)) from None


def request_id(headers: Mapping[str, str]) -> RequestId:
    """Return the caller's request id, or a new one if it sent none that is one."""
    text = headers.get(REQUEST_ID)
    if text is not None:
        try:
            return RequestId.parse(text)
        except InvalidIdError:
            pass  # an id is for finding things again; a bad one is not worth refusing a request for
    return RequestId.new()


def seconds_allowed(contract: AnyContract, headers: Mapping[str, str]) -> float:
    """Return how long the request may take: what the caller still waits, at most `MAX_DEADLINE`."""
    text = headers.get(DEADLINE_MS, "")
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return contract.deadline.total_seconds()
    return min(int(text) / 1000, MAX_DEADLINE.total_seconds())
