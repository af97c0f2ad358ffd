"""Subjects: the only place where one is taken apart or put together.

What always holds: an identity position (scope, principal, workspace) contains an id that has been parsed, every
other position a short lower-case word, so no part of a subject can bring in a dot or a wildcard. `parse` and
`format` are each other's inverse.

On failure: `InvalidSubjectError`, a `ValueError`, that names the position which was wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wardmesh.ids import InvalidIdError, Principal, Scope, WorkspaceId, parse_principal, parse_scope

SERVICES: Final = ("audit", "auth", "bridge", "secrets", "webhooks")

MAX_TYPE_TOKENS: Final = 8  # deeper types than `stripe.invoice.payment.failed` are names, not types
MAX_TOKEN_CHARACTERS: Final = 64

_WORD = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_TOKEN_CHARACTERS - 1}}}")
_CACHED_SUBJECTS = 16_384


UNKNOWN_OPERATION: Final = "unknown"
"""Stands for an operation that cannot be named; no contract has this name."""


class InvalidSubjectError(ValueError):
    """Something that is not one of wardmesh's subjects."""


@dataclass(frozen=True, slots=True)
class RpcSubject:
    """`rpc.{service}.{operation}.{scope}.{principal}`: a request."""

    service: str
    operation: str
    scope: Scope
    principal: Principal

    @classmethod
    def parse(cls, subject: str) -> RpcSubject:
        return _parse_rpc(subject)

    @classmethod
    def parse_caller(cls, subject: str, service: str) -> RpcSubject:
        """Return who asks, and where, on a subject whose operation is no word: a client may publish that too."""
        tokens = subject.split(".")
        if len(tokens) != 5:
            raise InvalidSubjectError("not of the form rpc.{service}.{operation}.{scope}.{principal}")
        return cls(service, UNKNOWN_OPERATION, _scope(tokens[3]), _principal(tokens[4]))

    def format(self) -> str:
        return f"rpc.{word('service', self.service)}.{word('operation', self.operation)}.{self.scope}.{self.principal}"

    @staticmethod
    def of_service(service: str) -> str:
        """What a service subscribes to: every operation of its own, from everybody."""
        return f"rpc.{word('service', service)}.*.*.*"


@dataclass(frozen=True, slots=True)
class EventSubject:
    """`evt.{workspace}.{source}.{type…}`: a domain event."""

    workspace: WorkspaceId
    source: str
    type: str

    @classmethod
    def parse(cls, subject: str) -> EventSubject:
        head, workspace, source, rest = _split(subject, 4, "evt.{workspace}.{source}.{type…}")
        _expect(head, "evt")
        return cls(_workspace(workspace), word("source", source), dotted("type", rest))

    def format(self) -> str:
        return f"evt.{self.workspace}.{word('source', self.source)}.{dotted('type', self.type)}"


@dataclass(frozen=True, slots=True)
class AuditSubject:
    """`audit.{scope}.{source}`: audit envelopes on their way to the log."""

    scope: Scope
    source: str

    @classmethod
    def parse(cls, subject: str) -> AuditSubject:
        head, scope, source = _split(subject, 3, "audit.{scope}.{source}")
        _expect(head, "audit")
        return cls(_scope(scope), word("source", source))

    def format(self) -> str:
        return f"audit.{self.scope}.{word('source', self.source)}"


@dataclass(frozen=True, slots=True)
class SealedSubject:
    """`sealed.{scope}`: entries that are in the log, with their index."""

    scope: Scope

    @classmethod
    def parse(cls, subject: str) -> SealedSubject:
        head, scope = _split(subject, 2, "sealed.{scope}")
        _expect(head, "sealed")
        return cls(_scope(scope))

    def format(self) -> str:
        return f"sealed.{self.scope}"


@dataclass(frozen=True, slots=True)
class DeadSubject:
    """`dead.audit.{scope}`: what a scope's log could not seal."""

    scope: Scope

    @classmethod
    def parse(cls, subject: str) -> DeadSubject:
        head, source, scope = _split(subject, 3, "dead.audit.{scope}")
        _expect(head, "dead")
        _expect(source, "audit")
        return cls(_scope(scope))

    def format(self) -> str:
        return f"dead.audit.{self.scope}"


