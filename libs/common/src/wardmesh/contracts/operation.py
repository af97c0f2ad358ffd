"""How an operation is declared: once, here, for every place that speaks of it.

A `Contract` names an operation, its request and response models, the permission that it needs, the scopes that it
is asked in and the audit event that it leaves. The client's method, the NATS endpoint, the HTTP route, the OpenAPI
page, the gates and the role-matrix test are all made from it.

What always holds: a contract has a permission. There is no default and no `None`; an operation that carries its own
credential (a login) says so with `Credential`, and why.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from wardmesh.ids import OrgId, Scope, WorkspaceId
from wardmesh.subjects import SERVICES, RpcSubject, word

P = ParamSpec("P")
RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")

MAX_DEADLINE: Final = timedelta(seconds=30)
"""No call waits longer than this, whatever it asks for."""
DEFAULT_DEADLINE: Final = timedelta(seconds=10)
DEFAULT_MAX_BODY_BYTES: Final = 64 * 1024
"""Enough for any command; what carries values or batches says more."""


class Message(BaseModel):
    """A model that crosses the wire: unknown fields are errors, values do not change."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


class Empty(Message):
    """Nothing to say."""


class Level(enum.IntEnum):
    """How much somebody may do in a scope; each level may do what the lower ones may.

    `RESTRICTED` may do nothing but what its token lists in `scope`: the level of agents with narrow keys.
    """

    RESTRICTED = 0
    VIEWER = 1
    MEMBER = 2
    OPERATOR = 3
    ADMIN = 4
    OWNER = 5

    @property
    def label(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, label: str) -> Level:
        """Return the level of that name; raise `ValueError` if there is none."""
        try:
            return cls[label.upper()]
        except KeyError:
            raise ValueError(f"level: one of {', '.join(level.label for level in cls)}") from None


PEOPLE_AND_SERVICES: Final = frozenset({"usr", "svc"})
"""Who may change who may do what, and the like; never an agent, whatever it was granted."""


@dataclass(frozen=True, slots=True)
class Permission:
    """The right to do one thing: `resource.action`, held by everybody from `level` upwards, or by grant."""

    name: str
    level: Level
    kinds: frozenset[str] = frozenset({"usr", "agt", "svc"})
    """The kinds of principal (prefixes of their ids) that may hold it at all."""

    def __post_init__(self) -> None:
        for part in self.name.split("."):
            word("permission", part)
        if self.name.count(".") != 1:
            raise ValueError(f"permission {self.name!r}: name it resource.action")
        if self.level is Level.RESTRICTED:
            raise ValueError(f"permission {self.name!r}: what everybody may do needs no permission; say `viewer`")


@dataclass(frozen=True, slots=True)
class Credential:
    """Instead of a permission: the request itself carries what proves who is asking."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("say which credential the request carries")


Access: TypeAlias = Permission | Credential


class ScopeKind(enum.Enum):
    """What an operation is asked in."""

    ORG = OrgId
    WORKSPACE = WorkspaceId


ORG: Final = frozenset({ScopeKind.ORG})
WORKSPACE: Final = frozenset({ScopeKind.WORKSPACE})
ANY_SCOPE: Final = ORG | WORKSPACE


class Category(enum.StrEnum):
    """What an audit event is about."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    ADMINISTRATION = "administration"
    SECRET_ACCESS = "secret_access"  # noqa: S105 - a category
    BRIDGE = "bridge"
    WEBHOOK = "webhook"
    MODEL_USAGE = "model_usage"
    ACTION_EXECUTION = "action_execution"
    TOOL_CALL = "tool_call"
    DATA_SYNC = "data_sync"
    PRIVILEGED_ACCESS = "privileged_access"
    CONFIGURATION = "configuration"


class Durability(enum.Enum):
    """When the audit event of a success is safe."""

    IN_TRANSACTION = enum.auto()
    """Committed with what was done (outbox): for operations that change state."""
    BEFORE_ANSWER = enum.auto()
    """Acknowledged by JetStream before the answer leaves: for reads that must not go unrecorded."""
    QUEUED = enum.auto()
    """Handed to the publisher, whose queue is bounded and drains on stop: for reads of little weight."""
    REFUSALS_ONLY = enum.auto()
    """Only refusals and failures leave one: for what writes audit events itself, and for long polls, whose every
    round would otherwise wake the tail that it feeds."""


