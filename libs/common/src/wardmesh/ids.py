"""Identifiers: who and what, each a TypeID and each one valid NATS subject token.

An id is a prefix that says what it names and a UUIDv7 in 26 characters of Crockford's base 32
(`ws_01jq…`), after https://github.com/jetify-com/typeid, v0.3.

What always holds: a value of a class below has passed `parse`, so it contains no dot, no wildcard and no white
space, and may be put into a subject, a permission or a transaction's settings. Nothing else may: a workspace
"id" of `*` would otherwise become a subscription to every tenant.

On failure: `InvalidIdError`, a `ValueError`, which says what was expected and never repeats more than a few
characters of what came.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, NoReturn, Self, TypeAlias, TypeVar
from uuid import UUID

import uuid_utils
from pydantic import GetCoreSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, core_schema
from typeid import TypeID
from typeid.codecs import base32

_SUFFIX = r"[0-7][0-9a-hjkmnp-tv-z]{25}"
_SHOWN_CHARACTERS = 12
_CACHED_IDS = 16_384  # parsed ids recur with every request; a cache of a few MB saves a regex each


_IdT = TypeVar("_IdT", bound="Id")


class InvalidIdError(ValueError):
    """Something that is not an id stood where an id belongs."""


class Id(str):
    """An identifier of one kind. Construct with `parse` or `new`, never by calling the class."""

    __slots__ = ()
    prefix: ClassVar[str]
    recurs: ClassVar[bool] = True
    """Whether the same id comes again and again, so that remembering that it was checked is worth it."""
    _form: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls) -> None:
        cls._form = re.compile(f"{cls.prefix}_{_SUFFIX}")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return `text` as an id of this kind; raise `InvalidIdError` for anything else."""
        if not isinstance(text, str):
            _refuse(_like(cls), text)
        checked = _checked(cls, text) if cls.recurs else _check(cls, text)
        assert isinstance(checked, cls)  # noqa: S101 - what mypy cannot see through the cache
        return checked

    @classmethod
    def new(cls) -> Self:
        """Return a fresh id; ids made later sort later."""
        # What TypeID(prefix=…) does, without checking the prefix again: an id is made for every request and event.
        return cls(f"{cls.prefix}_{base32.encode(uuid_utils.uuid7().bytes)}")

    @classmethod
    def from_uuid(cls, uuid: UUID) -> Self:
        """Return the id of this kind that carries `uuid`."""
        return cls(str(TypeID.from_uuid(uuid_utils.UUID(bytes=uuid.bytes), prefix=cls.prefix)))

    @classmethod
    def nil(cls) -> Self:
        """Return the id of nobody: used where a subject needs a token and nobody is known yet."""
        return cls(f"{cls.prefix}_{'0' * 26}")

    @property
    def uuid(self) -> UUID:
        """The UUID inside."""
        return UUID(bytes=TypeID.from_string(str(self)).uuid_bytes)

    @property
    def is_nil(self) -> bool:
        return self == f"{self.prefix}_{'0' * 26}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        # What `parse` checks, by pydantic's own regular expression: half the time.
        checked = core_schema.custom_error_schema(
            core_schema.str_schema(strict=True, pattern=f"^{cls._form.pattern}$"),
            custom_error_type="id",
            custom_error_message=f"expected {_like(cls)}",
        )
        return core_schema.no_info_after_validator_function(
            cls,
            checked,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": f"^{cls._form.pattern}$",
            "examples": [f"{cls.prefix}_01h455vb4pex5vsknk084sn02q"],
        }


class OrgId(Id):
    """An organization: the customer, and the owner of workspaces."""

    prefix = "org"


class WorkspaceId(Id):
    """A workspace: the tenant that events, secrets and messages belong to."""

    prefix = "ws"


class UserId(Id):
    """A person."""

    prefix = "usr"


class AgentId(Id):
    """An AI agent of a workspace."""

    prefix = "agt"


class ServiceId(Id):
    """A customer's backend service (a service account)."""

    prefix = "svc"


class KeyId(Id):
    """An API key."""

    prefix = "key"


class SessionId(Id):
    """A login of a user, through all its refreshes."""

    prefix = "ses"


class TokenId(Id):
    """One access token (`jti`)."""

    prefix = "tok"
    recurs = False


class EventId(Id):
    """An event, of the domain or of the audit log."""

    prefix = "evt"
    recurs = False


class MessageId(Id):
    """A bridge message."""

    prefix = "msg"
    recurs = False


class AgreementId(Id):
    """An agreement between two workspaces to exchange messages."""

    prefix = "agr"


class RequestId(Id):
    """One call of one operation, through all its retries."""

    prefix = "req"
    recurs = False


Scope: TypeAlias = OrgId | WorkspaceId
Principal: TypeAlias = UserId | AgentId | ServiceId

_A_SCOPE = "the id of an organization (org_…) or a workspace (ws_…)"
_A_PRINCIPAL = "the id of a user (usr_…), an agent (agt_…) or a service account (svc_…)"
_SCOPES: dict[str, type[Scope]] = {kind.prefix: kind for kind in (OrgId, WorkspaceId)}
_PRINCIPALS: dict[str, type[Principal]] = {kind.prefix: kind for kind in (UserId, AgentId, ServiceId)}


def parse_scope(text: object) -> Scope:
    """Return `text` as an organization's or a workspace's id."""
    return _scope(text if isinstance(text, str) else _refuse(_A_SCOPE, text))


def parse_principal(text: object) -> Principal:
    """Return `text` as the id of somebody who can act: a user, an agent or a service account."""
    return _principal(text if isinstance(text, str) else _refuse(_A_PRINCIPAL, text))


ScopeField = Annotated[
    Scope,
    PlainValidator(parse_scope, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "format": "scope"}),
]
"""A scope as a field of a model."""
PrincipalField = Annotated[
    Principal,
    PlainValidator(parse_principal, json_schema_input_type=str),
    WithJsonSchema({"type": "string", "format": "principal"}),
]
"""A principal as a field of a model."""


def _one_of(kinds: dict[str, type[_IdT]], expected: str, text: str) -> _IdT:
    kind = kinds.get(text.partition("_")[0])
    return kind.parse(text) if kind is not None else _refuse(expected, text)


_scope = lru_cache(maxsize=_CACHED_IDS)(partial(_one_of, _SCOPES, _A_SCOPE))
_principal = lru_cache(maxsize=_CACHED_IDS)(partial(_one_of, _PRINCIPALS, _A_PRINCIPAL))


def _check(kind: type[Id], text: str) -> Id:
    if kind._form.fullmatch(text) is None:
        _refuse(_like(kind), text)
    return kind(text)


_checked = lru_cache(maxsize=_CACHED_IDS)(_check)


def _like(kind: type[Id]) -> str:
    return f"an id like {kind.prefix}_01h455vb4pex5vsknk084sn02q"


def _refuse(expected: str, text: object) -> NoReturn:
    raise InvalidIdError(f"expected {expected}, not {_shown(text)}")


def _shown(text: object) -> str:
    if not isinstance(text, str):
        return type(text).__name__
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