@dataclass(frozen=True, slots=True)
class BridgeSubject:
    """`bridge.{source}.{target}.{type…}`: a bridge message as it was sent."""

    source: WorkspaceId
    target: WorkspaceId
    type: str

    @classmethod
    def parse(cls, subject: str) -> BridgeSubject:
        head, source, target, rest = _split(subject, 4, "bridge.{source}.{target}.{type…}")
        _expect(head, "bridge")
        return cls(_workspace(source), _workspace(target), dotted("type", rest))

    def format(self) -> str:
        return f"bridge.{self.source}.{self.target}.{dotted('type', self.type)}"


@dataclass(frozen=True, slots=True)
class InboxSubject:
    """`inbox.{target}.{source}.{type…}`: a bridge message, verified, for its receiver."""

    target: WorkspaceId
    source: WorkspaceId
    type: str

    @classmethod
    def parse(cls, subject: str) -> InboxSubject:
        head, target, source, rest = _split(subject, 4, "inbox.{target}.{source}.{type…}")
        _expect(head, "inbox")
        return cls(_workspace(target), _workspace(source), dotted("type", rest))

    def format(self) -> str:
        return f"inbox.{self.target}.{self.source}.{dotted('type', self.type)}"


def reply_inbox(principal: Principal) -> str:
    """Return the prefix of every reply subject that `principal` may name, without a final dot."""
    return f"_INBOX.{principal}"


def is_reply_of(principal: Principal, reply: str) -> bool:
    """Tell whether `reply` lies inside the inbox of `principal`, so that an answer can land nowhere else."""
    prefix = f"_INBOX.{principal}."
    return reply.startswith(prefix) and len(reply) > len(prefix) and "*" not in reply and ">" not in reply


def refusal_inbox(principal: Principal) -> str:
    """Return where a caller learns that the reply subject it named was refused."""
    return f"_INBOX.{principal}.refused"


def word(position: str, text: str) -> str:
    """Return `text` if it can be one token that names something; raise for anything else."""
    if _WORD.fullmatch(text) is None:
        raise InvalidSubjectError(
            f"{position}: use 1 to {MAX_TOKEN_CHARACTERS} of a-z, 0-9, _ and -, beginning with a letter or digit"
        )
    return text


def dotted(position: str, text: str) -> str:
    """Return `text` if it is one to eight such words joined by dots."""
    tokens = text.split(".", MAX_TYPE_TOKENS)
    if len(tokens) > MAX_TYPE_TOKENS:
        raise InvalidSubjectError(f"{position}: at most {MAX_TYPE_TOKENS} words joined by dots")
    for token in tokens:
        word(position, token)
    return text


@lru_cache(maxsize=_CACHED_SUBJECTS)
def _parse_rpc(subject: str) -> RpcSubject:
    head, service, operation, scope, principal = _split(subject, 5, "rpc.{service}.{operation}.{scope}.{principal}")
    _expect(head, "rpc")
    return RpcSubject(word("service", service), word("operation", operation), _scope(scope), _principal(principal))


def _split(subject: str, parts: int, form: str) -> list[str]:
    tokens = subject.split(".", parts - 1)
    if len(tokens) != parts:
        raise InvalidSubjectError(f"not of the form {form}")
    return tokens


def _expect(head: str, expected: str) -> None:
    if head != expected:
        raise InvalidSubjectError(f"begins with something other than {expected!r}")


def _scope(text: str) -> Scope:
    try:
        return parse_scope(text)
    except InvalidIdError as error:
        raise InvalidSubjectError(f"scope: {error}") from error


def _principal(text: str) -> Principal:
    try:
        return parse_principal(text)
    except InvalidIdError as error:
        raise InvalidSubjectError(f"principal: {error}") from error


def _workspace(text: str) -> WorkspaceId:
    try:
        return WorkspaceId.parse(text)
    except InvalidIdError as error:
        raise InvalidSubjectError(f"workspace: {error}") from error