@dataclass(frozen=True, slots=True)
class AuditRule:
    """The audit event that an operation leaves."""

    category: Category
    action: str
    """What was done, `resource.verb`."""
    durability: Durability
    targets: tuple[str, ...] = ()
    """Names of the request's fields that say what it was done to. Never a field that holds a secret."""


@dataclass(frozen=True, kw_only=True)
class Contract(Generic[P, RequestT, ResponseT]):
    """One operation, declared."""

    service: str
    name: str
    summary: str
    arguments: Callable[P, RequestT] = field(repr=False)
    """The request's model, as a callable: it lends its keyword arguments to the client's method."""
    response: type[ResponseT]
    access: Access
    scopes: frozenset[ScopeKind]
    audit: AuditRule
    idempotent: bool
    """Whether doing it twice amounts to doing it once, so that a client may send it again blindly."""
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    deadline: timedelta = DEFAULT_DEADLINE

    def __post_init__(self) -> None:
        if self.service not in SERVICES:
            raise ValueError(f"contract {self.service}.{self.name}: no such service")
        word("operation", self.name)
        if not (isinstance(self.arguments, type) and issubclass(self.arguments, Message)):
            raise TypeError(f"contract {self.key}: the request is the class of a Message")
        if not isinstance(self.access, Permission | Credential):
            raise TypeError(f"contract {self.key}: declare a permission")
        if not self.scopes:
            raise ValueError(f"contract {self.key}: declare the scopes that it is asked in")
        if not timedelta(0) < self.deadline <= MAX_DEADLINE:
            raise ValueError(f"contract {self.key}: the deadline is at most {MAX_DEADLINE}")
        unknown = set(self.audit.targets) - set(self.request.model_fields)
        if unknown:
            raise ValueError(f"contract {self.key}: audit targets {sorted(unknown)} are not fields of the request")

    @property
    def request(self) -> type[RequestT]:
        """The request's model, as a class."""
        return cast("type[RequestT]", self.arguments)

    @cached_property
    def key(self) -> str:
        """`service.operation`, unique among contracts."""
        return f"{self.service}.{self.name}"

    @cached_property
    def is_long_poll(self) -> bool:
        """Whether a request may wait for something to happen, and says how long."""
        return "wait_seconds" in self.request.model_fields

    def subject(self, scope: Scope, principal: Any) -> str:
        return RpcSubject(self.service, self.name, scope, principal).format()

    @cached_property
    def _scope_types(self) -> tuple[type, ...]:
        return tuple(kind.value for kind in self.scopes)

    def takes(self, scope: Scope) -> bool:
        """Tell whether the operation is asked in scopes of this kind."""
        return isinstance(scope, self._scope_types)


AnyContract: TypeAlias = Contract[..., Any, Any]


def operation(
    service: str,
    name: str,
    request: Callable[P, RequestT],
    response: type[ResponseT],
    *,
    summary: str,
    access: Access,
    scopes: frozenset[ScopeKind],
    audit: AuditRule,
    idempotent: bool,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    deadline: timedelta = DEFAULT_DEADLINE,
) -> Contract[P, RequestT, ResponseT]:
    """Declare an operation. `request` is its model's class."""
    return Contract(
        service=service,
        name=name,
        summary=summary,
        arguments=request,
        response=response,
        access=access,
        scopes=scopes,
        audit=audit,
        idempotent=idempotent,
        max_body_bytes=max_body_bytes,
        deadline=deadline,
    )


def index(*groups: tuple[AnyContract, ...]) -> Mapping[str, AnyContract]:
    """Return contracts by key; raise if two share one."""
    found: dict[str, AnyContract] = {}
    for contract in (contract for group in groups for contract in group):
        if found.setdefault(contract.key, contract) is not contract:
            raise ValueError(f"contract {contract.key} is declared twice")
    return found
